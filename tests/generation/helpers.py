"""
Models with lively outputs, and their twins without shared sources.

A twin has the same weights, and transformers repeats encoder states, masks and keys for every beam, as it does for its
own models; what it returns is the truth for ours. Weights are float64, so that the two agree to the last token.
"""

import copy
import functools
from typing import Any

import torch
from transformers import BertConfig, GenerationMixin, PreTrainedModel, T5Config, ViTConfig
from transformers.cache_utils import Cache

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerDecoderConfig,
    TransformerDecoderForCausalLM,
)
from tests.factories import SIZES, decoder_fields, tiny_batch, tiny_causal, tiny_seq2seq

EOS_IDS = [2, 5, 9, 11, 30, 31, 32]
"""Several ids end a sequence, so that rows end at different lengths. Prompts of the tests have none of them."""


class SilentStreamer:
    """Takes every token and does nothing."""

    def put(self, value: torch.Tensor) -> None: ...

    def end(self) -> None: ...


# Variants that between them hold every kind of mask, position and cache: for the expensive tests.
COVERING = ["default", "rotary_gqa_qk_norm", "alibi_gqa", "learned", "sliding", "sliding_last_alibi"]

EVERYTHING: dict[str, Any] = {
    "return_dict_in_generate": True,
    "output_scores": True,
    "output_logits": True,
    "output_attentions": True,
    "output_hidden_states": True,
}


def enliven(model: PreTrainedModel) -> PreTrainedModel:
    """Float64 weights under which tokens and sources, not biases, decide what comes next."""
    model = model.double().eval()
    for name, parameter in model.named_parameters():
        if "norm" in name:
            parameter.data.mul_(0.2 if name.endswith("bias") else 1.0)
        elif "embed" in name:
            parameter.data.mul_(5.0)
        elif parameter.dim() == 2 and "lm_head" not in name:
            parameter.data.mul_(1.5)
    model.generation_config.eos_token_id = EOS_IDS
    return model


@functools.cache
def _seq2seq(variant: str, num_layers: int) -> CustomSeq2SeqForConditionalGeneration:
    layers = {} if num_layers == SIZES["num_hidden_layers"] else {"num_hidden_layers": num_layers, "mixer_types": None}
    return enliven(tiny_seq2seq(variant, tie_word_embeddings=False, decoder=layers))


def seq2seq(variant: str = "default", num_layers: int = 2) -> CustomSeq2SeqForConditionalGeneration:
    """A lively seq2seq model; weights are shared between calls, the generation config is not."""
    return _with_own_generation_config(_seq2seq(variant, num_layers))


@functools.cache
def _causal(variant: str, add_cross_attention: bool) -> TransformerDecoderForCausalLM:
    return enliven(tiny_causal(variant, tie_word_embeddings=False, add_cross_attention=add_cross_attention))


def causal(variant: str = "default", *, add_cross_attention: bool = False) -> TransformerDecoderForCausalLM:
    """A lively decoder; weights are shared between calls, the generation config is not."""
    return _with_own_generation_config(_causal(variant, add_cross_attention))


FOREIGN_CONFIGS = {
    "bert": BertConfig(
        vocab_size=50, hidden_size=24, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, pad_token_id=0
    ),
    "t5": T5Config(vocab_size=50, d_model=24, d_kv=6, d_ff=32, num_layers=1, num_heads=4, pad_token_id=0),
    "vit": ViTConfig(
        hidden_size=32, num_hidden_layers=1, num_attention_heads=4, intermediate_size=32, image_size=8, patch_size=4
    ),
}


@functools.cache
def _foreign(name: str) -> CustomSeq2SeqForConditionalGeneration:
    torch.manual_seed(0)
    config = CustomSeq2SeqConfig(
        encoder=copy.deepcopy(FOREIGN_CONFIGS[name]),
        decoder=TransformerDecoderConfig(**decoder_fields("default")),
        tie_word_embeddings=False,
    )
    model = CustomSeq2SeqForConditionalGeneration(config)
    for parameter in model.parameters():
        parameter.data.add_(torch.randn_like(parameter) * 0.2)
    return enliven(model)


def foreign(name: str) -> CustomSeq2SeqForConditionalGeneration:
    """A lively model over an encoder of transformers."""
    return _with_own_generation_config(_foreign(name))


def foreign_batch(name: str, batch_size: int = 3) -> dict[str, torch.Tensor]:
    """What the encoder of `foreign(name)` reads."""
    if name == "vit":
        generator = torch.Generator().manual_seed(3)
        return {"pixel_values": torch.randn(batch_size, 3, 8, 8, generator=generator, dtype=torch.float64)}
    return batch(batch_size)


def _with_own_generation_config(model: Any) -> Any:
    twin = copy.copy(model)
    twin.generation_config = copy.deepcopy(model.generation_config)
    return twin


def batch(batch_size: int = 3, source_length: int = 7) -> dict[str, torch.Tensor]:
    """Source ids with padding on the right, and their mask."""
    inputs = tiny_batch(batch_size, source_length)
    del inputs["labels"]
    return inputs


def rows(inputs: dict[str, torch.Tensor], index: int) -> dict[str, torch.Tensor]:
    """One row of a batch, as a batch."""
    return {name: value[index : index + 1] for name, value in inputs.items()}


class _ExpandedSeq2Seq(CustomSeq2SeqForConditionalGeneration):
    """Our cache and forward, but every beam gets a copy of its source."""

    _expand_inputs_for_generation = GenerationMixin.__dict__["_expand_inputs_for_generation"]


class _StockSeq2Seq(_ExpandedSeq2Seq):
    """All generation hooks are those of transformers, the cache included."""

    _prepare_cache_for_generation = GenerationMixin._prepare_cache_for_generation
    _prepare_decoder_input_ids_for_generation = GenerationMixin._prepare_decoder_input_ids_for_generation
    _prepare_generated_length = GenerationMixin._prepare_generated_length
    prepare_inputs_for_generation = GenerationMixin.prepare_inputs_for_generation


class _StockCausal(TransformerDecoderForCausalLM):
    """All generation hooks are those of transformers."""

    _expand_inputs_for_generation = GenerationMixin.__dict__["_expand_inputs_for_generation"]
    _prepare_cache_for_generation = GenerationMixin._prepare_cache_for_generation
    prepare_inputs_for_generation = GenerationMixin.prepare_inputs_for_generation


def expanded_twin(model: CustomSeq2SeqForConditionalGeneration) -> CustomSeq2SeqForConditionalGeneration:
    """The same weights; sources are repeated for every beam. For every variant."""
    twin = copy.copy(model)
    twin.__class__ = _ExpandedSeq2Seq
    return twin


def stock_twin(model: Any) -> Any:
    """The same weights under the generation of transformers alone; its cache is wrong for sliding layers."""
    twin = copy.copy(model)
    twin.__class__ = _StockSeq2Seq if isinstance(model, CustomSeq2SeqForConditionalGeneration) else _StockCausal
    return twin


def assert_same(found: Any, expected: Any, path: str = "output") -> None:
    """Equal ids, shapes and row counts; equal numbers to 1e-6. Caches are compared by their own tests."""
    if isinstance(expected, Cache):
        assert isinstance(found, Cache), path
    elif isinstance(expected, dict):
        assert list(found) == list(expected), path
        for name in expected:
            assert_same(found[name], expected[name], f"{path}.{name}")
    elif isinstance(expected, (tuple, list)):
        assert len(found) == len(expected), path
        for index, (one, other) in enumerate(zip(found, expected, strict=True)):
            assert_same(one, other, f"{path}[{index}]")
    elif isinstance(expected, torch.Tensor) and expected.is_floating_point():
        torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6, msg=lambda message: f"{path}: {message}")
    elif isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), f"{path}: {found.tolist()} != {expected.tolist()}"
    else:
        assert found == expected, path


def generate_seeded(model: Any, seed: int = 5, **kwargs: Any) -> Any:
    """`generate()` with a seed, so that samples can be compared."""
    torch.manual_seed(seed)
    return model.generate(**kwargs)


def until_end(ids: torch.Tensor, start: int = 0) -> list[int]:
    """One row of ids up to its first end token at or after `start`; what follows is filling."""
    values: list[int] = ids.tolist()
    for index in range(start, len(values)):
        if values[index] in EOS_IDS:
            return values[: index + 1]
    return values


@torch.no_grad()
def greedy_by_hand(model: Any, inputs: dict[str, torch.Tensor], max_new_tokens: int) -> list[list[int]]:
    """Greedy search, a row at a time, that runs the whole model on the whole prefix at every step: the slow truth."""
    results = []
    for index in range(len(next(iter(inputs.values())))):
        ids = torch.tensor([[model.generation_config.decoder_start_token_id]])
        while ids.shape[1] <= max_new_tokens and int(ids[0, -1]) not in EOS_IDS:
            logits = model(**rows(inputs, index), decoder_input_ids=ids, use_cache=False).logits
            ids = torch.cat([ids, logits[:, -1:].argmax(-1)], dim=1)
        results.append(ids[0].tolist())
    return results
