"""All decoders in turn: interrupted, continued, in one table."""

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hf_custom_decoder.cli import main
from hf_custom_decoder.quickstart import run_comparison as module
from hf_custom_decoder.quickstart import run_quickstart as single_run
from hf_custom_decoder.quickstart.quickstart_settings import QuickstartSettings
from hf_custom_decoder.quickstart.run_comparison import describe_time_left
from hf_custom_decoder.training.progress_bar import BudgetProgressBar
from hf_custom_decoder.training.pronunciation_decoders import DECODER_RECIPES
from tests.quickstart.test_quickstart_results import RESULTS
from tests.tiny_pronunciation import cached_cmudict, shrink_recipes

STEPS = 2


@pytest.fixture
def trained(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Makes the models small, leaves out the proof in a fresh process, and names the decoder of each step."""
    shrink_recipes(monkeypatch, 16)
    monkeypatch.setattr(single_run, "load_cmudict", cached_cmudict)
    monkeypatch.setattr(single_run, "prove", lambda *arguments: None)
    steps: list[str] = []
    show = BudgetProgressBar.on_step_end

    def on_step_end(self: BudgetProgressBar, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append(self._description.removeprefix("training "))
        show(self, args, state, control, **kwargs)

    monkeypatch.setattr(BudgetProgressBar, "on_step_end", on_step_end)
    return steps


def test_all_decoders_end_to_end(
    tmp_path: Path, trained: list[str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "all"
    command = ["quickstart", "--decoder=all", "--output", str(output), "--limit=120", f"--max_steps={STEPS}"]
    command.append("--num_beams=1")

    titles: list[str] = []
    monkeypatch.setattr(single_run, "save_attention_maps", lambda maps, path, *, title: titles.append(title))

    # Ctrl-C while the third decoder is scored: two are finished, the third is trained.
    pronounce = single_run.pronounce

    def interrupt_lstm(*args: Any, **kwargs: Any) -> Any:
        if kwargs["description"] == "scoring lstm":
            raise KeyboardInterrupt
        return pronounce(*args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(single_run, "pronounce", interrupt_lstm)
        assert main(command) == 130
    out = capsys.readouterr().out
    assert "=== transformer: 1 of 7, time left unknown until one is finished ===" in out
    assert "=== lstm: 3 of 7, about 1 minute left ===" in out
    assert "2 of 7 decoders are finished." in out
    assert "The same command goes on where it stopped" in out
    assert trained == ["transformer"] * STEPS + ["gru"] * STEPS + ["lstm"] * STEPS
    assert not (output / "comparison.md").exists()

    # Other settings would not be the same comparison.
    assert main([*command[:-1], "--num_beams=2"]) == 2
    assert "`num_beams` must be the same when a run is continued" in capsys.readouterr().err

    # Started again, it trains only what is not trained.
    assert main(command) == 0
    out = capsys.readouterr().out
    assert "Finished before: transformer, gru\n" in out
    assert "Training was finished before the interruption." in out
    assert trained == [name for name in DECODER_RECIPES for _ in range(STEPS)]
    assert titles == [f"English pronunciation, {recipe.title} decoder" for recipe in DECODER_RECIPES.values()]
    check_comparison(output, out)

    # Started again, it shows the table.
    assert main(command) == 0
    assert (output / "comparison.md").read_text().splitlines()[2] in capsys.readouterr().out
    assert len(trained) == STEPS * len(DECODER_RECIPES)

    # --fresh forgets all of it, and nothing else.
    (output / "notes.txt").write_text("mine")
    with monkeypatch.context() as patch:
        patch.setattr(module, "run_quickstart", interrupt)
        assert main([*command, "--fresh"]) == 130
    assert "The same command without --fresh goes on" in capsys.readouterr().out
    assert sorted(path.name for path in output.iterdir()) == ["comparison_settings.json", "notes.txt"]


def interrupt(*args: Any, **kwargs: Any) -> None:
    raise KeyboardInterrupt


def check_comparison(output: Path, out: str) -> None:
    lines = (output / "comparison.md").read_text().splitlines()[2 : 4 + len(DECODER_RECIPES)]
    assert "\n".join(lines) in out
    assert [line.split()[1] for line in lines[2:]] == list(DECODER_RECIPES)
    content = json.loads((output / "comparison.json").read_text())
    assert content["settings"] == {
        "decoder": "all",
        "seed": 0,
        "limit": 120,
        "max_steps": STEPS,
        "minutes": None,
        "num_beams": 1,
        "device": "cpu",
    }
    for figures in content["decoders"]:
        folder = output / figures["decoder"]
        results = json.loads((folder / "results.json").read_text())
        assert results["decoder"] == figures["decoder"]
        assert results["training"]["num_steps"] == STEPS
        assert results["training"]["tokens_per_second"] == figures["training_tokens_per_second"] > 0
        assert results["decoding"]["tokens_per_second"] == figures["decoding_tokens_per_second"] > 0
        title = DECODER_RECIPES[figures["decoder"]].title
        assert f"# English pronunciation with {title} decoder" in (folder / "README.md").read_text()
    assert not list(output.glob("*.training"))


def test_files_of_others_are_never_touched(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    for arguments in ([], ["--fresh"]):
        assert main(["quickstart", "--decoder=all", "--output", str(tmp_path), *arguments]) == 2
        assert (
            "`output` must be a new folder or that of an earlier run with `--decoder all`" in capsys.readouterr().err
        )
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


def test_time_left_adds_what_finished_runs_took_beside_training() -> None:
    settings = QuickstartSettings(decoder="all", minutes=4.0)
    assert describe_time_left(settings, [], 7) == "about 28 minutes left"
    assert describe_time_left(settings, [RESULTS], 6) == "about 27 minutes left"  # 240 + (120 - 90) seconds each
    steps = dataclasses.replace(settings, max_steps=42)
    assert describe_time_left(steps, [], 7) == "time left unknown until one is finished"
    assert describe_time_left(steps, [RESULTS], 6) == "about 12 minutes left"  # 90 + 30 seconds each
