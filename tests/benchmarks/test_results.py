"""Tables, verdicts, and sections that leave each other alone."""

from dataclasses import replace
from pathlib import Path

import pytest

from benchmarks.interleaved import Race
from benchmarks.results import Figure, speed_figure, table, write_section

FIGURE = Figure("training", 2.5, 2.4, 2.6, 1234.0, 493.6, target=2.5)


@pytest.mark.parametrize(
    ("ratio", "at_most", "verdict"),
    [(2.5, False, "PASS"), (2.49, False, "SHORT"), (2.5, True, "PASS"), (2.51, True, "SHORT")],
)
def test_verdict(ratio: float, at_most: bool, verdict: str) -> None:
    assert replace(FIGURE, ratio=ratio, at_most=at_most).verdict == verdict


def test_no_verdict_without_a_target() -> None:
    figure = replace(FIGURE, target=None)
    assert figure.verdict == figure.target_text == ""
    assert "target" not in figure.line()


def test_line_and_table_hold_the_figures() -> None:
    expected = "training vs BART: 2.50 [2.40, 2.60]  target ≥ 2.50  PASS  (1,234 vs 494 tokens/s)"
    assert FIGURE.line() == expected
    rows = table([FIGURE]).splitlines()
    assert rows[2] == "| training | BART | 1,234 | 494 | tokens/s | 2.50 [2.40, 2.60] | ≥ 2.50 | PASS |  |"
    assert len({row.count("|") for row in rows}) == 1


def test_speed_figure_compares_ours_with_the_reference() -> None:
    result = Race(100, {"BART": [4.0] * 5, "ours": [2.0] * 5})
    figure = speed_figure("x", result, "ours", "BART")
    assert (figure.ratio, figure.ours, figure.reference, figure.reference_name) == (2.0, 50.0, 25.0, "BART")


def test_each_section_is_rewritten_alone(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    write_section("one", "First", "old one", path)
    write_section("two", "Second", "of two", path)
    before = path.read_text(encoding="utf-8")
    write_section("one", "First", "new one", path)
    assert path.read_text(encoding="utf-8") == before.replace("old one", "new one")
    assert before.startswith("# Results")
    assert before.index("## First") < before.index("## Second")
