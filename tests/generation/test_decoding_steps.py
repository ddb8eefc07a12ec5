"""Generation through decoding steps gives what transformers' own loops give, and steps aside where it cannot."""

import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any
from unittest.mock import patch

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch.nn.utils import prune
from transformers import LogitsProcessor, LogitsProcessorList, StoppingCriteria, StoppingCriteriaList

from hf_custom_decoder import (
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentDecoderForCausalLM,
)
from hf_custom_decoder.models.fast_generation_custom_seq2seq import _Beams
from tests.combinations import COVERING_PAIRS, RECURRENT_SIZES, build_pair
from tests.factories import DECODER_VARIANTS, VOCAB_SIZE, spread_weights, tiny_batch, tiny_causal, tiny_seq2seq
from tests.generation.both_loops import EVERYTHING, assert_same, both, large_seq2seq, source_of, watched
from tests.generation.helpers import SilentStreamer

STRATEGIES: dict[str, dict[str, Any]] = {
    "greedy": {"max_length": 12},
    "samples": {"do_sample": True, "max_length": 9, "num_return_sequences": 2},
    "beams": {"num_beams": 3, "num_return_sequences": 2, "max_length": 12},
    "beam samples": {"do_sample": True, "num_beams": 2, "max_length": 9},
    "beams with ends": {
        "num_beams": 3,
        "early_stopping": True,
        "length_penalty": 2.0,
        "max_length": 14,
        "eos_token_id": [2, 17, 21, 30, 40],
    },
}


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize(("encoder", "decoder"), COVERING_PAIRS)
def test_every_decoder(encoder: str, decoder: str, strategy: str) -> None:
    model = build_pair(encoder, decoder)
    assert_same(*both(model, **source_of(tiny_batch()), **STRATEGIES[strategy], **EVERYTHING))


@pytest.mark.parametrize("strategy", ["greedy", "beams"])
@pytest.mark.parametrize("variant", DECODER_VARIANTS)
def test_choices_of_the_decoder(variant: str, strategy: str) -> None:
    model = tiny_seq2seq(variant).double()
    assert_same(*both(model, **source_of(tiny_batch()), **STRATEGIES[strategy], **EVERYTHING))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["default", "alibi", "rotary", "learned", "sliding_last_alibi", "ssru", "lstm"])
def test_prefixes_with_padding(name: str, strategy: str) -> None:
    if name in ("ssru", "lstm"):
        model = build_pair("gru_2", {"ssru": "hybrid_ssru_first", "lstm": "lstm_input_feeding"}[name])
    else:
        model = tiny_seq2seq(name).double()
    ids = torch.tensor([[1, 7, 8, 9], [0, 0, 1, 5], [0, 1, 6, 7]])
    prefix = {"decoder_input_ids": ids, "decoder_attention_mask": (ids != 0).long()}
    options = {**source_of(tiny_batch()), **prefix, **STRATEGIES[strategy]}
    assert_same(*both(model, **options, **EVERYTHING))


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("kind", ["transformer", "hybrid", "recurrent"])
def test_a_decoder_alone(kind: str, strategy: str) -> None:
    if kind == "recurrent":
        torch.manual_seed(0)
        config = RecurrentDecoderConfig(**RECURRENT_SIZES, attention_type="none")
        model: Any = RecurrentDecoderForCausalLM(config).double().eval()
        spread_weights(model)
    else:
        mixers = {"mixer_types": ["ssru", "full_attention"]} if kind == "hybrid" else {}
        model = tiny_causal("rotary", **mixers).double()
    ids = torch.tensor([[5, 7, 8, 9], [0, 0, 4, 5], [0, 9, 6, 7]])
    for mask in ((ids != 0).long(), torch.ones_like(ids)):
        assert_same(*both(model, input_ids=ids, attention_mask=mask, **STRATEGIES[strategy], **EVERYTHING))


class EvenIds(LogitsProcessor):
    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        return scores.masked_fill(torch.arange(scores.shape[1]) % 2 == 1, -float("inf"))


class FifthToken(StoppingCriteria):
    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return input_ids[:, -1] % 5 == 0


OPTIONS: dict[str, Callable[[], dict[str, Any]]] = {
    "repetition": lambda: {"repetition_penalty": 1.5},
    "n-grams": lambda: {"no_repeat_ngram_size": 2},
    "least length": lambda: {"min_new_tokens": 6, "eos_token_id": [2, 17, 21, 30]},
    "bad words": lambda: {"bad_words_ids": [[17], [21, 30]]},
    "forced": lambda: {"forced_bos_token_id": 9, "forced_eos_token_id": 2},
    "allowed": lambda: {"prefix_allowed_tokens_fn": lambda row, ids: [3 + row, 9, 17, 2]},
    "own processor": lambda: {"logits_processor": LogitsProcessorList([EvenIds()])},
    "own criteria": lambda: {"stopping_criteria": StoppingCriteriaList([FifthToken()])},
    "never early": lambda: {"early_stopping": "never", "length_penalty": 0.6, "eos_token_id": [2, 17, 21, 30, 40]},
    "no penalty": lambda: {"length_penalty": 0.0, "eos_token_id": [2, 17, 21, 30, 40]},
    "negative penalty": lambda: {"length_penalty": -1.0, "eos_token_id": [2, 17, 21, 30, 40]},
    "one token": lambda: {"max_new_tokens": 1},
    "no end": lambda: {"eos_token_id": None},
    "temperature": lambda: {"temperature": 0.7, "top_k": 5, "top_p": 0.9, "do_sample": True},
}


@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("name", OPTIONS)
def test_options_of_generation(name: str, beams: int) -> None:
    model = tiny_seq2seq().double()
    options = {"max_length": 14, **OPTIONS[name]()}
    if beams == 1:
        options = {key: value for key, value in options.items() if key not in ("early_stopping", "length_penalty")}
    elif name != "temperature":
        options["num_return_sequences"] = 2
    assert_same(*both(model, **source_of(tiny_batch()), num_beams=beams, **options, **EVERYTHING))


@contextmanager
def noted_rows(kind: str) -> Iterator[list[int]]:
    """Notes how many rows each decoding step computes."""
    module: Any = __import__("hf_custom_decoder.models.fast_generation_custom_seq2seq", fromlist=[kind])
    step, sizes = getattr(module, kind), []
    real = step.__call__

    def watch(self: Any, last_ids: torch.Tensor) -> torch.Tensor:
        sizes.append(last_ids.shape[0])
        logits: torch.Tensor = real(self, last_ids)
        return logits

    with patch.object(step, "__call__", watch):
        yield sizes


def many_sources() -> dict[str, torch.Tensor]:
    ids = torch.randint(3, VOCAB_SIZE, (12, 7), generator=torch.Generator().manual_seed(11))
    mask = torch.ones_like(ids)
    mask[::2, 4:] = 0
    return {"input_ids": ids, "attention_mask": mask}


@functools.cache
def copying_model(decoder: str) -> Any:
    """A model that writes its source, or much of it, and ends after as many tokens."""
    model, source = build_pair("lstm_2", decoder).train(), sources_of_many_lengths()
    ids, mask = source["input_ids"], source["attention_mask"]
    labels = torch.nn.functional.pad(ids, (0, 1)).scatter(1, mask.sum(1, keepdim=True), 2)
    labels = labels.masked_fill(labels == 0, -100)
    optimizer = torch.optim.Adam(model.parameters(), lr=5e-3)
    for _ in range(60):
        optimizer.zero_grad()
        model(**source, labels=labels).loss.backward()
        optimizer.step()
    return model.eval()


def sources_of_many_lengths() -> dict[str, torch.Tensor]:
    """Twelve rows of 2 to 13 tokens."""
    ids = torch.randint(3, VOCAB_SIZE, (12, 13), generator=torch.Generator().manual_seed(11))
    mask = (torch.arange(13) < 2 + torch.arange(12)[:, None]).long()
    return {"input_ids": ids * mask, "attention_mask": mask}


class RowByRow(StoppingCriteria):
    """Row r ends at a length of 4 + 2 r tokens."""

    def __call__(self, input_ids: torch.Tensor, scores: Any, **kwargs: Any) -> torch.Tensor:
        return input_ids.shape[1] >= 4 + 2 * torch.arange(input_ids.shape[0])


@pytest.mark.parametrize("decoder", ["transformer_default", "hybrid_rotary", "gru_additive", "lstm_input_feeding"])
def test_finished_rows_leave_the_batch(decoder: str) -> None:
    """What is written does not change, and later steps see fewer rows."""
    model = build_pair("lstm_2", decoder)
    options = {**many_sources(), "max_length": 30}
    options["stopping_criteria"] = StoppingCriteriaList([RowByRow()])
    kind = "RecurrentDecodingStep" if decoder.startswith(("gru", "lstm")) else "TransformerDecodingStep"
    with noted_rows(kind) as sizes:
        found, expected = both(model, **options)
    assert torch.equal(found, expected)
    assert sizes[0] == 12
    assert 0 < sizes[-1] < 12
    assert sizes == sorted(sizes, reverse=True)


LEAVING_DECODERS = ["transformer_default", "hybrid_rotary", "gru_additive", "lstm_input_feeding"]
LEAVING_OPTIONS: dict[str, dict[str, Any]] = {
    "plain": {},
    "early": {"early_stopping": True},
    "never early": {"early_stopping": "never", "length_penalty": 0.5},
    "long": {"length_penalty": 2.0, "num_return_sequences": 3},
    "least length": {"min_new_tokens": 4, "early_stopping": True, "num_return_sequences": 2},
}


@pytest.mark.parametrize("name", LEAVING_OPTIONS)
@pytest.mark.parametrize("decoder", LEAVING_DECODERS)
def test_finished_sources_leave_a_beam_search(decoder: str, name: str) -> None:
    """Hypotheses do not change, and later steps see fewer rows."""
    model = copying_model(decoder)
    options = {**sources_of_many_lengths(), "num_beams": 3, "max_length": 20, **LEAVING_OPTIONS[name]}
    kind = "RecurrentDecodingStep" if decoder.startswith(("gru", "lstm")) else "TransformerDecodingStep"
    with noted_rows(kind) as sizes:
        found, expected = both(model, **options)
    assert torch.equal(found, expected)
    assert sizes[0] == 36
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[-1] < 36


def test_rows_stay_where_the_caller_keeps_the_cache() -> None:
    """A cache that was passed holds every row at the end; so does one that is returned."""
    model = copying_model("transformer_default")
    for beams in (1, 3):
        options = {**sources_of_many_lengths(), "max_length": 20, "num_beams": beams}
        with noted_rows("TransformerDecodingStep") as sizes:
            output = model.generate(**options, return_dict_in_generate=True)
        assert set(sizes) == {12 * beams}
        cache = output.past_key_values
        cache.reset()
        with noted_rows("TransformerDecodingStep") as sizes:
            model.generate(**options, past_key_values=cache)
        assert set(sizes) == {12 * beams}
        assert cache.self_attention_cache.layers[0].keys.shape[0] == 12 * beams


@pytest.mark.parametrize("early_stopping", [False, True, "never"])
@pytest.mark.parametrize("num_sources", [1, 3])
def test_steps_in_which_no_candidate_ends(num_sources: int, early_stopping: Any) -> None:
    """Before and after hypotheses have finished; every score of every step is compared, so the search ends alike."""
    model = large_seq2seq().double()
    source = torch.randint(3, VOCAB_SIZE, (num_sources, 9), generator=torch.Generator().manual_seed(1))
    options = {"input_ids": source, "num_beams": 4, "max_new_tokens": 24, "early_stopping": early_stopping}
    end = int(model.generate(**options, eos_token_id=None)[0, 9])
    after: list[bool] = []
    go_on = _Beams._go_on

    def watch(beams: _Beams, *given: Any) -> Any:
        after.append(beams.has_finished)
        return go_on(beams, *given)

    with patch.object(_Beams, "_go_on", watch):
        found, expected = both(model, **options, eos_token_id=end, **EVERYTHING)
    assert_same(found, expected)
    assert False in after
    assert (True in after) == (num_sources > 1 or early_stopping == "never")  # one source alone ends with its first


def test_a_search_ends_in_a_step_in_which_no_candidate_ends() -> None:
    """All hypotheses had finished; the running ones have only now become too bad to take their places."""
    model = large_seq2seq().double()
    source = torch.randint(3, VOCAB_SIZE, (1, 9), generator=torch.Generator().manual_seed(4))
    options = {"input_ids": source, "num_beams": 3, "max_new_tokens": 24, "early_stopping": False}
    ends = model.generate(**options, eos_token_id=None, num_return_sequences=3)[:, 6:8].unique().tolist()
    goes_on: list[bool] = []
    go_on = _Beams._go_on

    def watch(beams: _Beams, *given: Any) -> Any:
        result = go_on(beams, *given)
        goes_on.append(result[1])
        return result

    with patch.object(_Beams, "_go_on", watch):
        found, expected = both(model, **options, eos_token_id=ends, **EVERYTHING)
    assert_same(found, expected)
    assert goes_on[-1] is False
    assert all(goes_on[:-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_other_dtypes(dtype: torch.dtype) -> None:
    """Decoding steps are no further from exact logits than transformers' loops are."""
    model = tiny_seq2seq().to(dtype)
    exact = tiny_seq2seq().to(dtype).double()
    options = {**source_of(tiny_batch()), "max_length": 4, **EVERYTHING}
    found, expected = both(model, **options)
    reference = exact.generate(**options)
    assert torch.equal(found.sequences, reference.sequences)
    errors = [(one.logits[1].double() - reference.logits[1].double()).abs().max() for one in (found, expected)]
    assert errors[0] <= 2.0 * errors[1]


def with_hook(model: Any) -> Any:
    model.model.decoder.layers[0].mlp.fc1.register_forward_hook(lambda module, inputs, output: output * 1.5)
    return model


def with_pruning(model: Any) -> Any:
    prune.l1_unstructured(model.model.decoder.layers[0].mlp.fc1, "weight", amount=0.95)  # type: ignore[no-untyped-call]
    return model


def with_adapter(model: Any) -> Any:
    adapted: Any = get_peft_model(model, LoraConfig(target_modules=["fc1", "q_proj"], r=2))
    for name, weight in adapted.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight)
    return adapted.eval()


class Louder(CustomSeq2SeqForConditionalGeneration):
    """A subclass of a user, whose own `forward` must run."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        output = super().forward(*args, **kwargs)
        output.logits = -output.logits
        return output


def as_subclass(model: Any) -> Any:
    changed = Louder(model.config).eval()
    changed.load_state_dict(model.state_dict())
    return changed


class RoundedLinear(nn.Module):
    """A stand-in for 8-bit weights: no `nn.Linear` any more."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.weight, self.bias = linear.weight.round(decimals=0), linear.bias

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        return nn.functional.linear(states, self.weight, self.bias)


def with_rounded_weights(model: Any) -> Any:
    model.model.decoder.layers[0].mlp.fc1 = RoundedLinear(model.model.decoder.layers[0].mlp.fc1)
    return model


def with_own_inputs(model: Any) -> Any:
    """As prompt tuning does: a method on the model itself."""
    prepare = model.prepare_inputs_for_generation

    def shifted(input_ids: torch.Tensor, **kwargs: Any) -> dict[str, Any]:
        inputs: dict[str, Any] = prepare(input_ids, **kwargs)
        inputs["decoder_input_ids"] = (inputs["decoder_input_ids"] + 7) % VOCAB_SIZE
        return inputs

    model.prepare_inputs_for_generation = shifted
    return model


def with_hook_on_the_whole(model: Any) -> Any:
    def louder(module: nn.Module, inputs: Any, output: Any) -> Any:
        output.logits = -output.logits
        return output

    model.register_forward_hook(louder)
    return model


CHANGES = {
    "hook": with_hook,
    "pruning": with_pruning,
    "adapter": with_adapter,
    "subclass": as_subclass,
    "rounded weights": with_rounded_weights,
    "own inputs": with_own_inputs,
    "hook on the whole": with_hook_on_the_whole,
}


@pytest.mark.parametrize("name", CHANGES)
def test_modules_that_are_not_plain_are_called(name: str) -> None:
    batch = source_of(tiny_batch())
    plain = tiny_seq2seq().generate(**batch, max_length=12)
    model = CHANGES[name](tiny_seq2seq())
    with watched() as used:
        changed = model.generate(**batch, max_length=12)
    assert used == [False]
    assert changed.shape != plain.shape or not torch.equal(changed, plain)


@pytest.mark.parametrize(
    "options",
    [
        {"streamer": SilentStreamer()},
        {"output_attentions": True, "return_dict_in_generate": True},
        {"output_hidden_states": True, "return_dict_in_generate": True},
        {"use_cache": False},
        {"cache_implementation": "static"},
    ],
    ids=lambda options: next(iter(options)),
)
def test_what_is_left_to_transformers(options: dict[str, Any]) -> None:
    model = tiny_seq2seq()
    with watched() as used:
        found = model.generate(**source_of(tiny_batch()), max_length=8, **options)
    assert not any(used)
    expected = model.generate(**source_of(tiny_batch()), max_length=8)
    assert torch.equal(getattr(found, "sequences", found), expected)


def test_under_autocast_and_in_training_mode_modules_are_called() -> None:
    model = tiny_seq2seq()
    with watched() as used:
        with torch.autocast("cpu", dtype=torch.bfloat16):
            model.generate(**source_of(tiny_batch()), max_length=4)
        model.train()
        model.generate(**source_of(tiny_batch()), max_length=4)
    assert used == [False, False]


def test_a_cache_goes_on_after_generation() -> None:
    """The state of the last step is in the cache that is returned."""
    for decoder in ("transformer_default", "hybrid_mingru_last", "lstm_general", "lstm_input_feeding"):
        model, batch = build_pair("gru_2", decoder), source_of(tiny_batch())
        whole = model.generate(**batch, max_length=12)
        first = model.generate(**batch, max_length=7, return_dict_in_generate=True)
        prefix = {"decoder_input_ids": first.sequences, "decoder_attention_mask": torch.ones_like(first.sequences)}
        rest = model.generate(**batch, **prefix, past_key_values=first.past_key_values, max_length=12)
        assert torch.equal(rest, whole), decoder


def test_resized_embeddings_keep_their_scale() -> None:
    model = tiny_seq2seq("post_norm").double()
    model.resize_token_embeddings(VOCAB_SIZE + 4)
    assert_same(*both(model, **source_of(tiny_batch()), num_beams=2, max_length=10, **EVERYTHING))


def test_other_embeddings_are_called() -> None:
    model = tiny_seq2seq("post_norm")
    decoder = model.get_decoder()
    vocab_size, width = decoder.embed_tokens.weight.shape
    decoder.embed_tokens = nn.Sequential(nn.Embedding(vocab_size, 3), nn.Linear(3, width))
    model.double()
    assert_same(*both(model, **source_of(tiny_batch()), num_beams=2, max_length=10, **EVERYTHING))
