"""
One step of the recurrent decoder with as few calls as it takes: the fast twin of `RecurrentDecoderModel.forward` for
one new token a row, used inside `generate()`.

Legend: B source rows, R decoder rows, S source length, H width of the states, V vocabulary.
"""

from functools import partial
from typing import Any

import torch
from torch import nn
from transformers.cache_utils import Cache, EncoderDecoderCache

from .attention_custom_seq2seq import key_padding_mask
from .cache_custom_seq2seq import CustomSeq2SeqCache, rows_of
from .cells_custom_seq2seq import RecurrentCell, State, gru_step, lstm_step
from .few_rows_linear_custom_seq2seq import for_few_rows


class CellStep:
    """One token through a recurrent layer: see [`RecurrentCell`]."""

    def __init__(self, cell: RecurrentCell, for_few_rows: Any) -> None:
        self.cell_type = cell.cell_type
        self.input_proj, self.recurrent_proj = for_few_rows(cell.input_proj), for_few_rows(cell.recurrent_proj)

    def __call__(self, inputs: torch.Tensor, state: State) -> State:
        """`(R, I)` and state, each `(R, H)`, to the new state."""
        gates, recurrent = self.input_proj(inputs), self.recurrent_proj(state[0])
        if self.cell_type == "lstm":
            return lstm_step(gates.add_(recurrent), state[1])
        if self.cell_type == "gru":
            return (gru_step(gates, recurrent, state[0]),)
        return (torch.tanh(gates.add_(recurrent)),)


class RecurrentDecodingStep:
    """
    The decoder and its vocabulary projection for one new token a row, from the state that a first pass has left in the
    cache.

    Args:
        decoder ([`RecurrentDecoderModel`]): In evaluation mode, of plain modules.
        lm_head (`nn.Linear`): Width of the output to V.
        cache (`Cache`): Filled.
        num_rows (`int`): R.
        source_mask (`torch.Tensor` of shape `(B, S)`, *optional*): 1 for tokens.
    """

    def __init__(
        self, decoder: Any, lm_head: nn.Linear, cache: Cache, num_rows: int, source_mask: torch.Tensor | None
    ) -> None:
        self.decoder, self.config = decoder, decoder.config
        own: Any = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        self.cache_layers: Any = own.layers
        count = self.config.num_states
        self.states: list[tuple[torch.Tensor, ...]] = [layer.states[:count] for layer in self.cache_layers]
        self.fed: torch.Tensor | None = None
        if self.config.input_feeding:
            self.fed = self.cache_layers[-1].states[count]
        self.num_new_tokens = 0
        self.source: tuple[torch.Tensor, torch.Tensor, torch.Tensor | None] | None = None
        self.sharing: CustomSeq2SeqCache | None = None
        if decoder.attention is not None and isinstance(cache, CustomSeq2SeqCache):
            layer: Any = cache.cross_attention_cache.layers[0]
            mask = source_mask
            if mask is not None and bool((mask != 0).all()):
                mask = None
            like = layer.keys.new_empty((layer.keys.shape[0], layer.keys.shape[2], 0))
            mask = key_padding_mask(self.config, "eager", like, like, mask)
            self.source = (layer.keys, layer.values, None if mask is None else mask[:, :, :1])
            self.sharing = cache if cache.source_index is not None else None
        expected_calls = 0 if self.source is None else self.source[0].shape[2]
        linear = partial(for_few_rows, expected_calls=expected_calls)
        self.head, self.readout = linear(lm_head), [linear(one) for one in decoder.readout]
        self.cells = [CellStep(layer.cell, linear) for layer in decoder.layers]
        self.combine = None if decoder.attentional_layer is None else linear(decoder.attentional_layer)

    def __call__(self, ids: torch.Tensor) -> torch.Tensor:
        """New ids `(R,)` to logits `(R, V)` of the next ones."""
        decoder = self.decoder
        hidden_states: torch.Tensor = decoder.embed_tokens(ids)
        if self.fed is not None:
            hidden_states = torch.cat([hidden_states, self.fed], dim=-1)
        for layer_idx, layer in enumerate(decoder.layers):
            state = self.cells[layer_idx](hidden_states, self.states[layer_idx])
            self.states[layer_idx] = state
            hidden_states = state[0] + hidden_states if layer.is_residual else state[0]
        if self.source is not None:
            hidden_states = self._combine(hidden_states, *self.source)
            if self.fed is not None:
                self.fed = hidden_states
        for linear in self.readout:
            hidden_states = linear(hidden_states)
            hidden_states = hidden_states if decoder.readout_act is None else decoder.readout_act(hidden_states)
        self.num_new_tokens += 1
        return self.head(hidden_states)

    def _combine(
        self, hidden_states: torch.Tensor, keys: torch.Tensor, values: torch.Tensor, mask: torch.Tensor | None
    ) -> torch.Tensor:
        """States `(R, H)` and what they read of the source, as one vector a row."""
        context = self.decoder.attention(hidden_states[:, None], keys, values, mask, self.sharing)[0][:, 0]
        if self.combine is None:
            return torch.cat([hidden_states, context], dim=-1)
        return torch.tanh(self.combine(torch.cat([context, hidden_states], dim=-1)))

    def reorder(self, rows: torch.Tensor, num_beams: int = 1) -> None:
        """Row i goes on from row `rows[i]`, which has the same source."""
        self.states = [tuple(one.index_select(0, rows) for one in state) for state in self.states]
        self.fed = None if self.fed is None else self.fed.index_select(0, rows)

    def keep_sources(self, sources: torch.Tensor, rows_per_source: int) -> None:
        """Go on with these sources alone, each of which is read by `rows_per_source` rows, one after another."""
        self.reorder(rows_of(sources, rows_per_source))
        if self.source is not None:
            keys, values, mask = self.source
            mask = mask if mask is None or mask.shape[0] == 1 else mask.index_select(0, sources)
            self.source = (keys.index_select(0, sources), values.index_select(0, sources), mask)

    def store(self) -> None:
        """Write the state back into the cache."""
        for layer_idx, layer in enumerate(self.cache_layers):
            extra = (self.fed,) if self.fed is not None and layer_idx == len(self.states) - 1 else ()
            layer.store(layer.kind, (*self.states[layer_idx], *extra), self.num_new_tokens)
