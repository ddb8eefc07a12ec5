"""
State of a recurrent layer inside a transformers cache.

Legend: R decoder rows, H width of a state.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, CacheLayerMixin, DynamicCache

RECURRENT_MIXERS = ("recurrent", "ssru", "mingru")
"""Mixer types whose cache layer is a [`RecurrentLayer`]."""


class RecurrentLayer(CacheLayerMixin):
    """
    What one recurrent layer carries from token to token: tensors of shape `(R, ...)` (h, c, a fed-back vector) and the
    number of tokens they stand for. They are replaced, never written into, so a backward pass over several steps
    works. A state cannot be cropped: the tokens behind it are gone.
    """

    is_compileable = False
    is_sliding = False
    is_croppable = False
    supports_early_init = False

    def __init__(self) -> None:
        super().__init__()
        self.kind: str | None = None  # the cell or mixer that the states are of
        self.states: tuple[torch.Tensor, ...] | None = None
        self.num_tokens = 0

    def store(self, kind: str, states: tuple[torch.Tensor, ...], num_new_tokens: int) -> None:
        """Take the states of a `kind` of cell or mixer after `num_new_tokens` more tokens."""
        self.kind, self.states = kind, states
        self.num_tokens += num_new_tokens
        self.is_initialized = True

    def lazy_initialization(self, key_states: torch.Tensor, value_states: torch.Tensor) -> None:
        """Nothing to allocate."""

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Refused: a recurrent layer keeps states, no keys and values."""
        raise TypeError(
            "The cache holds the state of a recurrent layer where an attention layer wants keys and values. It "
            "belongs to another model; build a fresh one."
        )

    def get_seq_length(self) -> int:
        """Tokens seen so far."""
        return self.num_tokens

    def get_max_length(self) -> int:
        """No limit."""
        return -1

    def get_max_cache_shape(self) -> int:
        """No limit (the older name)."""
        return -1

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        """As a full attention layer would say; masks are built from it."""
        return self.num_tokens + query_length, 0

    def crop(self, tokens_to_remove: int) -> None:
        """
        Raises:
            ValueError: Tokens were to be removed.
        """
        if tokens_to_remove != 0:
            raise ValueError(
                f"`crop({tokens_to_remove})` cannot take tokens out of a recurrent state. Assisted and prompt-lookup "
                "decoding need a decoder with attention layers only."
            )

    def reset(self) -> None:
        """Forget every token."""
        self.kind, self.states, self.num_tokens, self.is_initialized = None, None, 0, False

    def _select(self, rows: torch.Tensor) -> None:
        if self.states is not None:
            self.states = tuple(one[rows.to(one.device)] for one in self.states)

    def reorder_cache(self, beam_idx: torch.LongTensor) -> None:
        """Let row i go on from row `beam_idx[i]`."""
        self._select(beam_idx)

    def batch_select_indices(self, indices: torch.Tensor) -> None:
        """Keep these rows (numbers or booleans)."""
        self._select(indices)

    def batch_repeat_interleave(self, repeats: int) -> None:
        """Repeat each row in place."""
        if self.states is not None:
            self.states = tuple(one.repeat_interleave(repeats, dim=0) for one in self.states)

    def offload(self) -> None:
        """States are small: they stay."""

    def prefetch(self) -> None:
        """States are small: they stay."""


def check_recurrent_layers(
    owner: str, layers: Sequence[Any], config: PreTrainedConfig, mixer_types: Sequence[str], num_rows: int
) -> None:
    """
    Raise unless cache layers are recurrent exactly where the decoder is, and hold the states of its kind of cell.

    Raises:
        ValueError: Another kind of layer, cell or state, or another number of rows.
    """
    remedy = "Pass what an earlier call of this model returned, or leave it out and a fresh one is built."
    for layer_idx, mixer_type in enumerate(mixer_types):
        layer = layers[layer_idx] if layer_idx < len(layers) else None
        is_recurrent = mixer_type in RECURRENT_MIXERS
        if is_recurrent != isinstance(layer, RecurrentLayer) and (is_recurrent or layer is not None):
            wanted = "a recurrent" if is_recurrent else "an attention"
            found = "none" if layer is None else type(layer).__name__
            raise ValueError(
                f"{owner}: `past_key_values` must hold {wanted} layer at index {layer_idx}, got {found}. {remedy}"
            )
        if not isinstance(layer, RecurrentLayer) or layer.states is None:
            continue
        kind, shapes = mixer_type, [(num_rows, config.hidden_size)]
        if mixer_type == "recurrent":
            kind, shapes = config.cell_type, shapes * config.num_states
            if config.input_feeding and layer_idx == config.num_hidden_layers - 1:
                shapes = [*shapes, (num_rows, config.combined_size)]
        found_shapes = [tuple(one.shape) for one in layer.states]
        if (layer.kind, found_shapes) != (kind, shapes):
            raise ValueError(
                f"{owner}: `past_key_values` must hold at index {layer_idx} the state of {kind!r} of shapes {shapes} "
                f"(rows, width), got {layer.kind!r} and {found_shapes}: of another model or batch. {remedy}"
            )


def with_recurrent_layers(cache: Cache, config: PreTrainedConfig) -> Cache:
    """
    The cache that transformers built for `config`, with a [`RecurrentLayer`] for every recurrent mixer; attention
    layers (dynamic, sliding, static) stay as they are.
    """
    mixer_types = getattr(config, "mixer_types", None)
    if not mixer_types or not any(name in RECURRENT_MIXERS for name in mixer_types):
        return cache
    template = cache if cache.layers else DynamicCache(config=config)
    layers = [
        RecurrentLayer() if name in RECURRENT_MIXERS else layer
        for name, layer in zip(mixer_types, template.layers, strict=True)
    ]
    cache.layers, cache.layer_class_to_replicate = layers, None
    return cache
