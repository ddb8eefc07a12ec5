"""Invented words are in no dictionary."""

import re

import pytest

from hf_custom_decoder.data.pronunciation_dictionary import load_cmudict
from hf_custom_decoder.quickstart.invented_words import INVENTED_WORDS, words_outside


def test_all_are_unknown_and_plain() -> None:
    words = words_outside({entry.word for entry in load_cmudict()}, len(INVENTED_WORDS))
    assert len(set(words)) == len(INVENTED_WORDS) >= 12
    assert all(re.fullmatch("[a-z]+", word) for word in words)


def test_known_ones_are_passed_over() -> None:
    known = set(INVENTED_WORDS[:2])
    assert words_outside(known, 2) == list(INVENTED_WORDS[2:4])


def test_too_few_are_refused() -> None:
    with pytest.raises(ValueError, match="`count` must be at most 1, .* got 2"):
        words_outside(set(INVENTED_WORDS[1:]), 2)
