"""
Attention of a recurrent decoder over its source.

Legend: B source rows, R decoder rows, T target length, S source length, E width, A heads.
"""

import math

import torch
from torch import nn

from .cache_custom_seq2seq import CustomSeq2SeqCache
from .configuration_recurrent_decoder import RecurrentDecoderConfig
from .dropout_custom_seq2seq import dropout


class RecurrentAttention(nn.Module):
    """
    One context vector for each decoder state `h` over source states `s`:

    - dot: `score = h s` (Luong et al. 2015, equation 8);
    - general: `score = h W s` (the same; W is `q_proj`, without bias);
    - additive: `score = v tanh(W h + U s)` (Bahdanau et al. 2015, appendix A.1.2; W, U, v are `q_proj`, `k_proj`,
      `score_proj`). The paper scores the state before the step; here the state after it, as Luong et al. do, so that
      training needs no loop over time;
    - multihead: Vaswani et al. 2017, section 3.2.2, scaled, with projections of queries, keys, values and output.
    """

    def __init__(self, config: RecurrentDecoderConfig) -> None:
        super().__init__()
        self.attention_type, width = config.attention_type, config.hidden_size
        self.dropout = config.attention_dropout
        self.num_heads = config.num_attention_heads if config.attention_type == "multihead" else 1
        if self.attention_type == "general":
            self.q_proj = nn.Linear(width, width, bias=False)
        elif self.attention_type == "additive":
            self.q_proj = nn.Linear(width, width, bias=False)
            self.k_proj = nn.Linear(width, width)
            self.score_proj = nn.Linear(width, 1, bias=False)
        elif self.attention_type == "multihead":
            self.q_proj, self.k_proj = nn.Linear(width, width), nn.Linear(width, width)
            self.v_proj, self.out_proj = nn.Linear(width, width), nn.Linear(width, width)

    def _heads(self, states: torch.Tensor) -> torch.Tensor:
        """`(B, T, E)` to `(B, A, T, E / A)`."""
        return states.unflatten(-1, (self.num_heads, -1)).transpose(1, 2)

    def keys_and_values(self, source: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """What is computed once a source: `(B, S, E)` to keys and values, each `(B, A, S, E / A)`."""
        keys = self.k_proj(source) if self.attention_type in ("additive", "multihead") else source
        values = self.v_proj(source) if self.attention_type == "multihead" else source
        return self._heads(keys), self._heads(values)

    def forward(
        self,
        hidden_states: torch.Tensor,
        keys: torch.Tensor,
        values: torch.Tensor,
        mask: torch.Tensor | None,
        cache: CustomSeq2SeqCache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(R, T, E)`).
            keys, values: From `keys_and_values`, of B rows.
            mask (`torch.Tensor` of shape `(B, 1, 1, S)`, *optional*): Added to the scores.
            cache ([`CustomSeq2SeqCache`], *optional*): Says which decoder rows share a source row.

        Returns:
            Contexts of shape `(R, T, E)` and weights of shape `(R, A, T, S)`.
        """
        length = hidden_states.shape[1]
        has_queries = self.attention_type in ("general", "additive", "multihead")
        queries = self._heads(self.q_proj(hidden_states) if has_queries else hidden_states)  # (R, A, T, E / A)
        if cache is not None:
            queries = cache.group_queries(queries)
            keys, values = cache.source_rows(keys), cache.source_rows(values)
        if self.attention_type == "additive":
            scores = self.score_proj(torch.tanh(queries[..., None, :] + keys[..., None, :, :])).squeeze(-1)
        else:
            scores = torch.matmul(queries, keys.transpose(2, 3))
        if self.attention_type == "multihead":
            scores = scores / math.sqrt(queries.shape[-1])
        weights = torch.softmax(scores if mask is None else scores + mask, dim=-1)  # (B, A, T, S)
        dropped = dropout(weights, self.dropout, self.training)
        context = torch.matmul(dropped, values).transpose(1, 2).flatten(2)  # (B, T, E)
        if cache is not None:
            context, weights = cache.ungroup_output(context, length), cache.ungroup_weights(weights, length)
        return (self.out_proj(context) if self.attention_type == "multihead" else context), weights
