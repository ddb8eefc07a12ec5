"""Flags of broken outputs, and figures of diversity, by hand."""

import pytest

from hf_custom_decoder.evaluation.diversity import distinct_share, repeated_share
from hf_custom_decoder.evaluation.output_flags import flagged_rows, output_flags
from hf_custom_decoder.evaluation.text_metrics import score_texts


@pytest.mark.parametrize(
    ("source", "output", "references", "expected"),
    [
        ("ein Hund läuft", "a dog runs", ["a dog is running"], []),
        ("Ein Hund  läuft", "ein hund läuft", ["a dog runs"], ["copied"]),
        ("Paris 2024", "Paris 2024", ["Paris 2024", "In Paris"], []),  # a copy is right here
        ("x", "a dog a dog a dog a dog", ["a dog in a park"], ["looping"]),
        ("x", "no no no", ["no no no way out"], []),  # three times may be meant
        ("x", "very very very very good", ["a good one it is"], ["looping"]),
        ("x", "very very very very good", ["very very very very good"], []),
        ("x", "the end . one two three one two three one two three one two three", ["the end of it all"], ["looping"]),
        ("x", "哈哈哈哈哈哈哈哈哈哈哈哈", ["他笑了很久很久没有停下来啊"], ["looping"]),
        ("x", "hmmmm", ["hm hm hm"], []),
        ("x", "", ["a"], ["too_short"]),
        ("x", "dog", ["a dog runs in the park"], ["too_short"]),
        ("x", "dog", ["a dog runs in the park", "a dog"], []),
        ("x", "K", ["K AE T"], []),
        ("", "", [""], []),
    ],
)
def test_flags(source: str, output: str, references: list[str], expected: list[str]) -> None:
    assert output_flags(source, output, references) == expected


def test_rows_are_lines() -> None:
    assert flagged_rows([[], ["copied"], ["copied", "too_short"]]) == {
        "copied": [2, 3],
        "looping": [],
        "too_short": [3],
    }


def test_diversity() -> None:
    texts = ["a b a b a b".split(), "a b".split(), []]
    assert distinct_share(texts, 1) == pytest.approx(2 / 8)
    assert distinct_share(texts, 2) == pytest.approx(2 / 6)  # a b three times and b a twice, then a b
    assert repeated_share(texts, 4) == pytest.approx((1 - 2 / 3) / 3)
    assert (distinct_share([], 1), repeated_share([], 4)) == (0.0, 0.0)
    scores = score_texts(["diversity"], [" ".join(text) for text in texts], [["x"]] * 3)
    assert scores["distinct_1"].value == pytest.approx(25)
    assert scores["repetition_4"].value == pytest.approx(100 / 9)
    assert not scores["repetition_4"].greater_is_better
