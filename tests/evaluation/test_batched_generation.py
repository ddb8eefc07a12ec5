"""Texts in, texts out."""

from collections.abc import Iterator

import pytest
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_custom_decoder.evaluation.batched_generation import generate_texts
from hf_custom_decoder.hub.model_folder import load_model_folder
from tests.tiny_pronunciation import save_tiny_model

WORDS = ["cat", "aback", "ta", "back", "b"]


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_model_folder(save_tiny_model(tmp_path_factory.mktemp("tiny")))


def test_batches_give_what_single_words_give(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    expected = []
    for word in WORDS:
        ids = model.generate(**tokenizer([word], return_tensors="pt"), num_beams=2)
        expected.append([tokenizer.decode(ids[0], skip_special_tokens=True)])
    assert len({text for (text,) in expected}) > 1  # else the order could not be seen
    for batch_size in (1, 2, 5, 9):
        assert list(generate_texts(model, tokenizer, WORDS, batch_size=batch_size, num_beams=2)) == expected


def test_several_outputs_for_each_source(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    outputs = list(generate_texts(model, tokenizer, WORDS, batch_size=2, num_beams=3, num_return_sequences=3))
    best = list(generate_texts(model, tokenizer, WORDS, batch_size=2, num_beams=3))
    assert [len(texts) for texts in outputs] == [3] * len(WORDS)
    assert [texts[:1] for texts in outputs] == best


def test_sources_are_read_batch_by_batch(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    asked = []

    def sources() -> Iterator[str]:
        for number in range(10):
            asked.append(number)
            yield "cat"

    outputs = generate_texts(model, tokenizer, sources(), batch_size=3, num_beams=1)
    next(outputs)
    assert len(asked) == 3


def test_blank_sources_give_blank_texts(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    (cat,) = generate_texts(model, tokenizer, ["cat"])
    assert list(generate_texts(model, tokenizer, ["", "cat", " "], num_return_sequences=1)) == [[""], cat, [""]]
    assert list(generate_texts(model, tokenizer, [" "], num_return_sequences=2)) == [["", ""]]


def test_training_mode_is_given_back(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    expected = list(generate_texts(model, tokenizer, WORDS))
    model.train()
    try:
        assert list(generate_texts(model, tokenizer, WORDS)) == expected  # dropout was off
        assert model.training
    finally:
        model.eval()


def test_too_long_source_is_named(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> None:
    model, tokenizer = loaded
    list(generate_texts(model, tokenizer, ["a" * 63]))
    with pytest.raises(ValueError, match="at most 64 tokens, got 65: 'aaa"):
        list(generate_texts(model, tokenizer, ["cat", "a" * 64]))


def test_sources_are_cut_at_the_length_that_is_given(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase],
) -> None:
    model, tokenizer = loaded
    short, long = generate_texts(model, tokenizer, ["aba", "abacus"], max_source_length=4, truncate=True)
    assert short == long != next(generate_texts(model, tokenizer, ["abacus"]))
    with pytest.raises(ValueError, match="at most 4 tokens, got 7: 'abacus'"):
        list(generate_texts(model, tokenizer, ["aba", "abacus"], max_source_length=4))


@pytest.mark.parametrize("name", ["batch_size", "num_return_sequences"])
def test_counts_below_one_are_refused(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], name: str) -> None:
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1, got 0"):
        list(generate_texts(*loaded, ["cat"], **{name: 0}))
