"""
Attention of our encoders and decoders, through transformers' attention interface.

Legend: B rows (R decoder rows in cross-attention), T query length, S key length, H query heads, K key-value heads,
D width of a head, E width, N real tokens of a packed batch.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.masking_utils import create_bidirectional_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from .cache_custom_seq2seq import CustomSeq2SeqCache
from .layers_custom_seq2seq import build_norm
from .packed_attention_custom_seq2seq import PACKED, attend_packed
from .packing_custom_seq2seq import PackedRows, cut_rows, is_tracing
from .positions_custom_seq2seq import rotate
from .tensor_parallel_custom_seq2seq import check_share, norm_of_some_heads


def eager_attention_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    dropout: float = 0.0,
    **kwargs: object,
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    Scaled dot-product attention as it is written (Vaswani et al. 2017, equation 1); the truth for every other kernel.

    Args:
        query (`torch.Tensor` of shape `(B, H, T, D)`), key and value (`torch.Tensor` of shape `(B, K, S, D)`).
        attention_mask (`torch.Tensor` broadcastable to `(B, H, T, S)`, *optional*): Added to the scores; of booleans,
            True where a query attends.

    Returns:
        The output of shape `(B, T, H, D)` and the weights of shape `(B, H, T, S)`.
    """
    groups = query.shape[1] // key.shape[1]
    if groups > 1:
        key, value = key.repeat_interleave(groups, dim=1), value.repeat_interleave(groups, dim=1)
    scores = torch.matmul(query, key.transpose(2, 3)) * scaling
    if attention_mask is not None and attention_mask.dtype == torch.bool:  # made for SDPA: True attends
        scores = scores.masked_fill(~attention_mask, torch.finfo(scores.dtype).min)
    elif attention_mask is not None:
        scores = scores + attention_mask
    weights = nn.functional.softmax(scores, dim=-1)
    weights = nn.functional.dropout(weights, p=dropout, training=module.training)
    return torch.matmul(weights, value).transpose(1, 2).contiguous(), weights


def with_implementation(config: PreTrainedConfig, implementation: str) -> PreTrainedConfig:
    """The config as transformers' mask functions read it under another attention implementation."""
    if config._attn_implementation == implementation:
        return config
    twin = PreTrainedConfig()
    twin._attn_implementation = implementation
    for name in ("num_hidden_layers", "layer_types", "sliding_window", "hidden_size", "num_attention_heads"):
        if hasattr(config, name):
            setattr(twin, name, getattr(config, name))
    return twin


def resolve_implementation(config: PreTrainedConfig, *, output_attentions: bool = False) -> str:
    """
    The attention implementation of one call: that of the config, or eager where weights are asked for, as no fast
    kernel returns them.
    """
    return "eager" if output_attentions else (config._attn_implementation or "eager")


def cross_attention_implementation(implementation: str) -> str:
    """Flash kernels of transformers take one padding mask for queries and keys, so cross-attention uses SDPA there."""
    return "sdpa" if "flash" in implementation else implementation


def check_attention_support(config: PreTrainedConfig, implementation: str | None) -> None:
    """
    Refuse what no kernel of that name computes (the support table of the documentation).

    Raises:
        ValueError: ALiBi with a kernel that takes no additive bias.
    """
    if implementation is None or config.position_type != "alibi" or implementation in ("eager", "sdpa"):
        return
    raise ValueError(
        "`attn_implementation` must be 'eager' or 'sdpa' with `position_type='alibi'` (other kernels take no "
        f"additive bias), got {implementation!r}. Choose one of the two, or another `position_type`."
    )


def check_parts_support(config: PreTrainedConfig, implementation: str | dict[str, str] | None) -> None:
    """
    [`check_attention_support`] for the parts of a seq2seq config, before any of them is changed.

    Raises:
        ValueError: ALiBi with a kernel that takes no additive bias.
    """
    for name in ("encoder", "decoder"):
        part = getattr(config, name)
        wanted = implementation.get(name) if isinstance(implementation, dict) else implementation
        if hasattr(part, "position_type"):  # one of ours
            check_attention_support(part, wanted)


def check_flex_training(implementation: str, module: PreTrainedModel, device: torch.device) -> None:
    """
    Refuse what FlexAttention cannot do, before it fails inside a layer.

    Raises:
        ValueError: A gradient is wanted on CPU, or attention dropout in training.
    """
    if implementation != "flex_attention":
        return
    wants_gradient = torch.is_grad_enabled() and any(weight.requires_grad for weight in module.parameters())
    if device.type == "cpu" and wants_gradient:
        raise ValueError(
            "`attn_implementation='flex_attention'` has no backward pass on CPU, got a model whose weights want "
            "gradients. For inference use `with torch.no_grad()`, for training 'sdpa' or 'eager' "
            "(`model.set_attn_implementation('sdpa')`) or a GPU."
        )
    if module.training and module.config.attention_dropout > 0:
        raise ValueError(
            "`attn_implementation='flex_attention'` has no dropout, got `attention_dropout="
            f"{module.config.attention_dropout}` in training mode. Set it to 0.0, or use 'sdpa' or 'eager'."
        )


def key_padding_mask(
    config: PreTrainedConfig,
    implementation: str,
    queries: torch.Tensor,
    keys: torch.Tensor,
    mask: torch.Tensor | None,
) -> Any:
    """
    The mask over source tokens, which every query attends to, in the form that `implementation` takes. It is small:
    transformers' own repeats it for every query, and SDPA makes float numbers of it in every layer.

    Args:
        queries (`torch.Tensor` of shape `(B, T, any)`), keys (`torch.Tensor` of shape `(B, S, any)`): For their
            shapes, dtype and device; one tensor in the encoder.
        mask (`torch.Tensor` of shape `(B, S)` or `(B, 1, T, S)`, *optional*): 1 for source tokens to attend to; a
            four-dimensional one is taken as it is.

    Returns:
        `None` (attend to all), a mask broadcastable to `(B, H, T, S)`, or a FlexAttention block mask.
    """
    if mask is None or mask.dim() == 4:
        return mask
    if implementation not in ("eager", "sdpa"):
        return create_bidirectional_mask(
            config=with_implementation(config, implementation),
            inputs_embeds=queries,
            attention_mask=mask,
            encoder_hidden_states=keys,
        )
    if not is_tracing() and bool(mask.all()):
        return None
    keep = mask[:, None, None, :].to(torch.bool)  # (B, 1, 1, S)
    # A row without any source token attends to all of them: finite numbers, and nobody reads them.
    keep = keep | ~keep.any(dim=-1, keepdim=True)
    if implementation == "sdpa":
        return keep
    dtype = keys.dtype
    return torch.zeros(keep.shape, dtype=dtype, device=keep.device).masked_fill(~keep, torch.finfo(dtype).min)


class MultiHeadAttention(nn.Module):
    """
    Multi-head attention (Vaswani et al. 2017, section 3.2.2), grouped-query attention (Ainslie et al. 2023) and, with
    `qk_norm`, a norm over each head's queries and keys (Henry et al. 2020). Self-attention rotates queries and keys
    where it is given angles; cross-attention takes no position information.

    Args:
        config ([`TransformerEncoderConfig`] or [`TransformerDecoderConfig`]).
        layer_idx (`int`): Which cache layer is ours.
        is_cross_attention, is_causal (`bool`).
        sliding_window (`int`, *optional*): Tokens; for the kernels that build their own mask.
    """

    def __init__(
        self,
        config: PreTrainedConfig,
        layer_idx: int,
        *,
        is_cross_attention: bool = False,
        is_causal: bool = False,
        sliding_window: int | None = None,
    ) -> None:
        super().__init__()
        self.config, self.layer_idx = config, layer_idx
        self.is_cross_attention, self.is_causal = is_cross_attention, is_causal
        self.sliding_window = sliding_window
        self.num_heads, self.head_dim = config.num_attention_heads, config.attention_head_dim
        self.num_key_heads, self.first_head = config.key_value_heads, 0
        self.group: Any = None  # of the processes that compute the other heads
        self.num_key_value_groups = config.num_attention_heads // config.key_value_heads
        self.scaling = self.head_dim**-0.5
        self.attention_dropout = config.attention_dropout
        width, inner, shared = (
            config.hidden_size,
            self.num_heads * self.head_dim,
            config.key_value_heads * self.head_dim,
        )
        self.q_proj = nn.Linear(width, inner, bias=config.attention_bias)
        self.k_proj = nn.Linear(width, shared, bias=config.attention_bias)
        self.v_proj = nn.Linear(width, shared, bias=config.attention_bias)
        self.out_proj = nn.Linear(inner, width, bias=config.attention_bias)
        self.q_norm = build_norm(config, self.head_dim) if config.qk_norm else nn.Identity()
        self.k_norm = build_norm(config, self.head_dim) if config.qk_norm else nn.Identity()

    def take_share(self, owner: str, mesh: Any) -> None:
        """
        Compute one of equal shares of the heads, as the weights are split over a device mesh of one dimension.

        Raises:
            ValueError: The heads do not divide; the message begins with `owner`.
        """
        size = mesh.size()
        check_share(owner, "num_attention_heads", self.num_heads, size)
        check_share(owner, "num_key_value_heads", self.num_key_heads, size)
        self.num_heads, self.num_key_heads = self.num_heads // size, self.num_key_heads // size
        self.first_head, self.group = mesh.get_local_rank() * self.num_heads, mesh.get_group()

    def _by_head(self, projected: torch.Tensor, norm: nn.Module | None) -> torch.Tensor:
        """`(..., heads * D)` to `(..., heads, D)`."""
        states = projected.unflatten(-1, (-1, self.head_dim))
        if norm is None:
            return states
        normed: torch.Tensor = norm(states) if self.group is None else norm_of_some_heads(norm, states, self.group)
        return normed

    def _heads(self, projected: torch.Tensor, rows: PackedRows | None, norm: nn.Module | None = None) -> torch.Tensor:
        """`(B, T, heads * D)`, or packed `(N, heads * D)`, to `(B, heads, T, D)`."""
        states = self._by_head(projected, norm)
        if rows is not None:
            states = rows.unpack(states)
        return states.transpose(1, 2)

    def _cross_keys(
        self, key_value_states: torch.Tensor | None, cache: EncoderDecoderCache | None, rows: PackedRows | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Keys and values of the source, each of shape `(B, K, S, D)`, computed once and kept in the cache."""
        if cache is not None and cache.is_updated.get(self.layer_idx):
            layer: Any = cache.cross_attention_cache.layers[self.layer_idx]
            return layer.keys, layer.values
        keys = self._heads(self.k_proj(key_value_states), rows, self.k_norm)
        values = self._heads(self.v_proj(key_value_states), rows)
        if cache is not None:
            keys, values = cache.cross_attention_cache.update(keys, values, self.layer_idx)
            cache.is_updated[self.layer_idx] = True
        return keys, values

    def _attend(
        self,
        queries: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        attention_mask: torch.Tensor | None,
        implementation: str,
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The output of the kernel, of shape `(B, T, H, D)`, and its weights where it has them."""
        if self.group is not None and isinstance(attention_mask, torch.Tensor) and attention_mask.dim() == 4:
            if attention_mask.shape[1] > self.num_heads:  # of all heads, and some of them are of other processes
                attention_mask = attention_mask[:, self.first_head : self.first_head + self.num_heads]
        attend = ALL_ATTENTION_FUNCTIONS.get_interface(implementation, eager_attention_forward)
        output: tuple[torch.Tensor, torch.Tensor | None] = attend(
            self,
            queries,
            keys,
            values,
            attention_mask,
            dropout=self.attention_dropout if self.training else 0.0,
            scaling=self.scaling,
            sliding_window=self.sliding_window,
        )
        return output

    def _in_pieces(
        self,
        hidden_states: torch.Tensor,
        key_value_states: Any,
        attention_mask: torch.Tensor | None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        query_rows: PackedRows,
        key_rows: PackedRows,
    ) -> torch.Tensor:
        """SDPA over rows of similar lengths at a time, without a cache: `(N, E)` to `(N, E)`."""
        masks = query_rows.split_mask(attention_mask, key_rows)

        def heads(projected: torch.Tensor, rows: PackedRows, norm: nn.Module | None = None) -> list[torch.Tensor]:
            return [piece.transpose(1, 2) for piece in rows.split(self._by_head(projected, norm))]

        outputs = []
        for piece, queries, keys, values, mask in zip(
            query_rows.pieces,
            heads(self.q_proj(hidden_states), query_rows, self.q_norm),
            heads(self.k_proj(key_value_states), key_rows, self.k_norm),
            heads(self.v_proj(key_value_states), key_rows),
            masks,
            strict=True,
        ):
            if rotary is not None:
                own: Any = [cut_rows(angles, piece.rows, (piece.start, piece.stop)) for angles in rotary]
                queries, keys = rotate(queries, *own), rotate(keys, *own)
            output, _ = self._attend(queries, keys, values, mask, "sdpa")
            outputs.append(output.flatten(2))
        return self.out_proj(query_rows.join(outputs))

    def _packed(
        self,
        hidden_states: torch.Tensor,
        key_value_states: Any,
        rotary: tuple[torch.Tensor, torch.Tensor] | None,
        query_rows: PackedRows,
        key_rows: PackedRows,
    ) -> torch.Tensor:
        """Attention over packed tokens, without a cache: `(N, E)` to `(N, E)`."""
        queries = self._by_head(self.q_proj(hidden_states), self.q_norm)
        keys = self._by_head(self.k_proj(key_value_states), self.k_norm)
        values = self._by_head(self.v_proj(key_value_states), None)
        if rotary is not None:
            queries, keys = rotate(queries, *rotary), rotate(keys, *rotary)
        output = attend_packed(
            queries, keys, values, query_rows, key_rows, scale=self.scaling, is_causal=self.is_causal
        )
        return self.out_proj(output.flatten(1))

    def forward(
        self,
        hidden_states: torch.Tensor,
        key_value_states: torch.Tensor | None = None,
        *,
        attention_mask: torch.Tensor | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        past_key_values: Cache | None = None,
        query_rows: PackedRows | None = None,
        key_rows: PackedRows | None = None,
        implementation: str = "eager",
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, T, E)`, or `(N, E)` with `query_rows`).
            key_value_states (`torch.Tensor` of shape `(B, S, E)`, or packed with `key_rows`): The source, in
                cross-attention.
            attention_mask: In the form that `implementation` takes.
            rotary: Cosines and sines of shape `(B or 1, 1, T, D)`, or `(N, 1, D)` for packed attention, in
                self-attention.
            past_key_values (`Cache`, *optional*): Read and extended in place.

        Returns:
            The output in the shape of `hidden_states`, and the weights of shape `(B, H, T, S)` from the eager form.
        """
        if query_rows is not None and implementation == PACKED:
            source: Any = key_value_states if self.is_cross_attention else hidden_states
            others: Any = key_rows if self.is_cross_attention else query_rows
            return self._packed(hidden_states, source, rotary, query_rows, others), None
        if query_rows is not None and implementation == "sdpa":
            own_rows = key_rows if self.is_cross_attention else query_rows
            if own_rows is not None and query_rows.has_pieces_of(own_rows):
                source = key_value_states if self.is_cross_attention else hidden_states
                return self._in_pieces(hidden_states, source, attention_mask, rotary, query_rows, own_rows), None
        queries = self._heads(self.q_proj(hidden_states), query_rows, self.q_norm)
        length = queries.shape[2]
        shared = None
        if self.is_cross_attention:
            cache = past_key_values if isinstance(past_key_values, EncoderDecoderCache) else None
            keys, values = self._cross_keys(key_value_states, cache, key_rows)
            if isinstance(cache, CustomSeq2SeqCache) and cache.source_index is not None:
                shared = cache
                queries = shared.group_queries(queries)
                keys, values = shared.source_rows(keys), shared.source_rows(values)
        else:
            keys = self._heads(self.k_proj(hidden_states), query_rows, self.k_norm)
            values = self._heads(self.v_proj(hidden_states), query_rows)
            if rotary is not None:
                queries, keys = rotate(queries, *rotary), rotate(keys, *rotary)
            if past_key_values is not None:
                own = past_key_values
                own = own.self_attention_cache if isinstance(own, EncoderDecoderCache) else own
                keys, values = own.update(keys, values, self.layer_idx)
                if isinstance(attention_mask, torch.Tensor) and keys.shape[2] > attention_mask.shape[-1]:
                    # In transformers 5.17 a sliding layer that can be cropped also returns what left the window.
                    visible = slice(-attention_mask.shape[-1], None)
                    keys, values = keys[:, :, visible], values[:, :, visible]

        output, weights = self._attend(queries, keys, values, attention_mask, implementation)
        if shared is not None:
            output = shared.ungroup_output(output, length)
            weights = None if weights is None else shared.ungroup_weights(weights, length)
        output = output.flatten(2)  # (B, T, H * D)
        if query_rows is not None:
            output = query_rows.pack(output)
        return self.out_proj(output), weights if implementation == "eager" else None
