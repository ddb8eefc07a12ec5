"""
Generation hooks: beams and samples of one source share its encoder states and its cross-attention cache.

Legend: B source rows, R decoder rows (B times the beams or samples), S source length.
"""

from typing import Any

import torch
from transformers import GenerationConfig
from transformers.cache_utils import Cache, EncoderDecoderCache

from .cache_custom_seq2seq import CustomSeq2SeqCache, build_cross_attention_cache
from .inputs_custom_seq2seq import position_ids_from_mask


class SharedSourceGenerationMixin:
    """
    Stands before `GenerationMixin` among the bases of a seq2seq class.

    transformers repeats encoder states, masks and keys once for every beam. Here they stay at B rows: the cache says
    by its `source_index` which source a decoder row reads, and nothing of the source is ever reordered.
    """

    def _expand_inputs_for_generation(
        self,
        expand_size: int = 1,
        is_encoder_decoder: bool = False,
        input_ids: torch.Tensor | None = None,
        **model_kwargs: Any,
    ) -> tuple[torch.Tensor | None, dict[str, Any]]:
        """Repeat what belongs to the decoder (`decoder_...`); leave the source as it is and note the repeats."""
        if expand_size == 1 or not is_encoder_decoder:
            return super()._expand_inputs_for_generation(  # type: ignore[misc]
                expand_size, is_encoder_decoder, input_ids, **model_kwargs
            )
        own = {name: model_kwargs.pop(name) for name in list(model_kwargs) if name.startswith("decoder_")}
        input_ids, own = super()._expand_inputs_for_generation(expand_size, False, input_ids, **own)  # type: ignore[misc]
        return input_ids, {**model_kwargs, **own, "rows_per_source": expand_size}

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
        is_ours = model_kwargs.get("past_key_values") is None
        _check_offloading(generation_config, self.device)  # type: ignore[attr-defined]
        super()._prepare_cache_for_generation(  # type: ignore[misc]
            generation_config, model_kwargs, generation_mode, batch_size, max_cache_length
        )
        cache = model_kwargs.get("past_key_values")
        source = model_kwargs["encoder_outputs"][0]  # (B, S, E)
        if is_ours and isinstance(cache, EncoderDecoderCache):
            num_layers = self.config.get_text_config(decoder=True).num_hidden_layers  # type: ignore[attr-defined]
            own = cache.self_attention_cache
            cache = CustomSeq2SeqCache(own, build_cross_attention_cache(own, num_layers, source.shape[1]))
            model_kwargs["past_key_values"] = cache
        if rows_per_source > 1:
            _share_or_repeat(model_kwargs, cache, rows_per_source, source)

    def prepare_inputs_for_generation(self, input_ids: torch.Tensor, *args: Any, **kwargs: Any) -> dict[str, Any]:
        """As in transformers; padding inside forced decoder prefixes gets no positions of its own."""
        mask = kwargs.get("decoder_attention_mask")
        if isinstance(mask, torch.Tensor) and mask.dim() == 2 and kwargs.get("decoder_position_ids") is None:
            kwargs["decoder_position_ids"] = position_ids_from_mask(mask, mask.shape[1])
        inputs: dict[str, Any] = super().prepare_inputs_for_generation(input_ids, *args, **kwargs)  # type: ignore[misc]
        return inputs


def _check_offloading(generation_config: GenerationConfig, device: torch.device) -> None:
    """Offloaded caches move keys between a device and the CPU; on CPU alone transformers fails deep inside."""
    implementation = generation_config.cache_implementation or ""
    if "offloaded" in implementation and device.type == "cpu":
        raise ValueError(
            f"`cache_implementation={implementation!r}` needs a model on an accelerator, got one on CPU. Use "
            "'dynamic' or 'static'."
        )


def _share_or_repeat(
    model_kwargs: dict[str, Any], cache: Cache | None, rows_per_source: int, source: torch.Tensor
) -> None:
    """Share the source through the cache; repeat it as transformers does where no cache of ours can carry that."""
    if isinstance(cache, CustomSeq2SeqCache) and cache.source_index is None and not any(cache.is_updated.values()):
        cache.share_source(rows_per_source, source.shape[0], source.device)
        return
    if isinstance(cache, CustomSeq2SeqCache) and cache.source_index is not None:
        return
    for name, value in model_kwargs.items():
        if isinstance(value, torch.Tensor) and not name.startswith("decoder_"):
            model_kwargs[name] = value.repeat_interleave(rows_per_source, dim=0)
    outputs = model_kwargs["encoder_outputs"]
    for name, value in outputs.items():
        if isinstance(value, torch.Tensor):
            outputs[name] = value.repeat_interleave(rows_per_source, dim=0)
