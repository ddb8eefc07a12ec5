"""Decoding steps run in inference mode; whatever a caller sees of them takes part in training as before."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache, EncoderDecoderCache

from hf_custom_decoder.models import decoding_step_transformer_decoder
from hf_custom_decoder.models.cache_custom_seq2seq import build_cache
from tests.combinations import build_pair
from tests.factories import tiny_batch, tiny_causal, tiny_seq2seq
from tests.generation.both_loops import EVERYTHING, source_of, watched

SEARCHES: dict[str, dict[str, Any]] = {
    "greedy": {"max_new_tokens": 9},
    "samples": {"do_sample": True, "num_return_sequences": 2, "max_new_tokens": 9},
    "beams": {"num_beams": 3, "max_new_tokens": 9},
    "beams, one token": {"num_beams": 3, "max_new_tokens": 1},
    "beams with ends": {"num_beams": 2, "max_new_tokens": 9, "eos_token_id": list(range(2, 40, 3))},
    "beams of known length": {"num_beams": 2, "max_new_tokens": 9, "min_new_tokens": 4},
}

DECODERS = ["transformer", "sliding", "hybrid_ssru_first", "lstm_input_feeding"]


def build(decoder: str) -> Any:
    if decoder in ("transformer", "sliding"):
        return tiny_seq2seq({"transformer": "default"}.get(decoder, decoder)).double()
    return build_pair("gru_2", decoder)


def tensors_of(found: Any) -> Iterator[torch.Tensor]:
    """All tensors in what `generate()` returns, and in a cache."""
    if isinstance(found, torch.Tensor):
        yield found
    elif isinstance(found, EncoderDecoderCache):
        yield from tensors_of([found.self_attention_cache, found.cross_attention_cache, vars(found)])
    elif isinstance(found, Cache):
        yield from tensors_of([vars(layer) for layer in found.layers])
    elif isinstance(found, dict):
        yield from tensors_of([one for one in found.values() if not isinstance(one, Cache)])
        yield from tensors_of([one for one in found.values() if isinstance(one, Cache) and one is not found])
    elif isinstance(found, list | tuple):
        for one in found:
            yield from tensors_of(one)


def assert_ordinary(found: Any, at_least: int) -> None:
    tensors = list(tensors_of(found))
    assert len(tensors) >= at_least
    assert not any(one.is_inference() for one in tensors)


@pytest.fixture(autouse=True)
def buffers_that_grow() -> Iterator[None]:
    with patch.object(decoding_step_transformer_decoder, "BLOCK", 2):
        yield


class Records(LogitsProcessor, StoppingCriteria):
    """Keeps what it is shown."""

    def __init__(self, is_processor: bool) -> None:
        self.seen: list[torch.Tensor] = []
        self.is_processor = is_processor

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        self.seen += [input_ids, *([scores] if isinstance(scores, torch.Tensor) else scores or ())]
        return scores if self.is_processor else torch.zeros(len(input_ids), dtype=torch.bool)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_results_are_ordinary(decoder: str, search: str) -> None:
    model, source = build(decoder), source_of(tiny_batch())
    with watched() as used:
        ids = model.generate(**source, **SEARCHES[search])
        assert_ordinary(ids, 1)
        assert_ordinary(model.generate(**source, **SEARCHES[search], **EVERYTHING), 7)
    assert used == [True, True]


@pytest.mark.parametrize("asked", [{}, {"return_dict_in_generate": True}], ids=["ids", "dict"])
@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_a_given_cache_is_ordinary(decoder: str, search: str, asked: dict[str, Any]) -> None:
    model, source = build(decoder), source_of(tiny_batch())
    cache = build_cache(model.get_decoder().config, with_cross_attention=True)
    with watched() as used:
        model.generate(**source, **SEARCHES[search], **asked, past_key_values=cache)
    assert used == [True]
    assert_ordinary(cache, 5)


@pytest.mark.parametrize("search", SEARCHES)
@pytest.mark.parametrize("decoder", DECODERS)
def test_others_see_ordinary_tensors(decoder: str, search: str) -> None:
    model, source = build(decoder), source_of(tiny_batch())
    for asked in ({}, EVERYTHING):
        processor, criterion = Records(True), Records(False)
        rules = (
            {"logits_processor": LogitsProcessorList([processor])},
            {"stopping_criteria": StoppingCriteriaList([criterion])},
        )
        for given in rules:
            with watched() as used:
                assert_ordinary(model.generate(**source, **SEARCHES[search], **asked, **given), 1)
            assert used == [True]
        assert_ordinary(processor.seen + criterion.seen, 3)


@pytest.mark.parametrize("search", ["greedy", "beams"])
@pytest.mark.parametrize("decoder", DECODERS)
def test_results_are_trained_on(decoder: str, search: str) -> None:
    model, source = build(decoder), source_of(tiny_batch())
    output = model.generate(**source, **SEARCHES[search], return_dict_in_generate=True)
    model.train()
    model(**source, decoder_input_ids=output.sequences, labels=output.sequences).loss.backward()
    assert all(one.grad is not None for one in model.get_decoder().parameters())


@pytest.mark.parametrize("decoder", DECODERS)
def test_a_cache_is_gone_on_from_in_training(decoder: str) -> None:
    model, source = build(decoder), source_of(tiny_batch())
    output = model.generate(**source, **SEARCHES["greedy"], eos_token_id=-1, return_dict_in_generate=True)
    model.train()
    logits = model(**source, decoder_input_ids=output.sequences[:, -1:], past_key_values=output.past_key_values).logits
    logits.square().sum().backward()
    assert all(one.grad is not None for one in model.lm_head.parameters())


@pytest.mark.parametrize("search", SEARCHES)
def test_inference_mode_of_the_caller(search: str) -> None:
    model, source = build("transformer"), source_of(tiny_batch())
    torch.manual_seed(0)
    expected = model.generate(**source, **SEARCHES[search])
    torch.manual_seed(0)
    with torch.inference_mode():
        found = model.generate(**source, **SEARCHES[search], **EVERYTHING)
    assert torch.equal(found.sequences, expected)
    assert found.sequences.is_inference()


@pytest.mark.parametrize("search", ["greedy", "beams"])
def test_a_decoder_alone(search: str) -> None:
    model = tiny_causal("rotary").double()
    cache = build_cache(model.config, with_cross_attention=False)
    ids = torch.tensor([[5, 7, 8, 9], [6, 9, 4, 5]])
    with watched() as used:
        found = model.generate(ids, **SEARCHES[search], past_key_values=cache)
    assert used == [True]
    assert_ordinary([found, cache], 5)
