"""Small layers that our encoders and decoders share.

Legend: B rows, T length, N any leading dimensions, E width, F inner width of the feed-forward block.
"""

import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.activations import ACT2FN

from .dropout_custom_seq2seq import dropout
from .tensor_parallel_custom_seq2seq import check_share


class ScaledEmbedding(nn.Embedding):
    """Token embeddings times a constant (Vaswani et al. 2017, section 3.4: `sqrt(E)`); ids `(N)` to `(N, E)`."""

    def __init__(self, num_embeddings: int, embedding_dim: int, padding_idx: int | None, scale: float) -> None:
        super().__init__(num_embeddings, embedding_dim, padding_idx)
        self.scale = scale

    def forward(self, input_ids: torch.Tensor) -> torch.Tensor:
        """`torch.LongTensor` of shape `(N)` to vectors of shape `(N, E)`."""
        embeddings = super().forward(input_ids)
        return embeddings if self.scale == 1.0 else embeddings * self.scale


def build_embedding(config: PreTrainedConfig) -> ScaledEmbedding:
    """The token embedding of a config."""
    scale = math.sqrt(config.hidden_size) if config.scale_embeddings else 1.0
    return ScaledEmbedding(config.vocab_size, config.hidden_size, config.pad_token_id, scale)


def embed_rows(embedding: nn.Module, input_ids: torch.Tensor, rows: Any) -> torch.Tensor:
    """
    Embeddings `(B, T, E)` of ids `(B, T)`; `(N, E)` where `rows` packs the batch.

    A hook on the embedding (NEFTune's noise, say) counts on rows, so it sees the padded batch.
    """
    if rows is None:
        return embedding(input_ids)
    hooks = ("_forward_hooks", "_forward_pre_hooks", "_backward_hooks", "_backward_pre_hooks")
    if any(getattr(embedding, name) for name in hooks):
        return rows.pack(embedding(input_ids))
    return embedding(rows.pack(input_ids))


def build_norm(config: PreTrainedConfig, width: int | None = None) -> nn.Module:
    """The norm that a config asks for, over `width` features (by default its hidden size)."""
    norm = nn.LayerNorm if config.norm_type == "layernorm" else nn.RMSNorm
    return norm(config.hidden_size if width is None else width, eps=config.norm_eps)


class FeedForward(nn.Module):
    """
    `fc2(act(fc1(x)))` (Vaswani et al. 2017, equation 2) or, gated, `fc2(act(gate_proj(x)) * fc1(x))` (Shazeer 2020,
    equation 6).
    """

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        self.activation_dropout = config.activation_dropout
        self.activation_fn = ACT2FN[config.hidden_act]
        self.gate_proj = None
        if config.gated_mlp:
            self.gate_proj = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size, bias=config.mlp_bias)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size, bias=config.mlp_bias)

    def take_share(self, owner: str, mesh: Any) -> None:
        """Raise a `ValueError` that begins with `owner` unless the inner width divides among a mesh of processes."""
        check_share(owner, "intermediate_size", self.fc1.out_features, mesh.size())

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        """`(N, E)` to `(N, E)`."""
        inner = self.fc1(hidden_states)
        if self.gate_proj is None:
            inner = self.activation_fn(inner)
        else:
            inner = self.activation_fn(self.gate_proj(hidden_states)) * inner
        inner = dropout(inner, self.activation_dropout, self.training)  # (N, F)
        return self.fc2(inner)
