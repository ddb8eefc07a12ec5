"""
Transformer decoder (Vaswani et al. 2017, section 3.1), alone or over an encoder.

Legend: B source rows, R decoder rows, T target length of this call, P tokens cached before it, S source length, E
width, H heads, V vocabulary, N real tokens of the batch.
"""

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin
from transformers.cache_utils import Cache, EncoderDecoderCache, StaticLayer
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_layers import GradientCheckpointingLayer
from transformers.modeling_outputs import BaseModelOutputWithPastAndCrossAttentions
from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES

from .attention_custom_seq2seq import (
    MultiHeadAttention,
    check_flex_training,
    cross_attention_implementation,
    key_padding_mask,
    resolve_implementation,
    with_implementation,
)
from .cache_custom_seq2seq import CustomSeq2SeqCache, build_cache, check_cache, check_source_cache
from .cache_recurrent_layer import RECURRENT_MIXERS
from .causal_head_custom_seq2seq import CausalHeadMixin
from .configuration_transformer_decoder import TransformerDecoderConfig
from .dropout_custom_seq2seq import dropout
from .generation_custom_seq2seq import SharedSourceGenerationMixin
from .inputs_custom_seq2seq import (
    check_id_range,
    check_ids_or_embeds,
    check_length,
    check_padding_mask,
    check_source,
    position_ids_from_mask,
)
from .layers_custom_seq2seq import FeedForward, build_embedding, build_norm
from .mixers_custom_seq2seq import LinearRecurrence
from .modeling_transformer_stack import TransformerPreTrainedModel
from .packed_attention_custom_seq2seq import PACKED, can_attend_packed, pack_angles
from .packing_custom_seq2seq import PackedRows, is_tracing, packed_rows, source_rows
from .sequences_custom_seq2seq import decode_sequences
from .tensor_parallel_custom_seq2seq import HEAD_RULE


class TransformerDecoderLayer(GradientCheckpointingLayer):
    """Masked self-attention, cross-attention if there is a source, feed-forward; each with norm, dropout, residual."""

    def __init__(self, config: TransformerDecoderConfig, layer_idx: int) -> None:
        super().__init__()
        self.is_post_norm, self.dropout = config.norm_position == "post", config.dropout
        self.mixer_type = config.resolved_mixer_types[layer_idx]
        self.is_recurrent = self.mixer_type in RECURRENT_MIXERS
        if self.is_recurrent:
            self.recurrence = LinearRecurrence(config, layer_idx, self.mixer_type)
        else:
            window = config.sliding_window if self.mixer_type == "sliding_attention" else None
            self.self_attn = MultiHeadAttention(config, layer_idx, is_causal=True, sliding_window=window)
        self.self_attn_layer_norm = build_norm(config)
        if config.add_cross_attention:
            self.encoder_attn = MultiHeadAttention(config, layer_idx, is_cross_attention=True)
            self.encoder_attn_layer_norm = build_norm(config)
        self.mlp = FeedForward(config)
        self.final_layer_norm = build_norm(config)

    def forward(
        self,
        hidden_states: torch.Tensor,
        encoder_hidden_states: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        rotary: tuple[torch.Tensor, torch.Tensor] | None = None,
        rows: PackedRows | None = None,
        encoder_rows: PackedRows | None = None,
        implementation: str = "eager",
        past_key_values: Cache | None = None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor | None]:
        """
        Args:
            hidden_states (`torch.Tensor` of shape `(R, T, E)`, or packed `(N, E)` with `rows`).
            encoder_hidden_states (`torch.Tensor` of shape `(B, S, E)`, or packed with `encoder_rows`, *optional*).

        Returns:
            The same shape as `hidden_states`; weights of shapes `(R, H, T, P + T)` and `(R, H, T, S)` if eager.
        """
        residual = hidden_states
        if not self.is_post_norm:
            hidden_states = self.self_attn_layer_norm(hidden_states)
        weights = None
        if self.is_recurrent:
            hidden_states = self.recurrence(hidden_states, attention_mask, past_key_values, rows)
        else:
            hidden_states, weights = self.self_attn(
                hidden_states,
                attention_mask=attention_mask,
                rotary=rotary,
                past_key_values=past_key_values,
                query_rows=rows,
                implementation=implementation,
            )
        hidden_states = residual + dropout(hidden_states, self.dropout, self.training)
        if self.is_post_norm:
            hidden_states = self.self_attn_layer_norm(hidden_states)

        cross_weights = None
        if encoder_hidden_states is not None:
            residual = hidden_states
            if not self.is_post_norm:
                hidden_states = self.encoder_attn_layer_norm(hidden_states)
            hidden_states, cross_weights = self.encoder_attn(
                hidden_states,
                encoder_hidden_states,
                attention_mask=encoder_attention_mask,
                past_key_values=past_key_values,
                query_rows=rows,
                key_rows=encoder_rows,
                implementation=cross_attention_implementation(implementation),
            )
            hidden_states = residual + dropout(hidden_states, self.dropout, self.training)
            if self.is_post_norm:
                hidden_states = self.encoder_attn_layer_norm(hidden_states)

        residual = hidden_states
        if not self.is_post_norm:
            hidden_states = self.final_layer_norm(hidden_states)
        hidden_states = self.mlp(hidden_states)
        hidden_states = residual + dropout(hidden_states, self.dropout, self.training)
        if self.is_post_norm:
            hidden_states = self.final_layer_norm(hidden_states)
        return hidden_states, weights, cross_weights


class TransformerDecoderPreTrainedModel(TransformerPreTrainedModel):
    """What the decoder classes say of themselves to transformers."""

    config: TransformerDecoderConfig
    config_class = TransformerDecoderConfig
    _no_split_modules = ["TransformerDecoderLayer"]
    _skip_keys_device_placement = ["past_key_values"]
    full_auto_map = {
        "AutoConfig": "configuration_transformer_decoder.TransformerDecoderConfig",
        "AutoModel": "modeling_transformer_decoder.TransformerDecoderModel",
        "AutoModelForCausalLM": "modeling_transformer_decoder.TransformerDecoderForCausalLM",
    }


class TransformerDecoderModel(TransformerDecoderPreTrainedModel):
    r"""
    The bare Transformer decoder; with `config.add_cross_attention` it attends to a source.

    Outside incremental decoding, padding is taken out before the embeddings and put back as zeros at the end.

    Args:
        config ([`TransformerDecoderConfig`]).
    """

    def __init__(self, config: TransformerDecoderConfig) -> None:
        super().__init__(config)
        self.embed_tokens = build_embedding(config)
        self._build_positions()
        self.layernorm_embedding = build_norm(config) if config.embedding_norm else None
        self.layers = nn.ModuleList(
            TransformerDecoderLayer(config, layer_idx) for layer_idx in range(config.num_hidden_layers)
        )
        self.layer_norm = build_norm(config) if config.has_final_norm else None
        self.gradient_checkpointing = False
        self._is_stateful = any(name in RECURRENT_MIXERS for name in config.resolved_mixer_types)
        self.post_init()

    def _self_attention_masks(
        self,
        mask: Any,
        like: torch.Tensor,
        cache: Cache | None,
        past_length: int | torch.Tensor,
        implementation: str,
        sequence_positions: torch.Tensor | None,
    ) -> dict[str, torch.Tensor | None]:
        """
        One mask for each mixer type of the layers, for `like` of shape `(R, T, any)`; those of attention keep apart
        the sequences that `sequence_positions` `(R or 1, T)` tell.
        """
        config = with_implementation(self.config, "sdpa" if implementation == PACKED else implementation)
        is_alibi = self.config.position_type == "alibi"
        builders = {"full_attention": create_causal_mask, "sliding_attention": create_sliding_window_causal_mask}
        masks: dict[str, torch.Tensor | None] = {}
        for layer_idx, mixer_type in enumerate(self.config.resolved_mixer_types):
            if mixer_type in masks:
                continue
            if mixer_type in RECURRENT_MIXERS:
                is_padding_mask = isinstance(mask, torch.Tensor) and mask.dim() == 2
                masks[mixer_type] = mask[:, -like.shape[1] :] if is_padding_mask else None
                continue
            if implementation == PACKED:
                masks[mixer_type] = None
                continue
            built: Any = mask[mixer_type] if isinstance(mask, dict) else None
            if not isinstance(mask, dict) or (built is None and (is_alibi or implementation == "eager")):
                # In a dict None means causal, left to a kernel that knows; these two need it written out.
                own_layers = [] if cache is None else cache.layers[layer_idx : layer_idx + 1]
                # transformers writes out the mask of one query over unfilled slots only if every layer is static.
                hides_slots = like.shape[1] == 1 and any(isinstance(layer, StaticLayer) for layer in own_layers)
                built = builders[mixer_type](
                    config=config,
                    inputs_embeds=like,
                    attention_mask=None if isinstance(mask, dict) else mask,
                    past_key_values=cache,
                    position_ids=sequence_positions,
                    layer_idx=layer_idx,
                    allow_is_causal_skip=not (is_alibi or hides_slots),
                )
            if is_alibi:
                length = like.shape[1]
                key_length, offset = (length, 0) if cache is None else cache.get_mask_sizes(length, layer_idx)
                query_slots = torch.arange(length, device=like.device) + past_length
                key_slots = torch.arange(key_length, device=like.device) + offset
                built = self._add_alibi(built, query_slots, key_slots, like.dtype)
            masks[mixer_type] = built
        return masks

    @property
    def _num_key_heads(self) -> int:
        """Key and value heads that this process computes."""
        attention = (getattr(layer, name, None) for layer in self.layers for name in ("self_attn", "encoder_attn"))
        return next((one.num_key_heads for one in attention if one is not None), self.config.key_value_heads)

    @staticmethod
    def _num_positions(past_length: int | torch.Tensor, length: int) -> int | None:
        """Cached and new tokens; None where only the accelerator knows them or shapes are being recorded."""
        if isinstance(past_length, torch.Tensor) and (past_length.device.type != "cpu" or is_tracing()):
            return None
        return int(past_length) + length

    def _cross_attention(
        self,
        encoder_hidden_states: torch.Tensor,
        encoder_attention_mask: torch.Tensor | None,
        cache: Cache | None,
        num_rows: int,
        length: int,
        implementation: str,
        decoder_rows: PackedRows | None,
    ) -> tuple[torch.Tensor, torch.Tensor | None, PackedRows | None]:
        """The source as the layers take it: states (packed where keys have still to be computed), mask, rows."""
        num_sources, source_length = encoder_hidden_states.shape[:2]
        check_padding_mask(
            type(self).__name__,
            "encoder_attention_mask",
            encoder_attention_mask,
            num_sources,
            source_length,
            num_keys=source_length,
        )
        if isinstance(cache, EncoderDecoderCache):
            heads = (self._num_key_heads, self.config.attention_head_dim)
            check_source_cache(type(self).__name__, cache, num_sources, source_length, heads)
        if isinstance(cache, CustomSeq2SeqCache):
            cache.check_rows(num_rows, num_sources)
        elif num_rows != num_sources:
            raise ValueError(
                f"{type(self).__name__}: decoder and source must have the same number of rows, got {num_rows} and "
                f"{num_sources}. Only `generate()` may let several rows share a source."
            )
        mask, mask_rows, num_queries = encoder_attention_mask, num_rows, length
        if isinstance(cache, CustomSeq2SeqCache) and cache.source_index is not None:
            if cache.rows_per_source is not None:  # all rows of a source stand in one row of queries
                mask_rows, num_queries = num_sources, length * cache.rows_per_source
            mask = None if mask is None else cache.source_rows(mask)
        if implementation == PACKED:
            rows = source_rows(encoder_attention_mask, encoder_hidden_states, decoder_rows, always=True)
            assert rows is not None
            return rows.pack(encoder_hidden_states), None, rows
        queries = encoder_hidden_states.new_empty((mask_rows, num_queries, 0))
        keys = encoder_hidden_states.new_empty((mask_rows, source_length, 0))
        implementation = cross_attention_implementation(implementation)
        mask = key_padding_mask(self.config, implementation, queries, keys, mask)

        is_cached = isinstance(cache, EncoderDecoderCache) and all(
            cache.is_updated.get(layer_idx) for layer_idx in range(self.config.num_hidden_layers)
        )
        rows = None if is_cached else source_rows(encoder_attention_mask, encoder_hidden_states, decoder_rows)
        return (encoder_hidden_states if rows is None else rows.pack(encoder_hidden_states)), mask, rows

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
        encoder_attention_mask: torch.Tensor | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        position_ids: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
    ) -> BaseModelOutputWithPastAndCrossAttentions | tuple[torch.Tensor, ...]:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): Token ids that follow
                the cached ones.
            attention_mask (`torch.Tensor` of shape `(batch_size, cached + target_length)`, *optional*): 1 for tokens,
                0 for padding. Masks of four dimensions, or a dict of them by layer type, are taken as the attention
                kernel's own (static caches make them).
            encoder_hidden_states (`torch.FloatTensor` of shape `(source_rows, source_length, hidden_size)`,
                *optional*): The source, with `add_cross_attention`.
            encoder_attention_mask (`torch.Tensor` of shape `(source_rows, source_length)`, *optional*): 1 for source
                tokens, 0 for padding.
            past_key_values (`Cache`, *optional*): Extended in place; with cross-attention a [`CustomSeq2SeqCache`] or
                an `EncoderDecoderCache`.
            inputs_embeds (`torch.FloatTensor` of shape `(batch_size, target_length, hidden_size)`, *optional*): In
                place of `input_ids`; already scaled.
            position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): By default real
                tokens are counted from 0, so padding on the left moves nothing. Without a source, a mask or a cache,
                positions that begin anew inside a row part it into sequences that do not see each other (in a compiled
                graph, whose shapes cannot depend on them, layers with attention alone keep them apart).
            use_cache (`bool`, *optional*): Return a cache; by default `config.use_cache` outside training.
            output_attentions (`bool`, *optional*): Return the weights of each layer (computed by the eager form).
            output_hidden_states (`bool`, *optional*): Return the input of the first layer and each layer's output;
                the last one after the final norm.
            return_dict (`bool`, *optional*): False for a tuple.

        Returns:
            [`~transformers.modeling_outputs.BaseModelOutputWithPastAndCrossAttentions`]: `last_hidden_state` of shape
            `(batch_size, target_length, hidden_size)`; at padding zeros without a cache, anything with one.

        Raises:
            ValueError: Ids and embeddings, ids out of range, a mask or position ids of the wrong shape, too many
                tokens for learned positions, a source where none can be or none where one must be, row counts that
                differ, a cache of another model, or one that holds tokens where layers are checkpointed.
            TypeError: An input that is no tensor, or a cache that is none.
        """
        owner = type(self).__name__
        config = self.config
        check_ids_or_embeds(owner, input_ids, inputs_embeds, config.hidden_size)
        check_source(owner, encoder_hidden_states, config)
        given: Any = input_ids if inputs_embeds is None else inputs_embeds
        batch_size, length = given.shape[:2]
        if input_ids is not None:
            check_id_range(owner, "input_ids", input_ids, config.vocab_size)
        is_alone = attention_mask is None and past_key_values is None and encoder_hidden_states is None
        sequence_positions = position_ids if is_alone and is_tracing() else None
        if position_ids is not None and is_alone:
            by_sequence = decode_sequences(
                self,
                given,
                position_ids,
                use_cache=use_cache,
                output_attentions=output_attentions,
                output_hidden_states=output_hidden_states,
                return_dict=return_dict,
            )
            if by_sequence is not None:
                return by_sequence
        if output_attentions is None:
            output_attentions = bool(config.output_attentions)
        if output_hidden_states is None:
            output_hidden_states = bool(config.output_hidden_states)
        implementation = resolve_implementation(config, output_attentions=output_attentions)
        check_flex_training(implementation, self, given.device)

        if use_cache is None:
            use_cache = config.use_cache and not self.training
        if self.gradient_checkpointing and self.training and torch.is_grad_enabled():  # layers run twice
            num_cached = int(past_key_values.get_seq_length()) if isinstance(past_key_values, Cache) else 0
            if num_cached > 0:
                raise ValueError(
                    f"{owner}: `past_key_values` must be empty or None with gradient checkpointing in training (a "
                    f"layer runs twice and would extend it twice), got {num_cached} tokens. Pass all tokens in one "
                    "call, or call `gradient_checkpointing_disable()`."
                )
            use_cache, past_key_values = False, None
        num_keys = length if past_key_values is None else None
        if use_cache and past_key_values is None:
            past_key_values = build_cache(config, encoder_hidden_states is not None)
        past_length: int | torch.Tensor = 0
        if past_key_values is not None:
            check_cache(owner, past_key_values, config, batch_size, self._num_key_heads)
            past_length = past_key_values.get_seq_length()
        if isinstance(past_length, int):
            check_padding_mask(
                owner,
                "attention_mask",
                attention_mask,
                batch_size,
                length,
                cached=past_length,
                num_queries=length,
                num_keys=num_keys,
            )
        num_positions = self._num_positions(past_length, length)
        if num_positions is not None and config.position_type == "learned":
            check_length(owner, num_positions, "max_position_embeddings", config.max_position_embeddings)

        padding_mask = attention_mask if isinstance(attention_mask, torch.Tensor) else None
        padding_mask = padding_mask if padding_mask is not None and padding_mask.dim() == 2 else None
        rows = None
        if past_key_values is None:
            rows = packed_rows(padding_mask, encoder_attention_mask, in_pieces=implementation == "sdpa")
        if position_ids is not None:
            num_positions = self._given_positions(position_ids, batch_size, length, num_positions)
        elif padding_mask is not None:
            position_ids = position_ids_from_mask(padding_mask, length)
        else:
            position_ids = (torch.arange(length, device=given.device) + past_length)[None]
        hidden_states = self._embed(input_ids, inputs_embeds, position_ids, rows, num_positions)
        rotary = None if self.rotary_emb is None else self.rotary_emb(hidden_states, position_ids)
        if implementation == "sdpa" and can_attend_packed(
            config,
            rows,
            hidden_states,
            encoder_attention_mask,
            layer_types=config.resolved_mixer_types,
            training=self.training,
        ):
            implementation, rotary = PACKED, pack_angles(rotary, rows)
        own_cache = past_key_values
        if isinstance(own_cache, EncoderDecoderCache):
            own_cache = own_cache.self_attention_cache
        like = hidden_states.new_empty((batch_size, length, 0))
        masks = self._self_attention_masks(
            attention_mask,
            like,
            own_cache,
            past_length,
            implementation,
            sequence_positions,
        )
        encoder_rows = None
        if encoder_hidden_states is not None:
            encoder_hidden_states, encoder_attention_mask, encoder_rows = self._cross_attention(
                encoder_hidden_states,
                encoder_attention_mask,
                past_key_values,
                batch_size,
                length,
                implementation,
                rows,
            )

        layer: Any
        all_hidden_states: list[torch.Tensor] = []
        all_weights: list[torch.Tensor] = []
        all_cross_weights: list[torch.Tensor] = []
        for layer in self.layers:
            if output_hidden_states:
                all_hidden_states.append(hidden_states)
            hidden_states, weights, cross_weights = layer(
                hidden_states,
                encoder_hidden_states,  # positional: reentrant gradient checkpointing sees its gradient
                masks[layer.mixer_type],
                encoder_attention_mask,
                rotary,
                rows,
                encoder_rows,
                implementation,
                past_key_values,  # positional: gradient checkpointing takes it away by name, without gradients too
            )
            if output_attentions:
                all_weights.append(weights)
                all_cross_weights.append(cross_weights)
        if self.layer_norm is not None:
            hidden_states = self.layer_norm(hidden_states)
        all_hidden_states.append(hidden_states)
        if rows is not None:
            all_hidden_states = [rows.unpack(states) for states in all_hidden_states]

        output = BaseModelOutputWithPastAndCrossAttentions(
            last_hidden_state=all_hidden_states[-1],
            past_key_values=past_key_values if use_cache else None,
            hidden_states=tuple(all_hidden_states) if output_hidden_states else None,
            attentions=tuple(all_weights) if output_attentions else None,
            cross_attentions=tuple(all_cross_weights) if output_attentions and config.add_cross_attention else None,
        )
        return output if return_dict is not False else output.to_tuple()


class TransformerDecoderForCausalLM(  # type: ignore[misc]  # the hooks narrow signatures
    CausalHeadMixin, SharedSourceGenerationMixin, TransformerDecoderPreTrainedModel, GenerationMixin
):
    r"""
    The Transformer decoder as a language model.

    With `labels` in training mode `logits` is None (the vocabulary projection sees label positions only); without
    labels, and in evaluation mode, logits are complete.

    Args:
        config ([`TransformerDecoderConfig`]).
    """

    _tied_weights_keys = {"lm_head.weight": "model.embed_tokens.weight"}
    _tp_plan = {"lm_head": HEAD_RULE}

    def __init__(self, config: TransformerDecoderConfig) -> None:
        super().__init__(config)
        self.build_head(TransformerDecoderModel(config), config.output_size)


TransformerDecoderModel.register_for_auto_class("AutoModel")
TransformerDecoderForCausalLM.register_for_auto_class("AutoModelForCausalLM")

# The Trainer's label smoothing shifts the labels only of classes that it finds by name in this mapping. The line is
# here, not where classes are registered, so that a model whose code came with its checkpoint is found too.
MODEL_FOR_CAUSAL_LM_MAPPING_NAMES[TransformerDecoderConfig.model_type] = TransformerDecoderForCausalLM.__name__
