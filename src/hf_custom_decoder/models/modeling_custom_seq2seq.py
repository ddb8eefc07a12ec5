"""
Encoder-decoder models: any encoder, one of our decoders or one of your own.

Legend: B source rows, R decoder rows (B, or B times the beams in generation), S source length, T target length, E
width, V vocabulary of the decoder.
"""

from typing import Any

import torch
from torch import nn
from transformers import GenerationMixin, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput

from .bridge_custom_seq2seq import StateBridge, resolve_bridge_type
from .causal_head_custom_seq2seq import select_positions
from .configuration_custom_seq2seq import CustomSeq2SeqConfig, encoder_width, length_rule, output_width
from .configuration_recurrent_decoder import RecurrentDecoderConfig
from .decoder_custom_seq2seq import DECODER_CLASSES, decoder_class
from .embeddings_custom_seq2seq import ResizeBySideMixin
from .encoder_custom_seq2seq import build_encoder, forward_arguments
from .few_rows_linear_custom_seq2seq import vocabulary_logits
from .generation_custom_seq2seq import SharedSourceGenerationMixin
from .inputs_custom_seq2seq import check_id_range
from .loss_custom_seq2seq import check_labels, mask_up_to_last_label, sequence_loss
from .loss_custom_seq2seq import shift_tokens_right as shift_tokens_right
from .pretrained_custom_seq2seq import CustomSeq2SeqPreTrainedModel as CustomSeq2SeqPreTrainedModel
from .sides_custom_seq2seq import CustomSeq2SeqSides
from .tensor_parallel_custom_seq2seq import HEAD_RULE, whole_where_tied
from .vocabulary_head_custom_seq2seq import CustomSeq2SeqHead


class CustomSeq2SeqModel(ResizeBySideMixin, CustomSeq2SeqSides):  # type: ignore[misc]  # narrower
    r"""
    Encoder, bridge and decoder without a vocabulary projection.

    Args:
        config ([`CustomSeq2SeqConfig`]).
        encoder (`PreTrainedModel`, *optional*): Used as it is, in place of fresh weights.
    """

    _tied_weights_keys = {"encoder.embed_tokens.weight": "decoder.embed_tokens.weight"}

    def __init__(self, config: CustomSeq2SeqConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.encoder = build_encoder(config.encoder) if encoder is None else encoder
        self.decoder = decoder_class(config.decoder)(config.decoder)
        self._decoder_names = None
        if config.decoder.model_type not in DECODER_CLASSES:
            names, takes_any = forward_arguments(self.decoder)
            self._decoder_names = None if takes_any else names
        self._can_compile_fullgraph = bool(self.decoder._can_compile_fullgraph)
        source_width, target_width = encoder_width(config.encoder), config.decoder.hidden_size
        self.bridge = nn.Linear(source_width, target_width) if source_width != target_width else None
        self.state_bridge = None
        if config.decoder.model_type == RecurrentDecoderConfig.model_type:
            bridge_type = resolve_bridge_type(config.encoder, config.decoder)
            if bridge_type != "zeros":
                self.state_bridge = StateBridge(config.encoder, config.decoder, bridge_type)
        self._encoder_names, self._encoder_takes_any = forward_arguments(self.encoder)
        self.main_input_name = self.encoder.main_input_name
        if config.tie_encoder_decoder_embeddings:  # a foreign encoder calls its embedding as it likes
            self._tied_weights_keys = {self.embedding_name("encoder"): self.embedding_name("decoder")}
        self.post_init()
        self._tp_plan = whole_where_tied(self.tp_plan, self.all_tied_weights_keys)

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        encoder_outputs: BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        **encoder_kwargs: Any,
    ) -> Seq2SeqModelOutput | tuple[torch.Tensor, ...]:
        r"""
        Args:
            input_ids (`torch.LongTensor` of shape `(batch_size, source_length)`, *optional*): Source ids.
            attention_mask (`torch.Tensor` of shape `(batch_size, source_length)`, *optional*): 1 for source tokens, 0
                for padding.
            decoder_input_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): Target ids that
                follow the cached ones; the first of all is the start token.
            decoder_attention_mask (`torch.Tensor` of shape `(batch_size, cached + target_length)`, *optional*): 1 for
                target tokens, 0 for padding; or the kernel's own masks, see [`TransformerDecoderModel`].
            encoder_outputs (`BaseModelOutput` or `tuple`, *optional*): Encoder states of shape
                `(batch_size, source_length, encoder_width)` first; the encoder is then not run.
            past_key_values (`Cache`, *optional*): See [`TransformerDecoderModel`].
            inputs_embeds, decoder_inputs_embeds (`torch.FloatTensor` of shape `(batch_size, length, width)`): In
                place of ids.
            decoder_position_ids (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): By default
                real target tokens are counted from 0.
            token_type_ids, pixel_values, input_features, input_values and further keywords: For encoders that take
                them.
            use_cache, output_attentions, output_hidden_states, return_dict: See [`TransformerDecoderModel`].

        Returns:
            [`~transformers.modeling_outputs.Seq2SeqModelOutput`]: `last_hidden_state` of shape
            `(batch_size, target_length, hidden_size)` and, of the encoder, `encoder_last_hidden_state` of shape
            `(batch_size, source_length, encoder_width)`.

        Raises:
            ValueError: Neither source nor `encoder_outputs`, and all that [`TransformerDecoderModel`] refuses.
            TypeError: A keyword that the encoder does not take.
        """
        if output_attentions is None:
            output_attentions = bool(self.config.output_attentions)
        if output_hidden_states is None:
            output_hidden_states = bool(self.config.output_hidden_states)
        if encoder_outputs is None:
            encoder_kwargs.update(
                input_ids=input_ids,
                attention_mask=attention_mask,
                inputs_embeds=inputs_embeds,
                token_type_ids=token_type_ids,
                pixel_values=pixel_values,
                input_features=input_features,
                input_values=input_values,
            )
            if input_ids is not None and hasattr(self.config.encoder, "vocab_size"):
                check_id_range(type(self).__name__, "input_ids", input_ids, self.config.encoder.vocab_size)
            flags = {"output_attentions": output_attentions, "output_hidden_states": output_hidden_states}
            encoder_outputs = self._encode(encoder_kwargs, flags)
        elif not isinstance(encoder_outputs, dict):
            parts: Any = encoder_outputs[:3]
            encoder_outputs = BaseModelOutput(*parts)
        states = encoder_outputs["last_hidden_state"]
        if states.dim() != 3 or states.shape[-1] != encoder_width(self.config.encoder):
            raise ValueError(
                f"{type(self).__name__}: encoder states must have the shape (batch_size, source_length, "
                f"{encoder_width(self.config.encoder)}), got {tuple(states.shape)}. Pass the output of this model's "
                "encoder, or use an encoder that returns one state for each position."
            )
        if decoder_input_ids is None and decoder_inputs_embeds is None:
            raise ValueError(
                f"{type(self).__name__}: give `decoder_input_ids`, `decoder_inputs_embeds` or `labels`, got none of "
                "them. With label smoothing in the Trainer, use a collator that adds `decoder_input_ids` "
                "(`DataCollatorForSeq2Seq(tokenizer, model=model)`), or set `label_smoothing` in the model config."
            )
        initial = {}
        is_filled = isinstance(past_key_values, Cache) and past_key_values.get_seq_length() > 0
        if self.state_bridge is not None and not is_filled:
            initial["initial_states"] = self._initial_states(encoder_outputs)
        arguments = {
            "input_ids": decoder_input_ids,
            "attention_mask": decoder_attention_mask,
            "encoder_hidden_states": states if self.bridge is None else self.bridge(states),
            "encoder_attention_mask": self._source_mask(attention_mask, states),
            "past_key_values": past_key_values,
            "inputs_embeds": decoder_inputs_embeds,
            "position_ids": decoder_position_ids,
            "use_cache": use_cache,
            "output_attentions": output_attentions,
            "output_hidden_states": output_hidden_states,
            "return_dict": True,
            **initial,
        }
        if self.config.decoder.model_type in DECODER_CLASSES:
            outputs = self.decoder(**arguments)
        else:
            outputs = self._run_user_decoder(arguments)
        output = Seq2SeqModelOutput(
            last_hidden_state=outputs.last_hidden_state,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.get("hidden_states"),
            decoder_attentions=outputs.get("attentions"),
            cross_attentions=outputs.get("cross_attentions"),
            encoder_last_hidden_state=states,
            encoder_hidden_states=encoder_outputs.get("hidden_states"),
            encoder_attentions=encoder_outputs.get("attentions"),
        )
        return output if return_dict is not False else output.to_tuple()


class CustomSeq2SeqForConditionalGeneration(  # type: ignore[misc]  # the hooks narrow signatures
    ResizeBySideMixin, SharedSourceGenerationMixin, CustomSeq2SeqHead, GenerationMixin
):
    r"""
    Encoder, decoder and vocabulary projection: the class behind `AutoModelForSeq2SeqLM`.

    It behaves as BART does under `Trainer`, `generate()` and the collators, with one difference: with `labels` in
    training mode `logits` is None (the vocabulary projection sees label positions only) unless
    `config.return_logits_in_training`. Without labels, and in evaluation mode, logits are complete.

    Args:
        config ([`CustomSeq2SeqConfig`]).
        encoder (`PreTrainedModel`, *optional*): Used as it is, in place of fresh weights.
    """

    _tied_weights_keys = {
        "lm_head.weight": "model.decoder.embed_tokens.weight",
        "model.encoder.embed_tokens.weight": "model.decoder.embed_tokens.weight",
    }
    accepts_loss_kwargs = True

    def __init__(self, config: CustomSeq2SeqConfig, encoder: PreTrainedModel | None = None) -> None:
        super().__init__(config)
        self.model = CustomSeq2SeqModel(config, encoder)
        decoder = config.decoder
        bias = bool(getattr(decoder, "lm_head_bias", False))
        self.lm_head = nn.Linear(output_width(decoder), decoder.vocab_size, bias=bias)
        self._is_stateful = bool(self.model.decoder._is_stateful)
        self._can_compile_fullgraph = self.model._can_compile_fullgraph
        is_ours = decoder.model_type in DECODER_CLASSES
        self._can_share_sources = is_ours or bool(getattr(self.model.decoder, "supports_shared_sources", False))
        self.main_input_name = self.model.main_input_name
        tied = ["lm_head.weight"] if config.tie_word_embeddings else []
        tied += [f"model.{self.model.embedding_name('encoder')}"] if config.tie_encoder_decoder_embeddings else []
        if tied:
            self._tied_weights_keys = dict.fromkeys(tied, f"model.{self.model.embedding_name('decoder')}")
        self.post_init()
        head = {"lm_head": HEAD_RULE} if self.model.decoder.tp_plan else {}
        self._tp_plan = whole_where_tied({**self.tp_plan, **head}, self.all_tied_weights_keys)
        self.generation_config.decoder_start_token_id = config.start_token_id
        if self.generation_config.max_length is None or self.generation_config.max_length == 20:
            self.generation_config.max_length = length_rule(config.decoder)

    @property
    def _shares_sources(self) -> bool:  # type: ignore[override]  # a flag of the mixin
        """Whether rows may share a source; not where peft's prefix tuning puts a cache of its own in place of ours."""
        caller = getattr(self.prepare_inputs_for_generation, "__self__", self)
        adapter = None if caller is self else getattr(caller, "active_peft_config", None)
        return self._can_share_sources and getattr(adapter, "peft_type", None) != "PREFIX_TUNING"

    def forward(
        self,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
        decoder_input_ids: torch.Tensor | None = None,
        decoder_attention_mask: torch.Tensor | dict[str, torch.Tensor] | None = None,
        encoder_outputs: BaseModelOutput | tuple[torch.Tensor, ...] | None = None,
        past_key_values: Cache | None = None,
        inputs_embeds: torch.Tensor | None = None,
        decoder_inputs_embeds: torch.Tensor | None = None,
        labels: torch.Tensor | None = None,
        use_cache: bool | None = None,
        output_attentions: bool | None = None,
        output_hidden_states: bool | None = None,
        return_dict: bool | None = None,
        logits_to_keep: int | torch.Tensor = 0,
        num_items_in_batch: torch.Tensor | int | None = None,
        decoder_position_ids: torch.Tensor | None = None,
        token_type_ids: torch.Tensor | None = None,
        pixel_values: torch.Tensor | None = None,
        input_features: torch.Tensor | None = None,
        input_values: torch.Tensor | None = None,
        **encoder_kwargs: Any,
    ) -> Seq2SeqLMOutput | tuple[torch.Tensor, ...]:
        r"""
        Args:
            labels (`torch.LongTensor` of shape `(batch_size, target_length)`, *optional*): Target ids, -100 where
                nothing counts. Not shifted: position t of the decoder predicts `labels[:, t]`. Where neither
                `decoder_input_ids` nor `decoder_inputs_embeds` is given they are made from the labels.
            logits_to_keep (`int` or `torch.Tensor`, defaults to 0): The last so many positions, or these positions,
                get logits; 0 for all.
            num_items_in_batch (`int` or tensor, *optional*): Label positions of all batches that are accumulated into
                one optimizer step; the summed loss is divided by it. The Trainer passes it. By default the loss is
                the mean over this batch's label positions.
            input_ids, attention_mask, decoder_input_ids, decoder_attention_mask, encoder_outputs, past_key_values,
            inputs_embeds, decoder_inputs_embeds, decoder_position_ids, token_type_ids, pixel_values, input_features,
            input_values, use_cache, output_attentions, output_hidden_states, return_dict:
                See [`CustomSeq2SeqModel`].

        Returns:
            [`~transformers.modeling_outputs.Seq2SeqLMOutput`]: `loss` in nats a label position, `logits` of shape
            `(batch_size, target_length or logits_to_keep, vocab_size)`.

        Raises:
            ValueError: Labels out of range or of another shape than the decoder input; see also
                [`CustomSeq2SeqModel`].
        """
        returns_logits = labels is None or not self.training or self.config.return_logits_in_training
        if labels is not None:
            check_labels(labels, self.config.vocab_size)
            use_cache = False if use_cache is None else use_cache
            if decoder_input_ids is None and decoder_inputs_embeds is None:
                decoder_input_ids = self.prepare_decoder_input_ids_from_labels(labels)
            given: Any = decoder_input_ids if decoder_inputs_embeds is None else decoder_inputs_embeds
            if labels.shape != given.shape[:2]:
                raise ValueError(
                    f"{type(self).__name__}: `labels` and the decoder input must have the same shape, got "
                    f"{tuple(labels.shape)} and {tuple(given.shape[:2])}. Shift the labels right by one for the "
                    "decoder."
                )
            is_filled = isinstance(past_key_values, Cache) and past_key_values.get_seq_length() > 0  # prefix tuning
            if decoder_attention_mask is None and not returns_logits and not is_filled:
                decoder_attention_mask = mask_up_to_last_label(labels)
        outputs = self.model(
            input_ids=input_ids,
            attention_mask=attention_mask,
            decoder_input_ids=decoder_input_ids,
            decoder_attention_mask=decoder_attention_mask,
            encoder_outputs=encoder_outputs,
            past_key_values=past_key_values,
            inputs_embeds=inputs_embeds,
            decoder_inputs_embeds=decoder_inputs_embeds,
            use_cache=use_cache,
            output_attentions=output_attentions,
            output_hidden_states=output_hidden_states,
            return_dict=True,
            decoder_position_ids=decoder_position_ids,
            token_type_ids=token_type_ids,
            pixel_values=pixel_values,
            input_features=input_features,
            input_values=input_values,
            **encoder_kwargs,
        )
        hidden_states = outputs.last_hidden_state  # (R, T, E)
        logits = loss = None
        keeps_all = isinstance(logits_to_keep, int) and logits_to_keep == 0
        if returns_logits:
            logits = vocabulary_logits(self.lm_head, select_positions(hidden_states, logits_to_keep))
        if labels is not None:
            loss = sequence_loss(
                hidden_states,
                logits if keeps_all else None,
                labels,
                self.lm_head,
                num_items_in_batch=num_items_in_batch,
                label_smoothing=self.config.label_smoothing if self.training else 0.0,
            )
        output = Seq2SeqLMOutput(
            loss=loss,
            logits=logits,
            past_key_values=outputs.past_key_values,
            decoder_hidden_states=outputs.decoder_hidden_states,
            decoder_attentions=outputs.decoder_attentions,
            cross_attentions=outputs.cross_attentions,
            encoder_last_hidden_state=outputs.encoder_last_hidden_state,
            encoder_hidden_states=outputs.encoder_hidden_states,
            encoder_attentions=outputs.encoder_attentions,
        )
        return output if return_dict is not False else output.to_tuple()


CustomSeq2SeqModel.register_for_auto_class("AutoModel")
CustomSeq2SeqForConditionalGeneration.register_for_auto_class("AutoModelForSeq2SeqLM")
