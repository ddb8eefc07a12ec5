"""One tokenizer for letters and phonemes."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_custom_decoder.data.pronunciation_tokenizer import MAX_LENGTH, build_pronunciation_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return build_pronunciation_tokenizer(["K", "AE", "T", "AH", "B", "D"])


def tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[str]:
    return tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"])


def test_ids_of_special_tokens_letters_and_phonemes(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.convert_ids_to_tokens(list(range(6))) == ["<pad>", "<s>", "</s>", "<unk>", "a", "b"]
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (
        0,
        1,
        2,
        3,
    )
    assert tokenizer.convert_ids_to_tokens(list(range(30, 36))) == ["AE", "AH", "B", "D", "K", "T"]
    assert len(tokenizer) == 36


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("cat", ["c", "a", "t", "</s>"]),
        ("K AE T", ["K", "AE", "T", "</s>"]),
        ("KAE", ["k", "a", "e", "</s>"]),  # three capitals are a word
        ("ZZT", ["z", "z", "t", "</s>"]),
        ("Cat", ["c", "a", "t", "</s>"]),
        ("CAT", ["c", "a", "t", "</s>"]),
        ("cAt", ["c", "a", "t", "</s>"]),
        ("iT", ["i", "t", "</s>"]),
        ("Ti", ["t", "i", "</s>"]),
        ("éàü", ["e", "a", "u", "</s>"]),
        ("a'b1", ["a", "<unk>", "b", "<unk>", "</s>"]),
        ("ZZ", ["<unk>", "</s>"]),  # two capitals are a phoneme, and this one is unknown
        ("", ["</s>"]),
    ],
)
def test_tokens_of_words_and_phonemes(tokenizer: PreTrainedTokenizerFast, text: str, expected: list[str]) -> None:
    assert tokens(tokenizer, text) == expected


def test_phonemes_survive_the_round_trip(tokenizer: PreTrainedTokenizerFast) -> None:
    ids = tokenizer("B AH D", text_target="K AE T")["labels"]
    assert tokenizer.decode(ids, skip_special_tokens=True) == "K AE T"


def test_batches_are_padded_on_the_right(tokenizer: PreTrainedTokenizerFast) -> None:
    batch = tokenizer(["a", "cat"], padding=True)
    assert batch["input_ids"][0][1:] == [2, 0, 0]
    assert batch["attention_mask"] == [[1, 1, 0, 0], [1, 1, 1, 1]]
    assert "token_type_ids" not in batch


def test_auto_tokenizer_loads_it_without_our_code(tokenizer: PreTrainedTokenizerFast, tmp_path: Path) -> None:
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert not list(tmp_path.glob("*.py"))
    for text in ("cat", "CAT", "K AE T", "a'b1", "é"):
        assert loaded(text)["input_ids"] == tokenizer(text)["input_ids"]
    assert loaded.decode(loaded("K AE T")["input_ids"], skip_special_tokens=True) == "K AE T"
    assert loaded.model_max_length == MAX_LENGTH
    assert loaded.pad_token_id == 0


@pytest.mark.parametrize("phonemes", [["AH0"], ["ah"], ["ABC"], [""], []])
def test_strange_phonemes_are_refused(phonemes: list[str]) -> None:
    with pytest.raises(ValueError, match="`phonemes` must be one or two upper-case letters each"):
        build_pronunciation_tokenizer(["AE", *phonemes] if phonemes else [])
