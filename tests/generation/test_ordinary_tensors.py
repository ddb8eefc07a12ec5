"""Decoding steps run in inference mode; whatever a caller sees of them takes part in training as before."""

from collections.abc import Iterator
from typing import Any
from unittest.mock import patch

import pytest
import torch
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList
from transformers.cache_utils import Cache, DynamicCache, EncoderDecoderCache

from hf_custom_decoder.models import decoding_step_transformer_decoder
from hf_custom_decoder.models.cache_custom_seq2seq import CustomSeq2SeqCache, build_cache, full_attention_config
from hf_custom_decoder.models.decoding_step_transformer_decoder import TransformerDecodingStep
from tests.combinations import build_pair
from tests.factories import tiny_batch, tiny_causal, tiny_seq2seq
from tests.generation.both_loops import EVERYTHING, both, source_of, watched

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
    if "ends" not in search:
        assert cache.get_seq_length() == SEARCHES[search]["max_new_tokens"]


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("decoder", DECODERS)
def test_the_cache_of_a_search_that_another_starts(decoder: str, beams: int) -> None:
    def start(model: Any, input_ids: Any, **options: Any) -> Any:
        search = model._beam_search if beams > 1 else model._sample
        names = ("logits_processor", "stopping_criteria", "generation_config")
        options = {name: value for name, value in options.items() if name not in ("synced_gpus", "streamer")}
        ids = search(input_ids, *(options.pop(name) for name in names), **options)
        return ids, options["past_key_values"]

    model, source = build(decoder), source_of(tiny_batch())
    with watched() as used:
        ids, cache = model.generate(
            **source, num_beams=beams, max_new_tokens=9, eos_token_id=-1, custom_generate=start
        )
    assert used == [True]
    assert_ordinary([ids, cache], 6)
    assert cache.get_seq_length() == 9


@pytest.mark.parametrize("beams", [1, 3])
def test_the_cache_after_an_error(beams: int) -> None:
    model, source = tiny_seq2seq("learned").double(), source_of(tiny_batch())
    cache = build_cache(model.get_decoder().config, with_cross_attention=True)
    limit = model.get_decoder().config.max_position_embeddings
    with pytest.raises(ValueError, match="learned positions reach"), watched() as used:
        model.generate(**source, num_beams=beams, max_new_tokens=limit + 5, eos_token_id=-1, past_key_values=cache)
    assert used == [True]
    assert_ordinary(cache, 9)


def test_cross_attention_layers_that_a_decoder_does_not_use() -> None:
    model, source = build("lstm_input_feeding"), source_of(tiny_batch())
    config = model.get_decoder().config
    own = build_cache(config, with_cross_attention=True).self_attention_cache
    cache = CustomSeq2SeqCache(own, DynamicCache(config=full_attention_config(2)))
    found, expected = both(model, **source, max_new_tokens=6, past_key_values=None)
    assert torch.equal(model.generate(**source, max_new_tokens=6, past_key_values=cache), found)
    assert torch.equal(found, expected)


@pytest.mark.parametrize("asked", [{}, EVERYTHING], ids=["ids", "everything"])
@pytest.mark.parametrize("search", SEARCHES)
def test_steps_run_in_inference_mode(search: str, asked: dict[str, Any]) -> None:
    model, source, modes = build("transformer"), source_of(tiny_batch()), []
    step = TransformerDecodingStep.__call__

    def noted(self: Any, ids: Any) -> Any:
        modes.append(torch.is_inference_mode_enabled())
        return step(self, ids)

    with patch.object(TransformerDecodingStep, "__call__", noted):
        model.generate(**source, **SEARCHES[search], **asked)
    assert modes == [True] * len(modes)
    assert len(modes) > 0 or search == "beams, one token"


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
