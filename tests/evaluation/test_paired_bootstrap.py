"""The paired bootstrap against sacreBLEU's own, a written-out loop, and known cases."""

import json
import random
from pathlib import Path

import numpy as np
import pytest

from hf_custom_decoder.cli import main
from hf_custom_decoder.evaluation.paired_bootstrap import compare_outputs, compare_predictions, read_predictions
from tests.evaluation.test_sentence_scores import texts

REFERENCES = [[text] for text in texts(1, 60)]


def noisy(share: float, seed: int) -> list[str]:
    """References with a share of their words replaced."""
    generator = random.Random(seed)
    return [" ".join("wrong" if generator.random() < share else word for word in one[0].split()) for one in REFERENCES]


GOOD, LIKE_GOOD, BAD = noisy(0.2, 0), noisy(0.2, 1), noisy(0.5, 2)


@pytest.mark.parametrize("metric", ["bleu", "chrf", "token_f1", "error_rates"])
def test_a_better_system_is_told_from_an_equal_one(metric: str) -> None:
    pytest.importorskip("sacrebleu")
    worse = compare_outputs(metric, GOOD, BAD, REFERENCES, num_samples=200)
    sign = 1 if worse.greater_is_better else -1
    assert sign * worse.difference < 0
    assert max(sign * end for end in worse.interval) < 0
    assert worse.p_value < 0.01
    assert "the first is better" in str(worse)
    equal = compare_outputs(metric, GOOD, LIKE_GOOD, REFERENCES, num_samples=200)
    assert equal.interval[0] < 0 < equal.interval[1]
    assert equal.p_value > 0.05
    assert "no significant difference" in str(equal)
    assert equal == compare_outputs(metric, GOOD, LIKE_GOOD, REFERENCES, num_samples=200)
    other = compare_outputs(metric, GOOD, LIKE_GOOD, REFERENCES, num_samples=200, seed=7)
    assert (other.difference, other.interval) != (equal.difference, equal.interval)
    swapped = compare_outputs(metric, BAD, GOOD, REFERENCES, num_samples=200)
    assert swapped.difference == pytest.approx(-worse.difference)
    assert swapped.interval == pytest.approx((-worse.interval[1], -worse.interval[0]))


@pytest.mark.parametrize("metric", ["token_f1", "bleu", "chrf"])
def test_a_system_against_itself_has_a_p_value_of_one(metric: str) -> None:
    pytest.importorskip("sacrebleu")
    same = compare_outputs(metric, GOOD, GOOD, REFERENCES, num_samples=50)
    assert (same.difference, same.interval, same.p_value) == (0.0, (0.0, 0.0), 1.0)
    assert "no significant difference" in str(same)


def test_equal_systems_seldom_differ_significantly() -> None:
    """Each output is right with probability one half: of 300 pairs about 5 % have p < 0.05."""
    generator = random.Random(0)
    references = [["right"]] * 100
    significant = 0
    for _ in range(300):
        sides = [[generator.choice(["right", "wrong"]) for _ in references] for _ in range(2)]
        significant += compare_outputs("exact_match", *sides, references, num_samples=200).p_value < 0.05
    assert 0.03 < significant / 300 < 0.07


def test_the_interval_is_that_of_a_loop() -> None:
    """Written out: draw entries, score both systems on them, sort the differences."""
    found = compare_outputs("exact_match", GOOD, BAD, REFERENCES, num_samples=100, seed=5)
    draws = np.random.default_rng(5).choice(60, size=(100, 60), replace=True)
    right = [[text == one[0] for text, one in zip(side, REFERENCES, strict=True)] for side in (GOOD, BAD)]
    differences = [100 * sum(right[1][i] - right[0][i] for i in draw) / 60 for draw in draws]
    assert found.interval == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    mean = sum(differences) / 100
    larger = sum(abs(one - mean) >= abs(found.difference) for one in differences)
    assert found.p_value == pytest.approx((larger + 1) / 101)


@pytest.mark.parametrize("metric", ["bleu", "chrf"])
def test_draws_and_figures_are_sacrebleus(metric: str) -> None:
    """Its resampled figures of each system give our interval and p-value; its own p-value is computed otherwise."""
    pytest.importorskip("sacrebleu")
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    found = compare_outputs(metric, GOOD, LIKE_GOOD, REFERENCES, num_samples=100, seed=99)
    streams = [[one[0] for one in REFERENCES]]
    counters = [{"bleu": BLEU, "chrf": CHRF}[metric]() for _ in range(2)]
    scores = [counter.corpus_score(side, streams) for counter, side in zip(counters, (GOOD, LIKE_GOOD), strict=True)]
    assert (found.first, found.second) == pytest.approx((scores[0].score, scores[1].score))
    draws = np.random.default_rng(99).choice(60, size=(100, 60), replace=True)
    differences = []
    for draw in draws:
        drawn = [
            counter.corpus_score([side[i] for i in draw], [[REFERENCES[i][0] for i in draw]]).score
            for counter, side in zip(counters, (GOOD, LIKE_GOOD), strict=True)
        ]
        differences.append(drawn[1] - drawn[0])
    assert found.interval == pytest.approx(tuple(np.quantile(differences, [0.025, 0.975])))
    larger = sum(abs(one - np.mean(differences)) >= abs(found.difference) for one in differences)
    assert found.p_value == pytest.approx((larger + 1) / 101)
    assert found.settings == f"paired bootstrap, 100 samples, seed 99, {counters[0].get_signature()}"


def write(path: Path, outputs: list[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    rows = [
        {"source": str(row), "prediction": text, "references": one, "scores": {}}
        for row, (text, one) in enumerate(zip(outputs, REFERENCES, strict=False))
    ]
    path.write_text("\n".join(map(json.dumps, rows)) + "\n")
    return path


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write(tmp_path / "a" / "evaluation" / "predictions.jsonl", GOOD)
    second = write(tmp_path / "b.jsonl", BAD)
    line = ["compare", str(tmp_path / "a"), str(second), "--metric=token_f1", "--metric=exact_match", "--samples=50"]
    assert main([*line, "--json", str(tmp_path / "c.json")]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert [text.partition(":")[0] for text in shown] == ["token_f1", "exact_match"]
    assert "the first is better (60 entries; paired bootstrap, 50 samples, seed 12345)" in shown[0]
    written = json.loads((tmp_path / "c.json").read_text())
    expected = compare_predictions(tmp_path / "a", second, ["token_f1"], num_samples=50)[0]
    assert written[0]["p_value"] == expected.p_value
    assert written[0]["interval"] == list(expected.interval)


def test_pieces_are_joined(tmp_path: Path) -> None:
    row = {"source": "x", "prediction": "lo@@ w", "references": ["l@@ ow"]}
    (tmp_path / "p.jsonl").write_text(json.dumps(row) + "\n")
    assert read_predictions(tmp_path / "p.jsonl", bpe_joiner="@@") == [
        {"source": "x", "prediction": "low", "references": ["low"]}
    ]


def test_marks_that_unicode_calls_line_ends_stand_inside_a_line(tmp_path: Path) -> None:
    row = {"source": "a\u2028b", "prediction": "c\u0085d", "references": ["e\u2029\u000b\u000cf"]}
    (tmp_path / "p.jsonl").write_text(f"{json.dumps(row, ensure_ascii=False)}\n" * 2, encoding="utf-8")
    assert read_predictions(tmp_path / "p.jsonl") == [row, row]


def test_mistakes(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    one = write(tmp_path / "one.jsonl", GOOD)
    other = write(tmp_path / "other.jsonl", BAD)
    other.write_text(other.read_text().replace('"source": "3"', '"source": "three"'))
    short = write(tmp_path / "short.jsonl", GOOD[:5])
    (tmp_path / "bad.jsonl").write_text('{"source": "a"}\n')
    for line, message in (
        ([one, other], "line 4 has other source: '3' and 'three'"),
        ([one, short], "got 60 and 5 lines"),
        ([one, tmp_path / "none"], "found none at"),
        ([one, tmp_path / "bad.jsonl"], "line 1: must be an object with source, prediction"),
        ([one, one, "--metric=token_f1", "--samples=0"], "`num_samples` must be at least 1, got 0"),
        ([one, one, "--metric=token_f1", "--seed=0"], "`seed` must be at least 1, got 0"),
        ([one, one, "--metric=diversity"], "invalid choice: 'diversity'"),
    ):
        assert main(["compare", *map(str, line)]) == 2
        assert message in capsys.readouterr().err
    with pytest.raises(ValueError, match="must be one of bleu.*got 'diversity'"):
        compare_outputs("diversity", GOOD, BAD, REFERENCES)
    with pytest.raises(ValueError, match="got 60 and 5 outputs for 60 entries"):
        compare_outputs("token_f1", GOOD, GOOD[:5], REFERENCES)
