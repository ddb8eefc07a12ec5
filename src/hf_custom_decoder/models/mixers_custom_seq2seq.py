"""
Linear recurrent mixers: in place of self-attention in a decoder layer.

Legend: B rows, T length, E width, N real tokens of a packed batch.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.cache_utils import Cache, EncoderDecoderCache

from .cache_recurrent_layer import RecurrentLayer
from .packing_custom_seq2seq import PackedRows


def linear_scan(decay: torch.Tensor, inputs: torch.Tensor, first: torch.Tensor | None) -> torch.Tensor:
    """
    All of `c[t] = decay[t] * c[t - 1] + inputs[t]` at once, in `log2(T)` doublings (Hillis and Steele 1986). Products
    of factors in [0, 1] only, so nothing overflows.

    Args:
        decay, inputs (`torch.Tensor` of shape `(B, T, E)`).
        first (`torch.Tensor` of shape `(B, E)`, *optional*): `c[-1]`; by default zeros.

    Returns:
        `torch.Tensor` of shape `(B, T, E)`.
    """
    if first is not None:
        inputs = torch.cat([inputs[:, :1] + decay[:, :1] * first[:, None], inputs[:, 1:]], dim=1)
    distance, length = 1, inputs.shape[1]
    while distance < length:
        carried = decay[:, distance:] * inputs[:, :-distance]
        inputs = torch.cat([inputs[:, :distance], inputs[:, distance:] + carried], dim=1)
        decay = torch.cat([decay[:, :distance], decay[:, distance:] * decay[:, :-distance]], dim=1)
        distance *= 2
    return inputs


class LinearRecurrence(nn.Module):
    """
    A gated linear recurrence over the tokens, parallel over time in training and one multiplication and addition in
    decoding. Two forms:

    - `"ssru"` (Kim et al. 2019, section 3.1): `f = sigmoid(W_f x + b_f)`, `c' = f * c + (1 - f) * W x`, output
      `relu(c')`; `W_f` is `gate_proj`, `W` is `input_proj`, without bias;
    - `"mingru"` (Feng et al. 2024, section 3.1): `z = sigmoid(W_z x + b_z)`, `h' = (1 - z) * h + z * (W_h x + b_h)`,
      output `h'`; `W_z` is `gate_proj`, `W_h` is `input_proj`.

    Args:
        config ([`TransformerDecoderConfig`]).
        layer_idx (`int`): Which cache layer is ours.
        mixer_type (`str`): `"ssru"` or `"mingru"`.
    """

    def __init__(self, config: PreTrainedConfig, layer_idx: int, mixer_type: str) -> None:
        super().__init__()
        self.layer_idx, self.mixer_type = layer_idx, mixer_type
        self.gate_proj = nn.Linear(config.hidden_size, config.hidden_size)
        self.input_proj = nn.Linear(config.hidden_size, config.hidden_size, bias=mixer_type == "mingru")

    def forward(
        self,
        hidden_states: torch.Tensor,
        keep: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        rows: PackedRows | None = None,
    ) -> torch.Tensor:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(B, T, E)`, or `(N, E)` with `rows`).
            keep (`torch.Tensor` of shape `(B, T)`, *optional*): 1 for tokens, 0 for padding, which changes no state.
            past_key_values (`Cache`, *optional*): Its layer holds the state `(B, E)`, replaced in place.

        Returns:
            The same shape as `hidden_states`.
        """
        gate = torch.sigmoid(self.gate_proj(hidden_states))
        decay, share = (gate, 1 - gate) if self.mixer_type == "ssru" else (1 - gate, gate)
        inputs = share * self.input_proj(hidden_states)
        if rows is not None:
            decay, inputs = rows.unpack(decay), rows.unpack(inputs)
        if keep is not None:
            padding = (keep == 0)[..., None]
            decay, inputs = decay.masked_fill(padding, 1.0), inputs.masked_fill(padding, 0.0)
        layer = self._layer(past_key_values)
        first = None if layer is None or layer.states is None else layer.states[0]
        states = linear_scan(decay, inputs, first)  # (B, T, E)
        if layer is not None:
            layer.store(self.mixer_type, (states[:, -1],), states.shape[1])
        if rows is not None:
            states = rows.pack(states)
        return torch.relu(states) if self.mixer_type == "ssru" else states

    def _layer(self, cache: Cache | None) -> RecurrentLayer | None:
        if cache is None:
            return None
        own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
        layer: Any = own.layers[self.layer_idx]
        return layer
