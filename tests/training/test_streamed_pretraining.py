"""`pretrain` and `train` on streams: runs that were killed, two processes, and what a stream cannot have."""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hf_custom_decoder.cli import main
from tests.tiny_recipes import write_recipe
from tests.training.test_run_pretraining import write_pretraining
from tests.training.test_run_recipe import KILL, KILLED_WITHIN_A_STEP

pytest.importorskip("datasets")

STREAM: dict[str, Any] = {
    "data__streaming": True,
    "data__shuffle_rows": 10,
    "training__max_tokens": None,
    "training__batch_size": 8,
}
MIXED: dict[str, Any] = {
    "spans": {"objective": "span_corruption", "text": ["en", "de"], "weight": 3},
    "holes": {"objective": "text_infilling", "text": "de", "weight": 1},
    "turn": {"objective": "supervised", "prefix": "rote alte ", "max_rows": 5, "weight": 1},
}


def write(folder: Path, command: str, **changes: Any) -> Path:
    options = {**STREAM, "training__max_steps": 24, **changes}
    return write_pretraining(folder, MIXED, **options) if command == "pretrain" else write_recipe(folder, **options)


@pytest.mark.parametrize("command", ["pretrain", "train"])
def test_a_killed_run_ends_with_the_same_weights(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Killed in its second pass over the data of every task."""
    recipe, calls = write(tmp_path, command), KILLED_WITHIN_A_STEP.replace("10", "19")
    killed = subprocess.run(
        [sys.executable, "-c", calls + KILL, command, str(recipe)], env=os.environ, capture_output=True, check=False
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert (tmp_path / "run.training" / "step-16").is_dir()
    assert main([command, str(recipe)]) == 0
    assert "Going on after 16 of 24 steps" in capsys.readouterr().out
    assert main([command, str(recipe), "--output", str(tmp_path / "whole")]) == 0
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert main([command, str(recipe), "--output", str(tmp_path / "other"), "--shuffle_rows=11"]) == 0
    other = load_file(tmp_path / "other" / "model.safetensors")
    assert any(not torch.equal(other[name], whole[name]) for name in whole)  # the order of rows is seen


@pytest.mark.slow
@pytest.mark.parametrize("command", ["pretrain", "train"])
def test_two_processes_see_what_one_that_accumulates_sees(command: str, tmp_path: Path) -> None:
    side = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0}
    recipe = write(tmp_path, command, model__encoder=side, model__decoder=side, training__adam_epsilon=0.01)
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
        + ["-m", "hf_custom_decoder", command, str(recipe)],
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr.decode()[-3000:]
    assert main([command, str(recipe), "--accumulation", "2", "--output", str(tmp_path / "alone")]) == 0
    both, alone = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "alone"))
    for name, weight in alone.items():
        torch.testing.assert_close(both[name], weight, rtol=1e-5, atol=1e-6)


def test_sizes_of_streams_are_not_known(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write(tmp_path, "pretrain")
    assert main(["pretrain", str(recipe), "--tasks.holes.weight="]) == 2
    assert "`tasks.holes.weight` must be given, as the sizes of streams" in capsys.readouterr().err
