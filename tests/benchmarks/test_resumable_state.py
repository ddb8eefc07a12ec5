"""A run that was stopped goes on where it was."""

from pathlib import Path

import pytest

from benchmarks.results import Figure
from benchmarks.resumable_state import ResumableState, run_all


def figure(name: str) -> Figure:
    return Figure(name, 2.0, 1.9, 2.1, 200.0, 100.0, target=1.5, note="n")


def test_a_stopped_run_is_taken_up_where_it_was(tmp_path: Path) -> None:
    ran: list[str] = []

    def measure(name: str) -> list[Figure]:
        ran.append(name)
        if name == "b" and ran.count("b") == 1:
            raise KeyboardInterrupt
        return [figure(name)]

    names = ["a", "b", "c"]
    measurements = [(name, lambda name=name: measure(name)) for name in names]
    path, lines = tmp_path / "state.json", []
    with pytest.raises(KeyboardInterrupt):
        run_all(measurements, ResumableState(path, {"seed": 0}, Figure), lines.append)
    figures = run_all(measurements, ResumableState(path, {"seed": 0}, Figure), lines.append)
    assert ran == ["a", "b", "b", "c"]
    assert figures == [figure(name) for name in names]


def test_time_left_is_shown(tmp_path: Path) -> None:
    now, lines = [0.0], []

    def measure() -> list[Figure]:
        now[0] += 600.0
        return [figure("x")]

    measurements = [(name, measure) for name in ("a", "b", "c")]
    run_all(measurements, ResumableState(tmp_path / "state.json", {}, Figure), lines.append, clock=lambda: now[0])
    assert [line for line in lines if line.startswith("[")] == [
        "[1/3] a",
        "[2/3] b, about 20 min left",
        "[3/3] c, about 10 min left",
    ]


def test_figures_of_other_settings_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    ResumableState(path, {"seed": 0}, Figure).store("a", [figure("a")])
    assert ResumableState(path, {"seed": 0}, Figure).figures("a") == [figure("a")]
    assert ResumableState(path, {"seed": 0}, Figure).figures("b") is None
    with pytest.raises(ValueError, match="--restart"):
        ResumableState(path, {"seed": 1}, Figure)
