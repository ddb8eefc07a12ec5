"""The commands: what they print, what they write, and that they write nothing unasked."""

from functools import partial
from pathlib import Path

import pytest

from benchmarks import __main__ as command
from benchmarks.results import Figure, write_section

FIGURES = [
    Figure("training", 2.6, 2.5, 2.7, 260.0, 100.0, target=2.5),
    Figure("decoding", 1.2, 1.1, 1.3, 120.0, 100.0, target=1.4),
]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "RESULTS.md"
    monkeypatch.setattr(command, "write_section", partial(write_section, path=path))
    monkeypatch.setattr(command, "STATE_FOLDER", tmp_path / "state")
    for name in ("short_measurements", "full_measurements"):
        monkeypatch.setattr(command, name, lambda seed, rounds: [("all", lambda: FIGURES)])
    monkeypatch.setattr(command.torch, "set_num_threads", lambda count: None)  # other tests keep their threads
    return path


def test_short_mode_prints_verdicts_and_writes_nothing(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main([])
    lines = capsys.readouterr().out.splitlines()
    assert "PASS" in lines[0]
    assert "SHORT" in lines[1]
    assert "s of CPU time" in lines[2]
    assert not results.exists()


def test_written_results_name_their_circumstances(results: Path) -> None:
    command.main(["--write", "--seed", "3"])
    text = results.read_text(encoding="utf-8")
    for part in (
        "Command: `python -m benchmarks --write`, seed 3",
        "thread(s)",
        "transformers 5.",
        "Date: 20",
        "Equal on both sides: weights",
        "Size tiny: width 256, feed-forward 1024, 3+3 layers, 4 heads, vocabulary 8,000",
        "| training | BART |",
        "| ≥ 1.40 | SHORT |",
    ):
        assert part in text


def test_full_mode_says_what_is_not_measured_and_goes_on(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--full", "--write"])
    assert "[1/1] all" in capsys.readouterr().out
    assert "- Not measured: GPU" in results.read_text(encoding="utf-8")
    command.main(["--full"])
    assert "[1/1] all" not in capsys.readouterr().out  # finished before
    command.main(["--full", "--restart"])
    assert "[1/1] all" in capsys.readouterr().out
