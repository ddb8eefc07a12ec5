"""Levenshtein distance against hand-computed cases and the recursive definition."""

from functools import cache

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_custom_decoder.evaluation.edit_distance import edit_distance


def slow_edit_distance(left: str, right: str) -> int:
    """The definition, word for word: compare the last characters and try all three edits."""

    @cache
    def distance(i: int, j: int) -> int:
        if i == 0 or j == 0:
            return i + j
        return min(
            distance(i - 1, j) + 1,
            distance(i, j - 1) + 1,
            distance(i - 1, j - 1) + (left[i - 1] != right[j - 1]),
        )

    return distance(len(left), len(right))


@pytest.mark.parametrize(
    ("hypothesis", "reference", "expected"),
    [
        ("kitten", "sitting", 3),  # two substitutions and an insertion
        ("", "abc", 3),
        ("abc", "", 3),
        ("", "", 0),
        ("abc", "abc", 0),
        ("ab", "ba", 2),  # no transpositions
        (("K", "AE", "T"), ("K", "AA", "T", "S"), 2),
        (("AE",), ("A", "E"), 2),  # tokens, not characters
    ],
)
def test_known_distances(hypothesis: str, reference: str, expected: int) -> None:
    assert edit_distance(hypothesis, reference) == expected


@settings(max_examples=200, deadline=None, print_blob=True)
@given(st.text("abc", max_size=8), st.text("abc", max_size=8))
def test_equals_the_recursive_definition(left: str, right: str) -> None:
    assert edit_distance(left, right) == slow_edit_distance(left, right)
