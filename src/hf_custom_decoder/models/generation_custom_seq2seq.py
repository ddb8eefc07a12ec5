"""
Generation hooks: beams and samples of one source share its encoder states and its cross-attention cache.

Legend: B source rows, R decoder rows (B times the beams or samples), S source length, P prefix length.
"""

from typing import Any

import torch
from transformers import GenerationConfig, PreTrainedConfig
from transformers.cache_utils import Cache, EncoderDecoderCache
from transformers.utils import logging

from .cache_custom_seq2seq import CustomSeq2SeqCache, build_cross_attention_cache
from .cache_recurrent_layer import with_recurrent_layers
from .fast_generation_custom_seq2seq import beam_search, can_step, sample
from .first_pass_custom_seq2seq import read_once, rows_alike
from .inputs_custom_seq2seq import position_ids_from_mask
from .user_decoder_custom_seq2seq import is_user_decoder, with_user_layers

logger = logging.get_logger(__name__)


class SharedSourceGenerationMixin:
    """
    Stands before `GenerationMixin` among the bases of a generating class.

    transformers repeats encoder states, masks and keys once for every beam. Here they stay at B rows: the cache says
    by its `source_index` which source a decoder row reads, and nothing of the source is ever reordered.
    """

    generation_config: GenerationConfig
    _shares_sources = True
    """Whether the decoder reads `source_index` of the cache; False expands the source as transformers does."""

    def adjust_generation_fn(self, generation_config: GenerationConfig | None, *args: Any, **kwargs: Any) -> None:
        """As in transformers; what a checkpoint's generation config leaves open is as in a fresh model."""
        fresh = self.generation_config
        super().adjust_generation_fn(generation_config, *args, **kwargs)  # type: ignore[misc]
        for name in ("max_length", "decoder_start_token_id", "pad_token_id", "bos_token_id", "eos_token_id"):
            if getattr(self.generation_config, name) is None:
                setattr(self.generation_config, name, getattr(fresh, name))

    def _validate_generation_mode(
        self, generation_mode: Any, generation_config: GenerationConfig, generation_mode_kwargs: dict[str, Any]
    ) -> None:
        """As in transformers, which lets in assistants that cannot give up a draft, and early exits from any model."""
        super()._validate_generation_mode(generation_mode, generation_config, generation_mode_kwargs)  # type: ignore[misc]
        if generation_config.assistant_early_exit is not None:
            raise ValueError(
                f"`assistant_early_exit` must be None, got {generation_config.assistant_early_exit!r}: "
                f"{type(self).__name__} runs all layers of its decoder. Give a smaller model as `assistant_model`, or "
                "use `prompt_lookup_num_tokens`."
            )
        assistant = generation_mode_kwargs.get("assistant_model")
        if getattr(assistant, "_is_stateful", False):
            raise ValueError(
                "`assistant_model` must be able to take rejected tokens out of its cache, got "
                f"{type(assistant).__name__} with recurrent layers. Use an assistant with attention layers only."
            )

    def _is_source(self, name: str) -> bool:
        """Whether a keyword is of the source: all but `decoder_...`; of a decoder alone, those with `encoder_...`."""
        if self.config.is_encoder_decoder:  # type: ignore[attr-defined]
            return not name.startswith("decoder_")
        return name.startswith("encoder_")

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.LongTensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.LongTensor | None, dict[str, Any]]:
        """Repeat what belongs to the decoder; leave the source as it is and note the repeats."""
        if not self._shares_sources:
            return super()._expand_inputs_for_generation(  # type: ignore[misc]
                expand_size, is_encoder_decoder, input_ids, **model_kwargs
            )
        source = {name: value for name, value in model_kwargs.items() if self._is_source(name)}
        cache = model_kwargs.get("past_key_values")
        is_shared = isinstance(cache, CustomSeq2SeqCache) and cache.source_index is not None
        is_filled = isinstance(cache, Cache) and cache.get_seq_length() > 0
        if expand_size == 1 or not source or (is_filled and not is_shared):
            return super()._expand_inputs_for_generation(  # type: ignore[misc]
                expand_size, is_encoder_decoder, input_ids, **model_kwargs
            )
        own = {name: value for name, value in model_kwargs.items() if name not in source}
        input_ids, own = super()._expand_inputs_for_generation(expand_size, False, input_ids, **own)  # type: ignore[misc]
        note = {} if is_shared else {"rows_per_source": expand_size}
        return input_ids, {**source, **own, **note}

    def _prepare_decoder_input_ids_for_generation(
        self, batch_size: int, model_input_name: str, model_kwargs: dict[str, Any], *args: Any, **kwargs: Any
    ) -> tuple[torch.LongTensor, dict[str, Any]]:
        """As in transformers, which looks for a start token, or adds it, before a prefix; here behind its padding."""
        prepare = super()._prepare_decoder_input_ids_for_generation  # type: ignore[misc]
        ids, mask = (model_kwargs.get(f"decoder_{name}") for name in ("input_ids", "attention_mask"))  # (B, P)
        if ids is None or mask is None or ids.shape != mask.shape:
            return prepare(batch_size, model_input_name, model_kwargs, *args, **kwargs)
        num_padding = (mask.cumsum(1) == 0).sum(1, keepdim=True)  # (B, 1)
        order = (torch.arange(ids.shape[1], device=ids.device) + num_padding) % ids.shape[1]
        model_kwargs["decoder_input_ids"] = ids.gather(1, order)  # padding to the end
        model_kwargs["decoder_attention_mask"] = mask.gather(1, order)
        ids, model_kwargs = prepare(batch_size, model_input_name, model_kwargs, *args, **kwargs)
        order = (torch.arange(ids.shape[1], device=ids.device) - num_padding) % ids.shape[1]
        model_kwargs["decoder_attention_mask"] = model_kwargs["decoder_attention_mask"].gather(1, order)
        return ids.gather(1, order), model_kwargs

    def _prepare_generated_length(
        self, generation_config: GenerationConfig, has_default_max_length: bool, **kwargs: Any
    ) -> GenerationConfig:
        """As in transformers; `max_new_tokens` beside our saved length rule is no clash to warn of."""
        rule = self.generation_config.max_length
        if generation_config.max_new_tokens is not None and generation_config.max_length == rule:
            has_default_max_length = True
        return super()._prepare_generated_length(  # type: ignore[misc]
            generation_config=generation_config, has_default_max_length=has_default_max_length, **kwargs
        )

    def _prepare_cache_for_generation(
        self,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        generation_mode: Any,
        batch_size: int,
        max_cache_length: int,
    ) -> None:
        """Build the cache, with full cross-attention whatever the layer types are, and tell it who shares a source."""
        rows_per_source = model_kwargs.pop("rows_per_source", 1)
        is_given = model_kwargs.get("past_key_values") is not None
        is_encoder_decoder = self.config.is_encoder_decoder  # type: ignore[attr-defined]
        _check_cache_implementation(generation_config, self.device, is_encoder_decoder)  # type: ignore[attr-defined]
        decoder = self.get_decoder()  # type: ignore[attr-defined]
        _check_static_user_decoder(generation_config, decoder)
        if is_encoder_decoder and generation_config.prefill_chunk_size is not None:
            logger.warning_once(
                "`prefill_chunk_size` is for long prompts of decoders; the decoder prefix of an encoder-decoder model "
                "is read in one piece."
            )
            generation_config.prefill_chunk_size = None  # transformers would cut the source mask into pieces
        super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        cache = model_kwargs.get("past_key_values")
        _check_static_flex(cache, self.config)  # type: ignore[attr-defined]
        decoder_config = self.config.get_text_config(decoder=True)  # type: ignore[attr-defined]
        if not is_given and cache is not None:
            own = cache.self_attention_cache if isinstance(cache, EncoderDecoderCache) else cache
            cache = with_user_layers(with_recurrent_layers(own, decoder_config), decoder)
            model_kwargs["past_key_values"] = cache
        if cache is not None:
            cache.rows_may_leave = not is_given  # a caller's cache must hold all rows at the end
        outputs = model_kwargs.get("encoder_outputs")
        source = model_kwargs.get("encoder_hidden_states") if outputs is None else outputs[0]  # (B, S, E)
        if source is None:
            return
        if not is_given and cache is not None:
            cross = build_cross_attention_cache(cache, decoder_config.num_hidden_layers, source.shape[1])
            cache = CustomSeq2SeqCache(cache, cross)
            cache.rows_may_leave = True
            model_kwargs["past_key_values"] = cache
        if isinstance(cache, CustomSeq2SeqCache):
            if rows_per_source > 1:
                cache.share_source(rows_per_source, source.shape[0], source.device)
            else:
                cache.match_source(source.shape[0])
        elif rows_per_source > 1:
            self._repeat_source(model_kwargs, rows_per_source)

    def _repeat_source(self, model_kwargs: dict[str, Any], rows_per_source: int) -> None:
        """Repeat the source as transformers does, where no cache of ours can say who shares it."""
        for name, value in model_kwargs.items():
            if isinstance(value, torch.Tensor) and self._is_source(name):
                model_kwargs[name] = value.repeat_interleave(rows_per_source, dim=0)
        outputs = model_kwargs.get("encoder_outputs")
        if outputs is not None:  # a new object: the caller's own may be used again
            model_kwargs["encoder_outputs"] = type(outputs)(
                **{
                    name: value.repeat_interleave(rows_per_source, dim=0) if isinstance(value, torch.Tensor) else value
                    for name, value in outputs.items()
                }
            )

    def _prefill(
        self,
        input_ids: torch.LongTensor,
        generation_config: GenerationConfig,
        model_kwargs: dict[str, Any],
        is_first_iteration: bool = True,
    ) -> Any:
        """As in transformers; beams and samples of one source, which begin alike, are read as one row."""

        def prefill(ids: torch.Tensor, kwargs: dict[str, Any]) -> Any:
            inherited = super(SharedSourceGenerationMixin, self)._prefill  # type: ignore[misc]
            return inherited(ids, generation_config, kwargs, is_first_iteration=is_first_iteration)

        count = rows_alike(self, input_ids, generation_config, model_kwargs)
        if count == 1:
            return prefill(input_ids, model_kwargs)
        return read_once(prefill, self, input_ids, model_kwargs, count)

    def _sample(
        self,
        input_ids: torch.LongTensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        streamer: Any = None,
        **model_kwargs: Any,
    ) -> Any:
        """As in transformers, through a decoding step where nothing asks for more than ids, scores and cache."""
        if synced_gpus or streamer is not None or not can_step(self, generation_config, model_kwargs):
            return super()._sample(  # type: ignore[misc]
                input_ids,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                synced_gpus=synced_gpus,
                streamer=streamer,
                **model_kwargs,
            )
        return sample(self, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs)

    def _beam_search(
        self,
        input_ids: torch.LongTensor,
        logits_processor: Any,
        stopping_criteria: Any,
        generation_config: GenerationConfig,
        synced_gpus: bool = False,
        **model_kwargs: Any,
    ) -> Any:
        """As in transformers, through a decoding step where nothing asks for more than ids, scores and cache."""
        if synced_gpus or generation_config.low_memory or not can_step(self, generation_config, model_kwargs):
            return super()._beam_search(  # type: ignore[misc]
                input_ids,
                logits_processor=logits_processor,
                stopping_criteria=stopping_criteria,
                generation_config=generation_config,
                synced_gpus=synced_gpus,
                **model_kwargs,
            )
        return beam_search(self, input_ids, logits_processor, stopping_criteria, generation_config, model_kwargs)

    def prepare_inputs_for_generation(
        self,
        input_ids: torch.LongTensor,
        next_sequence_length: int | None = None,
        past_key_values: Cache | None = None,
        attention_mask: torch.Tensor | None = None,
        inputs_embeds: torch.Tensor | None = None,
        is_first_iteration: bool | None = False,
        **kwargs: Any,
    ) -> dict[str, Any]:
        """As in transformers, and right for padding inside decoder prefixes and for an assistant's second draft."""
        mask = kwargs.get("decoder_attention_mask")
        if isinstance(mask, torch.Tensor) and mask.dim() == 2 and kwargs.get("decoder_position_ids") is None:
            kwargs["decoder_position_ids"] = position_ids_from_mask(mask, mask.shape[1])
        is_continued = next_sequence_length is None and not is_first_iteration and past_key_values is not None
        if is_continued and self.config.is_encoder_decoder:  # type: ignore[attr-defined]
            num_cached = int(past_key_values.get_seq_length())  # type: ignore[union-attr]
            if 0 < num_cached < input_ids.shape[1]:  # an assistant passes its whole sequence with its filled cache
                next_sequence_length = input_ids.shape[1] - num_cached
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(  # type: ignore[misc]
            input_ids,
            next_sequence_length=next_sequence_length,
            past_key_values=past_key_values,
            attention_mask=attention_mask,
            inputs_embeds=inputs_embeds,
            is_first_iteration=is_first_iteration,
            **kwargs,
        )
        return inputs


def _check_cache_implementation(
    generation_config: GenerationConfig, device: torch.device, is_encoder_decoder: bool
) -> None:
    """Refuse at the door what transformers cannot do, where it fails deep inside or without a remedy."""
    implementation = generation_config.cache_implementation or ""
    if "offloaded" in implementation and device.type == "cpu":
        raise ValueError(
            f"`cache_implementation={implementation!r}` needs a model on an accelerator, got one on CPU. Use "
            "'dynamic' or 'static'."
        )
    if implementation == "quantized" and is_encoder_decoder:
        raise ValueError(
            "`cache_implementation='quantized'` is for decoders alone (transformers has no quantized encoder-decoder "
            "cache), got an encoder-decoder model. Use 'dynamic', 'static' or 'offloaded'."
        )


def _check_static_user_decoder(generation_config: GenerationConfig, decoder: Any) -> None:
    """A static cache has other shapes than a dynamic one: only decoders that say so can read it."""
    is_static = "static" in (generation_config.cache_implementation or "")
    if is_static and is_user_decoder(decoder.config) and not decoder._can_compile_fullgraph:
        raise ValueError(
            f"`cache_implementation={generation_config.cache_implementation!r}` needs a decoder whose class says that "
            f"it can read static caches, {type(decoder).__name__} does not. Use 'dynamic', or set "
            "`_can_compile_fullgraph = True` in the class if it can."
        )


def _check_static_flex(cache: Cache | None, config: PreTrainedConfig) -> None:
    """For static caches transformers makes masks ahead of the model, which fails for those of FlexAttention."""
    implementation = config.get_text_config(decoder=True)._attn_implementation
    if implementation == "flex_attention" and cache is not None and cache.is_compileable:
        raise ValueError(
            "`cache_implementation='static'` needs `attn_implementation` 'sdpa' or 'eager' (or a flash kernel), got "
            "'flex_attention'. Use `model.set_attn_implementation('sdpa')`, or the dynamic cache."
        )
