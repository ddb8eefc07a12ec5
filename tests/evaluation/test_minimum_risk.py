"""Minimum Bayes risk against the definition, written out."""

import pytest

from hf_custom_decoder.evaluation.minimum_risk import least_risk, sentence_utility

pytest.importorskip("sacrebleu")

OUTPUTS = [
    "ein Hund läuft",
    "die Katze sitzt auf der Matte",
    "die Katze sitzt auf dem Dach",
    "die Katze saß auf der Matte",
]


@pytest.mark.parametrize("name", ["chrf", "bleu"])
def test_the_output_that_others_agree_with(name: str) -> None:
    utility = sentence_utility(name)
    gains = [sum(utility(output, other) for other in OUTPUTS) for output in OUTPUTS]
    assert least_risk(OUTPUTS, utility) == gains.index(max(gains)) == 1


def test_drawn_twice_counts_twice() -> None:
    utility = sentence_utility("chrf")
    assert least_risk([*OUTPUTS, OUTPUTS[0], OUTPUTS[0], OUTPUTS[0]], utility) == 0


def test_the_output_comes_first_and_the_other_is_taken_for_right() -> None:
    def recall(output: str, other: str) -> float:
        return sum(word in output.split() for word in other.split()) / len(other.split())

    assert least_risk(["a", "a b", "b c a"], recall) == 2


def test_equal_outputs_and_mistakes() -> None:
    assert least_risk(["x", "x"], sentence_utility("chrf")) == 0
    with pytest.raises(ValueError, match="at least one text, got none"):
        least_risk([], sentence_utility("chrf"))
    with pytest.raises(ValueError, match="must be chrf or bleu, got 'rouge'"):
        sentence_utility("rouge")
