"""Trained tokenizers: round trips, special tokens, saving."""

from pathlib import Path

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from hf_custom_decoder.data.tokenizer_training import SPECIAL_TOKENS, check_special_tokens, train_tokenizer

TEXTS = ["Der Hund läuft.", "Die Katze schläft, der Hund nicht.", "ein Hund und eine Katze laufen heim"] * 4
KINDS = ["bpe", "unigram", "byte-level", "word", "character"]


def trained(kind: str, **options: object) -> PreTrainedTokenizerFast:
    return train_tokenizer(TEXTS, kind=kind, vocab_size=320, max_length=64, **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", KINDS)
def test_texts_come_back(kind: str, tmp_path: Path) -> None:
    tokenizer = trained(kind)
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text in TEXTS[:3]:
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == 2
        assert tokenizer.unk_token_id not in ids
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
        assert loaded(text)["input_ids"] == ids
        assert loaded.decode(ids, skip_special_tokens=True) == text


@pytest.mark.parametrize("kind", KINDS)
def test_special_tokens_have_their_ids(kind: str) -> None:
    tokenizer = trained(kind)
    assert tokenizer.convert_tokens_to_ids(list(SPECIAL_TOKENS)) == [0, 1, 2, 3]
    ids = (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id)
    assert ids == (0, 1, 2, 3)
    assert tokenizer.model_max_length == 64
    check_special_tokens(tokenizer, "trained")


def test_what_is_unknown() -> None:
    assert trained("byte-level").decode(trained("byte-level")("猫 x")["input_ids"], skip_special_tokens=True) == "猫 x"
    for kind in ("bpe", "unigram", "word", "character"):
        assert 3 in trained(kind)("猫")["input_ids"], kind


def test_punctuation_and_frequency() -> None:
    assert any(len(token) > 1 and "." in token for token in trained("bpe", split_punctuation=False).get_vocab())
    assert not any(len(token) > 1 and "." in token for token in trained("bpe").get_vocab())
    rare = train_tokenizer([*TEXTS, "Wal"], kind="word", vocab_size=99, max_length=9, min_frequency=2)
    assert "Wal" not in rare.get_vocab()
    assert "Hund" in rare.get_vocab()


def test_mistakes() -> None:
    with pytest.raises(ValueError, match="`kind` must be one of"):
        trained("letters")
    with pytest.raises(ValueError, match="There must be text to train a tokenizer on"):
        train_tokenizer([], kind="word", vocab_size=9, max_length=9)
    tokenizer = trained("word")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="must have a eos_token, found none.*special_tokens"):
        check_special_tokens(tokenizer, "mine")
