"""
What the Transformer encoder and the Transformer decoder have in common.

Legend: B rows, T length, S key length, E width, H heads, N real tokens of the batch.
"""

from typing import Any

import torch
from torch import nn
from transformers import PreTrainedModel
from transformers import initialization as init

from .attention_custom_seq2seq import check_attention_support
from .auto_map_custom_seq2seq import FullAutoMapMixin
from .checkpoint_custom_seq2seq import CheckedLoadingMixin
from .dropout_custom_seq2seq import dropout
from .inputs_custom_seq2seq import check_position_ids
from .layers_custom_seq2seq import embed_rows
from .packing_custom_seq2seq import PackedRows
from .positions_custom_seq2seq import MAX_TABLE, LearnedPositions, RotaryEmbedding, SinusoidalPositions, alibi_bias


class TransformerPreTrainedModel(CheckedLoadingMixin, FullAutoMapMixin, PreTrainedModel):
    """What our Transformer encoder and decoder have in common: kernels, fresh weights, position modules."""

    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True

    embed_tokens: nn.Module
    layernorm_embedding: nn.Module | None

    def __init__(self, config: Any, *args: Any, **kwargs: Any) -> None:
        config.check()
        super().__init__(config, *args, **kwargs)
        check_attention_support(config, config._attn_implementation)

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; raises `ValueError` for a kernel that cannot compute this model."""
        own = attn_implementation.get("") if isinstance(attn_implementation, dict) else attn_implementation
        check_attention_support(self.config, own)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)

    @torch.no_grad()
    def _init_weights(self, module: nn.Module) -> None:
        super()._init_weights(module)
        if isinstance(module, SinusoidalPositions):
            init.copy_(module.table, module.initial_table().to(module.table))

    def get_input_embeddings(self) -> nn.Module:
        """The token embedding."""
        base: Any = self.base_model
        return base.embed_tokens

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the token embedding."""
        self.base_model.embed_tokens = value

    def _build_positions(self) -> None:
        """Set `embed_positions` and `rotary_emb` as the config asks; each may be None."""
        config = self.config
        self.embed_positions: nn.Module | None = None
        self.rotary_emb = RotaryEmbedding(config) if config.position_type == "rotary" else None
        if config.position_type == "sinusoidal":
            num_positions = min(config.max_position_embeddings, MAX_TABLE // config.hidden_size)
            self.embed_positions = SinusoidalPositions(num_positions, config.hidden_size)
        elif config.position_type == "learned":
            self.embed_positions = LearnedPositions(config.max_position_embeddings, config.hidden_size)

    def _given_positions(
        self, position_ids: torch.Tensor, batch_size: int, length: int, num_positions: int | None
    ) -> int | None:
        """Check position ids of the caller; one more than the greatest, or `num_positions` where nobody looked."""
        limit = self.config.max_position_embeddings if self.config.position_type == "learned" else None
        found = check_position_ids(type(self).__name__, position_ids, batch_size, length, limit)
        return num_positions if found is None else found

    def _embed(
        self,
        input_ids: torch.Tensor | None,
        inputs_embeds: torch.Tensor | None,
        position_ids: torch.Tensor,
        rows: PackedRows | None,
        num_positions: int | None,
    ) -> torch.Tensor:
        """Token and position embeddings: `(B, T, E)`, or packed `(N, E)`; `position_ids` of shape `(B or 1, T)`."""
        if rows is not None:
            position_ids = rows.pack(position_ids)
        if inputs_embeds is None:
            ids: Any = input_ids
            inputs_embeds = embed_rows(self.embed_tokens, ids, rows)
        elif rows is not None:
            inputs_embeds = rows.pack(inputs_embeds)
        if self.embed_positions is not None:
            positions = self.embed_positions(position_ids, num_positions)
            inputs_embeds = inputs_embeds + positions.to(inputs_embeds)
        if self.layernorm_embedding is not None:
            inputs_embeds = self.layernorm_embedding(inputs_embeds)
        return dropout(inputs_embeds, self.config.dropout, self.training)

    def _add_alibi(
        self, mask: torch.Tensor | None, query_slots: torch.Tensor, key_slots: torch.Tensor, dtype: torch.dtype
    ) -> torch.Tensor:
        """A boolean or additive mask `(B, 1, T, S)` (or None: attend to all) and the bias, as one additive mask."""
        bias = alibi_bias(self.config.num_attention_heads, query_slots, key_slots, dtype)
        if mask is None:
            return bias
        if mask.dtype == torch.bool:
            return torch.where(mask, bias, torch.finfo(dtype).min)
        return torch.where(mask < 0, mask, bias + mask)
