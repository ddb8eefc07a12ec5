"""Trained tokenizers: round trips, special tokens, lower case, sizes, saving."""

import random
import unicodedata
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


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("spelling", [*SPECIAL_TOKENS, "<BT>", "@", "ä"])
def test_text_that_spells_a_special_token_leaves_the_ids_whole(kind: str, spelling: str) -> None:
    """Composed or not, in a word or alone; the rest of the text is learned as if the spelling were a border."""
    parts = ["Der Hund bellt laut", "so laut", "wie", "er kann"] * 3
    first, second, third, fourth = parts[:4]
    spelt = [f"{first} {spelling} {second}{spelling}{third}", f"{spelling}{fourth}{spelling}"] * 3
    options = {"kind": kind, "vocab_size": 320, "max_length": 9, "extra_tokens": ["<BT>", "@", "ä"]}
    tokenizer = train_tokenizer(spelt, **options)  # type: ignore[arg-type]
    vocabulary = tokenizer.get_vocab()
    assert sorted(vocabulary.values()) == list(range(len(tokenizer)))
    assert tokenizer.convert_ids_to_tokens(list(range(7))) == [*SPECIAL_TOKENS, "<BT>", "@", "ä"]
    assert tokenizer.eos_token_id == 2
    ids = tokenizer(f"wie {spelling}")["input_ids"]
    assert ids[-2:] == [vocabulary[spelling], 2]
    decomposed = unicodedata.normalize("NFD", spelling)
    again = train_tokenizer([text.replace(spelling, decomposed) for text in spelt], **options)  # type: ignore[arg-type]
    assert sorted(again.get_vocab().values()) == list(range(len(again)))
    if kind != "unigram":
        bare = train_tokenizer([f"{first} ", f" {second}", third, fourth] * 3, **options)  # type: ignore[arg-type]
        assert vocabulary == bare.get_vocab()


@pytest.mark.parametrize("kind", KINDS)
def test_lower_case_is_the_tokenizers_own(kind: str, tmp_path: Path) -> None:
    texts = [*TEXTS, "ΟΔΟΣ ΣΑΣ", "İstanbul I\u0307", "ÉTÉ E\u0301", "ẞ ǅ Ω K"] * 3
    small = [text.lower() for text in texts]
    options = {"kind": kind, "vocab_size": 420, "max_length": 64, "extra_tokens": ["<BT>"]}
    tokenizer = train_tokenizer(small, lowercase=True, **options)  # type: ignore[arg-type]
    if kind != "unigram":
        assert tokenizer.get_vocab() == train_tokenizer(small, **options).get_vocab()  # type: ignore[arg-type]
        assert tokenizer.get_vocab() == train_tokenizer(texts, lowercase=True, **options).get_vocab()  # type: ignore[arg-type]
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    for text, lower in zip(texts, small, strict=True):
        ids = loaded(text)["input_ids"]
        assert ids == loaded(lower)["input_ids"], text
        assert 3 not in ids
        assert loaded.decode(ids, skip_special_tokens=True) == unicodedata.normalize("NFC", lower)
    assert loaded("<BT> DER</s>")["input_ids"] == [4, *loaded(" der")["input_ids"], 2]
    assert loaded.convert_ids_to_tokens([0, 1, 2, 3, 4]) == [*SPECIAL_TOKENS, "<BT>"]


def test_special_tokens_in_upper_case_are_no_words_of_their_own() -> None:
    for kind in KINDS:
        tokenizer = train_tokenizer(
            ["der <UNK> Hund", "x<UNK>"] * 9, kind=kind, vocab_size=300, max_length=9, lowercase=True
        )
        assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer))), kind
        assert tokenizer.unk_token_id == 3


def test_lower_case_is_that_of_python() -> None:
    """Sigma at the end of a word above all; letters that are newer than Python's tables aside."""
    generator = random.Random(0)
    normalizer = trained("word", lowercase=True).backend_tokenizer.normalizer
    signs = "ΣΣΣσαΑb'.\u0301 -1İIẞÅÅ"
    texts = ["".join(generator.choices(signs, k=generator.randint(1, 12))) for _ in range(3000)]
    texts += [chr(code) for code in range(0x10000) if unicodedata.category(chr(code)) not in ("Cn", "Cs", "Co")]
    for text in texts:
        lower = unicodedata.normalize("NFC", text.lower())
        assert normalizer.normalize_str(text) == lower, text
        assert normalizer.normalize_str(lower) == lower


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize("count", [9, 40, 295])
def test_a_vocabulary_that_cannot_hold_the_characters(kind: str, count: int) -> None:
    texts = ["".join(chr(0x4E00 + (row * 7 + place) % count) for place in range(9)) for row in range(2 * count)]
    least = 4 + count + 1 + (kind == "unigram")  # special tokens, characters, the mark of a blank
    for size in (5, least - 1):
        with pytest.raises(
            ValueError, match=rf"`tokenizer.vocab_size` must be at least {least} .*got {size}\. Raise it"
        ):
            train_tokenizer(texts, kind=kind, vocab_size=size, max_length=9)
    for size in (least, least + 1, least + 9):
        assert len(train_tokenizer(texts, kind=kind, vocab_size=size, max_length=9)) <= size


def test_a_vocabulary_that_cannot_hold_what_is_always_there() -> None:
    for kind, least in (("byte-level", 261), ("word", 6), ("character", 6), ("bpe", 6), ("unigram", 6)):
        message = rf"`tokenizer.vocab_size` must be at least {least} .*got {least - 1}\. Raise it"
        with pytest.raises(ValueError, match=message):
            train_tokenizer(TEXTS, kind=kind, vocab_size=least - 1, max_length=9, extra_tokens=["<BT>"])
    bytes_alone = train_tokenizer(TEXTS, kind="byte-level", vocab_size=261, max_length=9, extra_tokens=["<BT>"])
    assert len(bytes_alone) == 261


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
    for taken in (["<unk>"], ["<BT>", "<BT>"], ["▁"]):
        with pytest.raises(ValueError, match=rf"Special tokens.*must differ from each other.*got '{taken[0]}'"):
            train_tokenizer(TEXTS, kind="word", vocab_size=99, max_length=9, extra_tokens=taken)
    tokenizer = trained("word")
    tokenizer.eos_token = None
    with pytest.raises(ValueError, match="must have a eos_token, found none.*special_tokens"):
        check_special_tokens(tokenizer, "mine")
