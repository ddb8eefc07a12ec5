"""
Transformer encoder (Vaswani et al. 2017, section 3.1).

Legend: B rows, S source length, E width, H heads, N real tokens of the batch.
"""

from typing import Any

import torch
from torch import nn
from transformers.masking_utils import create_bidirectional_sliding_window_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutput

from .attention_custom_seq2seq import (
    MultiHeadAttention,
    check_flex_training,
    key_padding_mask,
    resolve_implementation,
    with_implementation,
)
from .configuration_transformer_encoder import TransformerEncoderConfig
from .dropout_custom_seq2seq import dropout
from .inputs_custom_seq2seq import (
    check_id_range,
    check_ids_or_embeds,
    check_length,
    check_padding_mask,
    position_ids_from_mask,
)
from .layers_custom_seq2seq import FeedForward, build_embedding, build_norm
from .modeling_transformer_stack import TransformerPreTrainedModel
from .packed_attention_custom_seq2seq import PACKED, can_attend_packed, pack_angles
from .packing_custom_seq2seq import PackedRows, packed_rows


class TransformerEncoderLayer(GradientCheckpointingLayer):
    """Self-attention and feed-forward, each with norm, dropout and residual."""

    def __init__(self, config: TransformerEncoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.is_post_norm, self.dropout = config.norm_position == "post", config.dropout
        self.self_attn = MultiHeadAttention(config, layer_idx, sliding_window=config.sliding_window)
        self.self_attn_layer_norm = build_norm(config)
        self.mlp = FeedForward(config)
        self.final_layer_norm = build_norm(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        attention_mask: torch.Tensor | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        rows: PackedRows | None = None,
        implementation: str = "eager",
    ) -> tuple[torch.Tensor, torch.Tensor | None]:
        """`(B, S, E)`, or packed `(N, E)` with `rows`, to the same shape; weights `(B, H, S, S)` if eager."""
        residual = hidden_states
        if not self.is_post_norm:
            hidden_states = self.self_attn_layer_norm(hidden_states)
        hidden_states, weights = self.self_attn(
            hidden_states, attention_mask=attention_mask, rotary=rotary, query_rows=rows, implementation=implementation
        )
        hidden_states = residual + dropout(hidden_states, self.dropout, self.training)
        if self.is_post_norm:
            hidden_states = self.self_attn_layer_norm(hidden_states)

        residual = hidden_states
        if not self.is_post_norm:
            hidden_states = self.final_layer_norm(hidden_states)
        hidden_states = self.mlp(hidden_states)
        hidden_states = residual + dropout(hidden_states, self.dropout, self.training)
        if self.is_post_norm:
            hidden_states = self.final_layer_norm(hidden_states)
        return hidden_states, weights


class TransformerEncoderModel(TransformerPreTrainedModel):
    r"""
    The bare Transformer encoder.

    Padding is taken out before the embeddings and put back as zeros at the end, so a padded batch costs what its real
    tokens cost (attention apart).

    Args:
        config ([`TransformerEncoderConfig`]).
    """

    config: TransformerEncoderConfig
    config_class = TransformerEncoderConfig
    main_input_name = "input_ids"
    _no_split_modules = ["TransformerEncoderLayer"]
    full_auto_map = {
        "AutoConfig": "configuration_transformer_encoder.TransformerEncoderConfig",
        "AutoModel": "modeling_transformer_encoder.TransformerEncoderModel",
    }

    def __init__(self, config: TransformerEncoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = build_embedding(config)
        self._build_positions()
        self.layernorm_embedding = build_norm(config) if config.embedding_norm else None
        self.layers = nn.ModuleList(
            TransformerEncoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.layer_norm = build_norm(config) if config.has_final_norm else None
        self.gradient_checkpointing = False
        self.post_init()

    def _attention_mask(self, mask: Any, like: torch.Tensor, implementation: str) -> Any:
        """The self-attention mask for `like` of shape `(B, S, any)`, in the form that `implementation` takes."""
        if self.config.sliding_window is not None:
            config = with_implementation(self.config, implementation)
            mask = create_bidirectional_sliding_window_mask(config=config, inputs_embeds=like, attention_mask=mask)
        else:
            mask = key_padding_mask(self.config, implementation, like, like, mask)
        if self.config.position_type == "alibi":
            slots = torch.arange(like.shape[1], device=like.device)
            mask = self._add_alibi(mask, slots, slots, like.dtype)
        return mask

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutput | tuple[torch.Tensor, ...]:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, source_length)`, *optional*): Token ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, source_length)`, *optional*): 1 for tokens, 0 for
                padding; by default nothing is padded. A mask of shape `(batch_size, 1, source_length, source_length)`
                is taken as the attention kernel's own.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, source_length, hidden_size)`, *optional*): In
                place of `input_ids`; already scaled.
            position_ids (`torch.LongTensor` of shape `(batch_size, source_length)`, *optional*): By default real
                tokens are counted from 0.
            output_attentions (`bool`, *optional*): Return the weights of each layer (computed by the eager form).
            output_hidden_states (`bool`, *optional*): Return the input of the first layer and each layer's output;
                the last one after the final norm.
            return_dict (`bool`, *optional*): False for a tuple.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutput`]: `last_hidden_state` of shape
            `(batch_size, source_length, hidden_size)`, zeros at padding.

        Raises:
            ValueError: Ids and embeddings, ids out of range, a mask or position ids of the wrong shape, too many
                tokens for learned positions, or a kernel that cannot train here.
            TypeError: An input that is no tensor.
        """
        owner = type(self).__name__
        check_ids_or_embeds(owner, input_ids, inputs_embeds, self.config.hidden_size)
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        batch_size, length = given.shape[:2]
        check_padding_mask(
            owner, "attention_mask", attention_mask, batch_size, length, num_queries=length, num_keys=length
        )
        if input_ids is not None:
            check_id_range(owner, "input_ids", input_ids, self.config.vocab_size)
        if self.config.position_type == "learned":
            check_length(owner, length, "max_position_embeddings", self.config.max_position_embeddings)
        if output_attentions is None:
            output_attentions = bool(self.config.output_attentions)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        implementation = resolve_implementation(self.config, output_attentions=output_attentions)
        check_flex_training(implementation, self, given.device)

        rows = packed_rows(attention_mask, in_pieces=implementation == "sdpa")
        num_positions: int | None = length
        if position_ids is not None:
            num_positions = self._given_positions(position_ids, batch_size, length, num_positions)
        else:
            if attention_mask is not None and attention_mask.dim() == 2:
                position_ids = position_ids_from_mask(attention_mask, length)
            else:
                position_ids = torch.arange(length, device=given.device)[None]
        hidden_states = self._embed(input_ids, inputs_embeds, position_ids, rows, num_positions)
        rotary = None if self.rotary_emb is None else self.rotary_emb(hidden_states, position_ids)
        if implementation == "sdpa" and can_attend_packed(self.config, rows, hidden_states, training=self.training):
            implementation, mask, rotary = PACKED, None, pack_angles(rotary, rows)
        else:
            like = hidden_states.new_empty((batch_size, length, 0))
            mask = self._attention_mask(attention_mask, like, implementation)

        all_hidden_states: list[torch.Tensor] = []
        all_weights: list[torch.Tensor] = []
        for layer in self.layers:
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            hidden_states, weights = layer(hidden_states, mask, rotary, rows, implementation)
            if output_attentions:
                all_weights.append(weights)
        if self.layer_norm is not None:
            hidden_states = self.layer_norm(hidden_states)
        all_hidden_states.append(hidden_states)
        if rows is not None:
            all_hidden_states = [rows.unpack(states) for states in all_hidden_states]

        output = BaseModelOutput(
            last_hidden_state=all_hidden_states[-1],
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_weights) if output_attentions else None,
        )
        return output if return_dict is not False else output.to_tuple()


TransformerEncoderModel.register_for_auto_class("AutoModel")
