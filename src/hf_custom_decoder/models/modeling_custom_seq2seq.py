"""
Encoder-decoder models: any encoder, one of our decoders or one of your own.

Legend: B source rows, R decoder rows (B, or B times the beams in generation), S source length, T target length, E
width, V vocabulary of the decoder.
"""

import os
from typing import Any

import torch
from torch import nn
from transformers import AutoConfig, AutoModel, GenerationMixin, PreTrainedConfig, PreTrainedModel
from transformers.cache_utils import Cache
from transformers.modeling_outputs import BaseModelOutput, Seq2SeqLMOutput, Seq2SeqModelOutput

from .attention_custom_seq2seq import check_parts_support
from .auto_map_custom_seq2seq import FullAutoMapMixin
from .bridge_custom_seq2seq import StateBridge, resolve_bridge_type
from .causal_head_custom_seq2seq import select_positions
from .checkpoint_custom_seq2seq import CheckedLoadingMixin
from .configuration_custom_seq2seq import CustomSeq2SeqConfig, encoder_width, length_rule, output_width
from .configuration_recurrent_decoder import RecurrentDecoderConfig
from .configuration_transformer_decoder import TransformerDecoderConfig
from .embeddings_custom_seq2seq import ResizeBySideMixin
from .encoder_custom_seq2seq import build_encoder, check_encoder, encoder_half, forward_arguments, without_pooler
from .generation_custom_seq2seq import SharedSourceGenerationMixin
from .inputs_custom_seq2seq import check_id_range
from .loss_custom_seq2seq import IGNORE_INDEX, check_labels, sequence_loss
from .modeling_recurrent_decoder import RecurrentDecoderModel
from .modeling_transformer_decoder import TransformerDecoderModel
from .tensor_parallel_custom_seq2seq import HEAD_RULE, whole_where_tied
from .user_decoder_custom_seq2seq import (
    build_user_cache,
    is_unresolved,
    load_user_class,
    user_class,
    user_decoder_class,
    with_resolved_decoder,
)

DECODER_CLASSES: dict[str, type[PreTrainedModel]] = {
    TransformerDecoderConfig.model_type: TransformerDecoderModel,
    RecurrentDecoderConfig.model_type: RecurrentDecoderModel,
}
"""By model type, as the encoders are."""

HUB_ARGUMENTS = (
    "revision",
    "trust_remote_code",
    "token",
    "cache_dir",
    "local_files_only",
    "force_download",
    "subfolder",
)


def decoder_class(config: PreTrainedConfig) -> type[PreTrainedModel]:
    """The model class of a decoder config: ours, or that of a user."""
    return DECODER_CLASSES.get(config.model_type) or user_decoder_class(config)


def shift_tokens_right(labels: torch.Tensor, pad_token_id: int, decoder_start_token_id: int) -> torch.Tensor:
    """
    Decoder input for labels: the start token, then every label but the last; ignored ones become padding.

    Args:
        labels (`torch.LongTensor` of shape `(B, T)`).

    Returns:
        `torch.LongTensor` of shape `(B, T)`.
    """
    shifted = labels.new_empty(labels.shape)
    shifted[:, 1:] = labels[:, :-1]
    shifted[:, 0] = decoder_start_token_id
    return shifted.masked_fill_(shifted == IGNORE_INDEX, pad_token_id)


def mask_up_to_last_label(labels: torch.Tensor) -> torch.Tensor:
    """1 for decoder positions that some label depends on: those up to each row's last label; shape `(B, T)`."""
    return (labels != IGNORE_INDEX).flip(1).cumsum(1).flip(1).clamp(max=1)


class CustomSeq2SeqPreTrainedModel(CheckedLoadingMixin, FullAutoMapMixin, PreTrainedModel):
    """What the seq2seq classes say of themselves to transformers."""

    config: CustomSeq2SeqConfig
    config_class = CustomSeq2SeqConfig
    base_model_prefix = "model"
    supports_gradient_checkpointing = True
    _supports_sdpa = True
    _supports_flash_attn = True
    _supports_flex_attn = True
    _supports_attention_backend = True
    _can_compile_fullgraph = True
    _no_split_modules = []
    _skip_keys_device_placement = ["past_key_values"]
    full_auto_map = {
        "AutoConfig": "configuration_custom_seq2seq.CustomSeq2SeqConfig",
        "AutoModel": "modeling_custom_seq2seq.CustomSeq2SeqModel",
        "AutoModelForSeq2SeqLM": "modeling_custom_seq2seq.CustomSeq2SeqForConditionalGeneration",
    }

    def __init__(self, config: CustomSeq2SeqConfig, *args: Any, **kwargs: Any) -> None:
        decoder_class(config.decoder)  # refuses a decoder without a class before anything is built
        config.check()
        super().__init__(config, *args, **kwargs)

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """
        As in transformers, except that weights which a checkpoint lacks are an error (a new head is not), and that
        the code of a decoder that travels with the checkpoint is run, with `trust_remote_code=True` only.

        Raises:
            ValueError: The checkpoint is truncated, is no safetensors file, belongs to another model, or carries code
                for its decoder and `trust_remote_code` is not set.
        """
        loaded: type[PreTrainedModel] | None = None
        path, hub = str(pretrained_model_name_or_path), {one: kwargs[one] for one in HUB_ARGUMENTS if one in kwargs}
        if pretrained_model_name_or_path is not None and hub.get("trust_remote_code"):
            config: Any = kwargs.get("config")
            is_given = isinstance(config, PreTrainedConfig)
            if not is_given:
                config = cls.config_class.from_pretrained(path if config is None else config, **hub)
            if is_unresolved(config.decoder):
                loaded = load_user_class(config.decoder.to_dict(), path, hub)
                if is_given:
                    kwargs["config"] = with_resolved_decoder(config, loaded)
        with user_class(loaded):
            return super().from_pretrained(pretrained_model_name_or_path, *args, **kwargs)

    def set_attn_implementation(self, attn_implementation: str | dict[str, str], *args: Any, **kwargs: Any) -> None:
        """As in transformers; raises `ValueError`, and changes nothing, for a kernel that cannot compute a part."""
        check_parts_support(self.config, attn_implementation)
        super().set_attn_implementation(attn_implementation, *args, **kwargs)
        encoder = self.get_encoder()
        if isinstance(attn_implementation, dict) and encoder.config is not self.config.encoder:
            # The encoder half of T5 or BART has a config of its own, which transformers does not find by this name.
            if "encoder" in attn_implementation:
                encoder.set_attn_implementation(attn_implementation["encoder"])

    @property
    def dummy_inputs(self) -> dict[str, torch.Tensor]:
        """A batch of two short rows."""
        ids = torch.tensor([[3, 4, 5, 6], [3, 4, 5, 6]], device=self.device) % self.config.vocab_size
        return {"input_ids": ids, "decoder_input_ids": ids}


class CustomSeq2SeqModel(ResizeBySideMixin, CustomSeq2SeqPreTrainedModel):  # type: ignore[misc]  # narrower
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
        self._decoder_names: set[str] | None = None  # what a user's decoder takes; ours take everything
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

    def get_encoder(self, modality: str | None = None) -> PreTrainedModel:
        """The encoder."""
        return self.encoder

    def get_decoder(self) -> PreTrainedModel:
        """The decoder."""
        return self.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embedding, where it has one, else the decoder's."""
        try:
            return self.encoder.get_input_embeddings()
        except NotImplementedError:
            return self.decoder.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embedding; the decoder's too where the two are tied."""
        self.encoder.set_input_embeddings(value)
        if self.config.tie_encoder_decoder_embeddings:
            self.decoder.set_input_embeddings(value)

    def embedding_name(self, side: str) -> str:
        """
        Name of the token embedding matrix of a side (`"encoder"` or `"decoder"`) below this module.

        Raises:
            ValueError: That side has none.
        """
        part = getattr(self, side)
        try:
            weight = getattr(part.get_input_embeddings(), "weight", None)
        except NotImplementedError:
            weight = None
        for name, parameter in part.named_parameters(remove_duplicate=False):
            if parameter is weight:
                return f"{side}.{name}"
        raise ValueError(
            f"Tied embeddings need {'an encoder' if side == 'encoder' else 'a decoder'} with a token embedding "
            f"(`get_input_embeddings`), {type(part).__name__} has none. Set `tie_encoder_decoder_embeddings=False`"
            f"{'' if side == 'encoder' else ' and `tie_word_embeddings=False`'}."
        )

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Which weights are which, `{target: source}`; here by `tie_encoder_decoder_embeddings`."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        if not self.config.tie_encoder_decoder_embeddings:
            return {}
        return {self.embedding_name("encoder"): self.embedding_name("decoder")}

    def _encode(self, arguments: dict[str, Any], flags: dict[str, Any]) -> BaseModelOutput:
        """Run the encoder on those of `arguments` that it takes."""
        for name in [name for name, value in arguments.items() if value is None]:
            del arguments[name]
        refused = [name for name in arguments if name not in self._encoder_names and not self._encoder_takes_any]
        if self.main_input_name not in ("input_ids", "inputs_embeds"):
            arguments.pop("attention_mask", None) if "attention_mask" in refused else None
            refused = [name for name in refused if name != "attention_mask"]
        if "token_type_ids" in refused:  # tokenizers make them unasked
            del arguments["token_type_ids"]
            refused.remove("token_type_ids")
        if refused:
            raise TypeError(
                f"{type(self).__name__}: {type(self.encoder).__name__} takes no "
                f"{', '.join(f'`{name}`' for name in refused)}. Leave it out, or correct the name."
            )
        if self.main_input_name not in arguments and "inputs_embeds" not in arguments:
            raise ValueError(
                f"{type(self).__name__}: the encoder needs `{self.main_input_name}` (or `encoder_outputs`), got "
                "neither. Pass one of them."
            )
        return self.encoder(**arguments, **flags, return_dict=True)

    def _initial_states(self, encoder_outputs: BaseModelOutput) -> torch.Tensor:
        """First states of the decoder from the encoder's final ones, `(B, layers, 1 or 2, width)`."""
        final_states = encoder_outputs.get("final_states")
        if final_states is None:
            raise ValueError(
                f"{type(self).__name__}: `encoder_outputs` must carry `final_states` for this decoder's bridge, got "
                "none. Pass the output of this model's encoder as it is (no tuple)."
            )
        assert self.state_bridge is not None
        states: torch.Tensor = self.state_bridge(final_states)
        return states

    def _run_user_decoder(self, arguments: dict[str, Any]) -> Any:
        """Run a user's decoder on those arguments that it takes, with a cache wherever one is wanted."""
        owner = type(self.decoder).__name__
        if arguments["use_cache"] is None:
            arguments["use_cache"] = bool(getattr(self.config.decoder, "use_cache", True)) and not self.training
        if arguments["use_cache"] and arguments["past_key_values"] is None:
            arguments["past_key_values"] = build_user_cache(self.decoder)
        ids = arguments["input_ids"]
        if ids is not None:
            check_id_range(owner, "decoder_input_ids", ids, self.config.vocab_size)
        elif self._decoder_names is not None and "inputs_embeds" not in self._decoder_names:
            raise TypeError(f"{owner}: `forward` takes no `inputs_embeds`, got `decoder_inputs_embeds`. Pass ids.")
        if self._decoder_names is not None:
            arguments = {name: value for name, value in arguments.items() if name in self._decoder_names}
        outputs = self.decoder(**arguments)
        states = outputs.get("last_hidden_state") if isinstance(outputs, dict) else None
        width = output_width(self.config.decoder)
        if states is None or states.dim() != 3 or states.shape[-1] != width:
            raise ValueError(
                f"{owner}: `forward` must return a model output whose `last_hidden_state` has the shape (rows, "
                f"length, {width}), got {type(outputs).__name__ if states is None else tuple(states.shape)}. Return "
                "`BaseModelOutputWithPastAndCrossAttentions(last_hidden_state=...)`."
            )
        return outputs

    def _source_mask(self, attention_mask: torch.Tensor | None, states: torch.Tensor) -> torch.Tensor | None:
        """The padding mask of encoder states `(B, S, E)`; for encoders that shorten their input, at the new length."""
        if attention_mask is None or attention_mask.dim() != 2 or attention_mask.shape[1] == states.shape[1]:
            return attention_mask
        shorten = getattr(self.encoder, "_get_feature_vector_attention_mask", None)
        return shorten(states.shape[1], attention_mask) if shorten is not None else attention_mask

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
    ResizeBySideMixin, SharedSourceGenerationMixin, CustomSeq2SeqPreTrainedModel, GenerationMixin
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

    @classmethod
    def from_encoder_pretrained(
        cls,
        pretrained_model_name_or_path: str,
        *,
        decoder: PreTrainedConfig | dict[str, Any],
        encoder_kwargs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> "CustomSeq2SeqForConditionalGeneration":
        r"""
        A pretrained encoder with a fresh decoder.

        Args:
            pretrained_model_name_or_path (`str`): Name or folder of any checkpoint that `AutoModel` knows; of an
                encoder-decoder checkpoint (T5, BART) the encoder is taken. Poolers are left out.
            decoder (`PreTrainedConfig` or `dict`): Config of the decoder.
            encoder_kwargs (`dict`, *optional*): For `AutoModel.from_pretrained` (`dtype`, `attn_implementation`, ...).
            kwargs: `revision`, `trust_remote_code`, `token`, `cache_dir`, `local_files_only`, `force_download` and
                `subfolder` go to `from_pretrained`, the rest to [`CustomSeq2SeqConfig`].

        Returns:
            [`CustomSeq2SeqForConditionalGeneration`] in evaluation mode, as `from_pretrained` returns it.

        Raises:
            ValueError: The checkpoint has no encoder; see also [`CustomSeq2SeqConfig`].
        """
        loading = {name: kwargs.pop(name) for name in HUB_ARGUMENTS if name in kwargs}
        loading.update(encoder_kwargs or {})
        hub = {name: loading[name] for name in HUB_ARGUMENTS if name in loading}
        encoder_config = AutoConfig.from_pretrained(pretrained_model_name_or_path, **hub)
        whole = AutoModel.from_pretrained(
            pretrained_model_name_or_path, **{**without_pooler(encoder_config), **loading}
        )
        encoder = encoder_half(whole)
        check_encoder(encoder)
        config = CustomSeq2SeqConfig(encoder=encoder.config, decoder=decoder, **kwargs)
        return cls(config, encoder).eval()

    def get_encoder(self, modality: str | None = None) -> PreTrainedModel:
        """The encoder."""
        return self.model.encoder

    def get_decoder(self) -> PreTrainedModel:
        """The decoder."""
        return self.model.decoder

    def get_input_embeddings(self) -> nn.Module:
        """The encoder's token embedding, where it has one, else the decoder's."""
        return self.model.get_input_embeddings()

    def set_input_embeddings(self, value: nn.Module) -> None:
        """Replace the encoder's token embedding."""
        self.model.set_input_embeddings(value)

    def get_output_embeddings(self) -> nn.Module:
        """The vocabulary projection."""
        return self.lm_head

    def set_output_embeddings(self, value: nn.Module) -> None:
        """Replace the vocabulary projection."""
        self.lm_head = value

    def get_expanded_tied_weights_keys(self, all_submodels: bool = False) -> dict[str, str]:
        """Which weights are which, `{target: source}`; the encoder's embedding is named by [`CustomSeq2SeqModel`]."""
        if all_submodels:
            return super().get_expanded_tied_weights_keys(all_submodels=True)
        if not self.config.tie_word_embeddings:
            return {}
        return {"lm_head.weight": f"model.{self.model.embedding_name('decoder')}"}

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """
        As in transformers; a projection that is the decoder's embedding is saved as tied, whatever the config says.
        (peft compares it with the encoder's embedding when it merges an adapter, and clears `tie_word_embeddings`.)
        """
        if getattr(self.lm_head, "weight", None) is self.get_decoder().get_input_embeddings().weight:
            self.config.tie_word_embeddings = True
        super().save_pretrained(*args, **kwargs)

    def prepare_decoder_input_ids_from_labels(self, labels: torch.Tensor) -> torch.Tensor:
        """Decoder input of shape `(B, T)` for labels of that shape; `DataCollatorForSeq2Seq` calls it."""
        pad_token_id, start_token_id = self.config.pad_token_id, self.config.start_token_id
        if start_token_id is None:
            raise ValueError("`decoder_start_token_id` must be set to shift labels, got None. Set it in the config.")
        return shift_tokens_right(labels, pad_token_id, start_token_id)

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
        logits = self.lm_head(select_positions(hidden_states, logits_to_keep)) if returns_logits else None
        loss = None
        if labels is not None:
            loss = sequence_loss(
                hidden_states,
                logits if logits is not None and logits.shape[1] == hidden_states.shape[1] else None,
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
