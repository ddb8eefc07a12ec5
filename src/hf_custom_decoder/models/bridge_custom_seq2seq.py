"""
First states of a recurrent decoder from the final states of an encoder.

Legend: B rows, L layers of the decoder, H width of its states.
"""

from typing import Any

import torch
from torch import nn

from .configuration_recurrent_decoder import RecurrentDecoderConfig
from .configuration_recurrent_encoder import RecurrentEncoderConfig


def resolve_bridge_type(encoder: Any, decoder: RecurrentDecoderConfig) -> str:
    """
    `bridge_type` of a pair of configs.

    Raises:
        ValueError: A bridge from an encoder that returns no final states, a copy between states of other shapes, or a
            decoder that would never see the source.
    """
    has_states = encoder.model_type == RecurrentEncoderConfig.model_type  # by type name: see OWN_ENCODERS
    bridge_type = decoder.bridge_type
    if bridge_type is None:
        bridge_type = "linear" if has_states else "zeros"
    if bridge_type != "zeros" and not has_states:
        raise ValueError(
            f"`bridge_type={bridge_type!r}` needs an encoder that returns final states, got {type(encoder).__name__}. "
            "Use a RecurrentEncoderConfig, or `bridge_type='zeros'`."
        )
    if bridge_type == "zeros" and decoder.attention_type == "none":
        raise ValueError(
            "`attention_type='none'` with `bridge_type='zeros'` would never show the source to the decoder. Choose an "
            "`attention_type`, or a recurrent encoder with `bridge_type='linear'` or 'copy'."
        )
    if bridge_type == "copy":
        shapes = [(one.num_hidden_layers, one.hidden_size) for one in (encoder, decoder)]
        if shapes[0] != shapes[1]:
            raise ValueError(
                f"`bridge_type='copy'` needs equal (num_hidden_layers, hidden_size) on both sides, got {shapes[0]} "
                f"and {shapes[1]}. Make them equal, or use `bridge_type='linear'`."
            )
    return bridge_type


class StateBridge(nn.Module):
    """
    First states for each decoder layer from the encoder layer at the same depth (the encoder's last one where it has
    fewer): as they are (`"copy"`), or `tanh(W h)` (Bahdanau et al. 2015, appendix A.2.2; `"linear"`), with weights of
    its own for every layer and state. Where only the decoder is an LSTM, c is made from h by `"linear"` and is zero
    with `"copy"`.

    Args:
        encoder ([`RecurrentEncoderConfig`]), decoder ([`RecurrentDecoderConfig`]).
        bridge_type (`str`): `"copy"` or `"linear"`.
    """

    def __init__(self, encoder: RecurrentEncoderConfig, decoder: RecurrentDecoderConfig, bridge_type: str) -> None:
        super().__init__()
        self.bridge_type, self.num_layers, self.num_states = bridge_type, decoder.num_hidden_layers, decoder.num_states
        self.source_shape = (encoder.num_hidden_layers, encoder.num_states, encoder.hidden_size)
        self.projections: nn.ModuleList | None = None
        if bridge_type == "linear":
            count = decoder.num_hidden_layers * decoder.num_states
            self.projections = nn.ModuleList(nn.Linear(encoder.hidden_size, decoder.hidden_size) for _ in range(count))

    def forward(self, final_states: torch.Tensor) -> torch.Tensor:
        """
        `(B, encoder layers, 1 or 2, encoder width)` to `(B, L, 1 or 2, H)`.

        Raises:
            ValueError: States of another shape.
        """
        if tuple(final_states.shape[1:]) != self.source_shape:
            raise ValueError(
                "`encoder_outputs.final_states` must have the shape (batch_size, layers, states, width) with the last "
                f"three {self.source_shape}, got {tuple(final_states.shape)}. Pass the output of this model's encoder."
            )
        layers = []
        for layer_idx in range(self.num_layers):
            source = final_states[:, min(layer_idx, final_states.shape[1] - 1)]  # (B, 1 or 2, width)
            states = []
            for state_idx in range(self.num_states):
                is_there = state_idx < source.shape[1]
                state = source[:, state_idx if is_there else 0]
                if self.projections is not None:
                    projection: Any = self.projections[layer_idx * self.num_states + state_idx]
                    state = torch.tanh(projection(state))
                elif not is_there:
                    state = torch.zeros_like(state)
                states.append(state)
            layers.append(torch.stack(states, dim=1))
        return torch.stack(layers, dim=1)
