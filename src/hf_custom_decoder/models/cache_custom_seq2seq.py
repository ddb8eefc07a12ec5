"""
Decoding state of our encoder-decoder models.

Legend: B source rows, R decoder rows (B times the beams), S source length.
"""

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, DynamicCache, DynamicLayer, EncoderDecoderCache, StaticCache

from .cache_recurrent_layer import check_recurrent_layers, with_recurrent_layers


def rows_of(sources: torch.Tensor, rows_per_source: int) -> torch.Tensor:
    """Numbers of the decoder rows that read these sources, where those of a source stand together."""
    return (sources[:, None] * rows_per_source + torch.arange(rows_per_source, device=sources.device)).flatten()


class CustomSeq2SeqCache(EncoderDecoderCache):
    """
    An `EncoderDecoderCache` whose cross-attention part may serve several decoder rows with one source row.

    The self-attention part is that of the decoder's layer types. The cross-attention part is full attention whatever
    the layer types are, is written once, and holds B rows; `source_index` says which of them each of the R decoder
    rows reads. It is `None` where row r reads source r. Reordering, selecting and repeating rows move the
    self-attention part and `source_index`; the cross-attention part stays where it is.

    Args:
        self_attention_cache (`Cache`): Empty or filled.
        cross_attention_cache (`Cache`): Empty or filled.
    """

    def __init__(self, self_attention_cache: Cache, cross_attention_cache: Cache) -> None:
        super().__init__(self_attention_cache, cross_attention_cache)
        self.source_index: torch.Tensor | None = None
        self.rows_per_source: int | None = 1
        self.rows_may_leave = False  # whether `generate()` alone looks at it, so that finished rows need not stay

    def share_source(self, rows_per_source: int, num_sources: int, device: torch.device) -> None:
        """Let each of `num_sources` source rows serve `rows_per_source` neighbouring decoder rows."""
        self.source_index = torch.arange(num_sources, device=device).repeat_interleave(rows_per_source)  # (R,)
        self.rows_per_source = rows_per_source

    def match_source(self, num_sources: int) -> None:
        """Give every decoder row a source row of its own, where as many sources as decoder rows will be passed."""
        cached = _keys(self.cross_attention_cache)
        if self.source_index is None or cached is None or cached.shape[0] == num_sources:
            return
        if self.source_index.shape[0] == num_sources:
            self.cross_attention_cache.reorder_cache(self.source_index)  # type: ignore[arg-type]  # a LongTensor
            self.source_index, self.rows_per_source = None, 1

    def check_rows(self, num_rows: int, num_sources: int) -> None:
        """
        Raise unless `num_rows` decoder rows can read `num_sources` source rows.

        Raises:
            ValueError: The counts differ and no `source_index` of `generate()` explains it, or it has another length.
        """
        expected = num_sources if self.source_index is None else self.source_index.shape[0]
        if num_rows != expected:
            raise ValueError(
                f"`decoder_input_ids` has {num_rows} rows, the source has {num_sources} and the cache expects "
                f"{expected} decoder rows. Pass one decoder row for each source row; only `generate()` may let "
                "several rows share a source (`past_key_values.source_index`)."
            )

    def group_queries(self, states: torch.Tensor) -> torch.Tensor:
        """`(R, H, T, D)` to `(B, H, rows_per_source * T, D)`: all rows of a source as one row of queries."""
        if self.rows_per_source in (None, 1):
            return states
        grouped = states.unflatten(0, (-1, self.rows_per_source)).transpose(1, 2)  # (B, H, rows, T, D)
        return grouped.flatten(2, 3)

    def ungroup_output(self, states: torch.Tensor, length: int) -> torch.Tensor:
        """`(B, rows_per_source * T, ...)` to `(R, T, ...)`."""
        if self.rows_per_source in (None, 1):
            return states
        return states.unflatten(1, (self.rows_per_source, length)).flatten(0, 1)

    def ungroup_weights(self, weights: torch.Tensor, length: int) -> torch.Tensor:
        """`(B, H, rows_per_source * T, S)` to `(R, H, T, S)`."""
        if self.rows_per_source in (None, 1):
            return weights
        return weights.unflatten(2, (self.rows_per_source, length)).transpose(1, 2).flatten(0, 1)

    def source_rows(self, states: torch.Tensor) -> torch.Tensor:
        """Rows of `(B, ...)` as decoder rows read them: as they are, or one a decoder row if groups were broken."""
        if self.rows_per_source is None and self.source_index is not None:
            return states.index_select(0, self.source_index)
        return states

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Let decoder row i go on from row `beam_idx[i]`. Beams that stay with their source move nothing of it."""
        self.self_attention_cache.reorder_cache(beam_idx)
        if self.source_index is None:
            self.cross_attention_cache.reorder_cache(beam_idx)
            return
        moved = self.source_index.index_select(0, beam_idx.to(self.source_index.device))
        if not torch.equal(moved, self.source_index):
            self.source_index, self.rows_per_source = moved, None

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep the decoder rows `indices` (row numbers or a mask of booleans)."""
        self.check_dynamic_cache("batch_select_indices")
        self.self_attention_cache.batch_select_indices(indices)
        if self.source_index is None:
            self.cross_attention_cache.batch_select_indices(indices)
        else:
            self.source_index = self.source_index[indices.to(self.source_index.device)]
            self.rows_per_source = None

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each decoder row `repeats` times, in place."""
        self.check_dynamic_cache("batch_repeat_interleave")
        self.self_attention_cache.batch_repeat_interleave(repeats)
        if self.source_index is None:
            self.cross_attention_cache.batch_repeat_interleave(repeats)
        else:
            self.source_index = self.source_index.repeat_interleave(repeats)
            if self.rows_per_source is not None:
                self.rows_per_source *= repeats

    def reset(self) -> None:
        """Forget every token and the sharing; the objects stay."""
        for layer in (*self.self_attention_cache.layers, *self.cross_attention_cache.layers):
            if isinstance(layer, DynamicLayer):  # transformers 5.17 puts zeros there and keeps the length
                layer.keys = layer.values = None
                layer.is_initialized = False
        super().reset()
        self.source_index = None
        self.rows_per_source = 1


def _keys(cache: Cache, layer_idx: int = 0) -> torch.Tensor | None:
    """Keys of a layer, of shape `(rows, K, length, D)`, or None where there are none yet."""
    keys = getattr(cache.layers[layer_idx], "keys", None) if cache.layers else None
    return keys if isinstance(keys, torch.Tensor) and keys.dim() == 4 else None


def check_cache(
    owner: str, cache: Cache, config: PreTrainedConfig, num_rows: int, num_key_heads: int | None = None
) -> None:
    """
    Raise unless a cache belongs to a decoder of this config and, where it is filled, to `num_rows` decoder rows and
    `num_key_heads` key heads (by default those of the config).

    Raises:
        TypeError: No cache.
        ValueError: Other numbers of layers, rows or heads, another head width, or recurrent layers elsewhere or of
            another kind.
    """
    if not isinstance(cache, Cache):
        raise TypeError(
            f"{owner}: `past_key_values` must be a cache of transformers, got {type(cache).__name__}. Pass what an "
            "earlier call returned, or None."
        )
    own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
    if own.layers and len(own.layers) != config.num_hidden_layers:
        raise ValueError(
            f"{owner}: `past_key_values` must have one layer for each of the decoder's {config.num_hidden_layers}, "
            f"got {len(own.layers)}. Pass the cache of this model, or None."
        )
    mixer_types = getattr(config, "resolved_mixer_types", None) or config.mixer_types
    check_recurrent_layers(owner, own.layers, config, mixer_types, num_rows)
    for layer_idx in range(len(own.layers)):
        keys = _keys(own, layer_idx)
        if keys is None:
            continue
        num_key_heads = config.key_value_heads if num_key_heads is None else num_key_heads
        expected = (num_rows, num_key_heads, config.attention_head_dim)
        found = (keys.shape[0], keys.shape[1], keys.shape[3])
        if found != expected:
            raise ValueError(
                f"{owner}: `past_key_values` must hold (rows, key heads, head width) = {expected}, got {found}. Pass "
                "the cache of this model and of this batch, `past_key_values.reset()` it, or pass None."
            )


def check_source_cache(
    owner: str, cache: EncoderDecoderCache, num_sources: int, source_length: int, heads: tuple[int, int]
) -> None:
    """
    Raise unless the cross-attention part of a cache is of a source of this size and of these `(heads, head width)`.

    Raises:
        ValueError: It was filled from, or has room for, another number of source rows or tokens, or by another model.
    """
    layers, keys = cache.cross_attention_cache.layers, _keys(cache.cross_attention_cache)
    found = (num_sources, source_length)
    if cache.is_updated.get(0) and keys is not None:
        found = (keys.shape[0], keys.shape[2])
    elif layers:
        found = (num_sources, getattr(layers[0], "max_cache_len", source_length))
    if found != (num_sources, source_length):
        raise ValueError(
            f"{owner}: the source of this call has (rows, tokens) = {(num_sources, source_length)}, the "
            f"cross-attention cache in `past_key_values` has {found}. Pass the source that the cache was made for, or "
            "a new cache."
        )
    if keys is not None and (keys.shape[1], keys.shape[3]) != heads:
        raise ValueError(
            f"{owner}: the cross-attention cache in `past_key_values` must hold (heads, head width) = {heads}, got "
            f"{(keys.shape[1], keys.shape[3])}. Pass the cache of this model, or None."
        )


def full_attention_config(num_layers: int) -> PreTrainedConfig:
    """A config from which transformers builds `num_layers` cache layers of full attention."""
    config = PreTrainedConfig()
    config.num_hidden_layers = num_layers
    config.layer_types = ["full_attention"] * num_layers
    return config


def build_cross_attention_cache(kind: Cache, num_layers: int, source_length: int) -> Cache:
    """A cross-attention cache of the same kind (dynamic, static, offloaded) as a self-attention cache."""
    offloading = bool(getattr(kind, "offloading", False))
    if isinstance(kind, StaticCache):
        config = full_attention_config(num_layers)
        return StaticCache(config=config, max_cache_len=source_length, offloading=offloading)
    if offloading:
        return DynamicCache(config=full_attention_config(num_layers), offloading=True)
    return DynamicCache()


def build_cache(config: PreTrainedConfig, with_cross_attention: bool) -> Cache:
    """An empty dynamic cache for a decoder config."""
    self_attention_cache = with_recurrent_layers(DynamicCache(config=config), config)
    return CustomSeq2SeqCache(self_attention_cache, DynamicCache()) if with_cross_attention else self_attention_cache
