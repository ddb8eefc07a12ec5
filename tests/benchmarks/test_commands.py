"""The commands: what they print, what they write, and that they write nothing unasked."""

import json
import sys
from functools import partial
from pathlib import Path

import pytest
import torch

from benchmarks import __main__ as command
from benchmarks.device_results import DeviceFigure
from benchmarks.results import Figure, write_section
from benchmarks.sizes import Size

FIGURES = [
    Figure("training", 2.6, 2.5, 2.7, 260.0, 100.0, target=2.5),
    Figure("decoding", 1.2, 1.1, 1.3, 120.0, 100.0, target=1.4),
]


@pytest.fixture
def results(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "RESULTS.md"
    monkeypatch.setattr(command, "write_section", partial(write_section, path=path))
    monkeypatch.setattr(command, "PLOTS", tmp_path)
    monkeypatch.setattr(command, "STATE_FOLDER", tmp_path / "state")
    for name in ("short_measurements", "full_measurements"):
        monkeypatch.setattr(command, name, lambda seed, rounds, *sizes: [("all", lambda: FIGURES)])
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
        "(plots/short.png)",
    ):
        assert part in text
    assert (results.parent / "short.png").read_bytes().startswith(b"\x89PNG")


def test_nothing_is_measured_for_a_picture_that_cannot_be_drawn(
    results: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(SystemExit):
        command.main(["--write"])
    assert "pip install matplotlib" in capsys.readouterr().err
    assert not results.exists()


def test_full_mode_says_what_is_not_measured_and_goes_on(results: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command.main(["--full", "--write"])
    assert "[1/1] all" in capsys.readouterr().out
    assert "- Not measured: Beams of `nn.Transformer`" in results.read_text(encoding="utf-8")
    command.main(["--full"])
    assert "[1/1] all" not in capsys.readouterr().out  # finished before
    command.main(["--full", "--restart"])
    assert "[1/1] all" in capsys.readouterr().out


def test_absent_peers_are_named_and_present_ones_explained(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "missing_peers", lambda: ["CTranslate2: it was not installed."])
    command.main(["--full", "--write"])
    text = results.read_text(encoding="utf-8")
    assert "- Not measured: CTranslate2: it was not installed." in text
    assert "With CTranslate2 weights" not in text
    monkeypatch.setattr(command, "missing_peers", list)
    with pytest.raises(ValueError, match="--restart"):  # figures with and without a peer are not one table
        command.main(["--full"])
    command.main(["--full", "--write", "--restart"])
    assert "- With CTranslate2 weights" in results.read_text(encoding="utf-8")


def test_a_trial_takes_small_models_and_a_state_of_its_own(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[tuple] = []

    def measurements(seed: int, rounds: int, *sizes: Size) -> list[tuple]:
        taken.append(sizes)
        return [(name, lambda: FIGURES) for name in ("tiny: a", "base: b")]

    monkeypatch.setattr(command, "full_measurements", measurements)
    command.main(["--full", "--trial", "--only", "base"])
    assert [[size.width for size in sizes] for sizes in taken] == [[32, 32]]
    state = results.parent / "state"
    assert [path.name for path in state.iterdir()] == ["trial.json"]
    assert list(json.loads((state / "trial.json").read_text(encoding="utf-8"))["entries"]) == ["base: b"]


def test_a_device_goes_on_where_it_was_and_writes_its_own_section(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    figure = DeviceFigure("base: training", "ours", 1000.0, peak_share=0.25, peak_mib=2048.0)
    monkeypatch.setattr(command, "check_device", lambda device: None)
    monkeypatch.setattr(command, "device_name", lambda device: "some card")
    monkeypatch.setattr(command, "device_facts", lambda plan: "- Device: some card\n")
    monkeypatch.setattr(command, "device_measurements", lambda plan, seed, rounds: [("base", lambda: [figure])])
    command.main(["--device", "cuda"])
    assert "[1/1] base" in capsys.readouterr().out
    assert [path.name for path in (results.parent / "state").iterdir()] == ["cuda.json"]
    command.main(["--device", "cuda", "--write"])
    assert "[1/1] base" not in capsys.readouterr().out
    text = results.read_text(encoding="utf-8")
    assert "<!-- cuda -->\n## Training and decoding on a GPU\n" in text
    assert "Command: `python -m benchmarks --device cuda --write`" in text
    assert "| base: training | ours | 1,000 |  | 25.0% | 2,048 |" in text


def test_a_missing_card_is_a_usage_error(
    results: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(SystemExit, match="2"):
        command.main(["--device", "cuda"])
    assert "error: `--device cuda` needs a card that torch can use" in capsys.readouterr().err
    assert not results.exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--trial"], "--trial goes with --full"),
        (["--device", "cpu", "--trial"], "--trial goes with --full"),
        (["--only", "x"], "--only with --full or --device"),
        (["--full", "--trial", "--write"], "--write is for all figures of the real sizes"),
        (["--full", "--only", "x", "--write"], "--write is for all figures of the real sizes"),
        (["--device", "cpu", "--write"], "--write is for all figures of the real sizes"),
        (["--full", "--device", "cpu"], "--full and --device are two runs"),
    ],
)
def test_options_that_do_not_go_together(
    results: Path, capsys: pytest.CaptureFixture[str], options: list[str], message: str
) -> None:
    with pytest.raises(SystemExit, match="2"):
        command.main(options)
    assert message in capsys.readouterr().err
    assert not results.exists()
