"""Error rates against several references, computed by hand."""

import pytest

from hf_custom_decoder.evaluation.error_rates import ErrorRates, nearest_reference, pronunciation_error_rates


def test_rates_by_hand() -> None:
    hypotheses = ["abc", "xb", "", "abcd"]
    references = [
        ["abc"],  # right: 0 edits of 3
        ["ab", "abc"],  # nearest is "ab": 1 of 2
        ["ab"],  # nothing produced: 2 of 2
        ["zzzzzz", "abce", "abcde"],  # "abce" and "abcde" are 1 away, the first counts: 1 of 4
    ]
    rates = pronunciation_error_rates(hypotheses, references)
    assert rates == ErrorRates(num_words=4, num_wrong_words=3, num_edits=4, num_phonemes=11)
    assert rates.word_error_rate == pytest.approx(3 / 4)
    assert rates.phoneme_error_rate == pytest.approx(4 / 11)


def test_any_reference_counts_as_right() -> None:
    rates = pronunciation_error_rates([("B",)], [[("A", "B", "C"), ("B",)]])
    assert rates == ErrorRates(num_words=1, num_wrong_words=0, num_edits=0, num_phonemes=1)


def test_rate_may_exceed_one() -> None:
    assert pronunciation_error_rates(["aaaa"], [["b"]]).phoneme_error_rate == 4.0


def test_ties_go_to_the_first_reference() -> None:
    assert nearest_reference("ab", ["abx", "a"]) == (1, "abx")
    assert nearest_reference("ab", ["a", "abx"]) == (1, "a")


def test_unequal_lists_are_refused() -> None:
    with pytest.raises(ValueError, match="got 1 and 2 entries"):
        pronunciation_error_rates(["a"], [["a"], ["b"]])


def test_no_words_are_refused() -> None:
    with pytest.raises(ValueError, match="at least one word"):
        pronunciation_error_rates([], [])


@pytest.mark.parametrize("bad", [[], [""], ["a", ""]])
def test_word_without_reference_is_refused(bad: list[str]) -> None:
    with pytest.raises(ValueError, match=r"`references\[1\]` must hold at least one pronunciation"):
        pronunciation_error_rates(["a", "b"], [["a"], bad])
