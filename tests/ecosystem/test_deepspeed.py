"""
DeepSpeed in two CPU processes, by the files of examples/accelerate_configs, beside one process without it.

It is no part of the `dev` extra, as it compiles a part of itself (minutes) when it first runs. By hand:

    pip install deepspeed && python -m pytest tests/ecosystem/test_deepspeed.py
"""

import json
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from tests.ecosystem.layout_worker import model_that_ends
from tests.fresh_python import ROOT, run_python
from tests.integration.training_runs import weights_of

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1800),
    pytest.mark.skipif(find_spec("deepspeed") is None, reason="deepspeed is not installed"),
]
WORKER = Path(__file__).with_name("deepspeed_worker.py")
CONFIGS = ROOT / "examples" / "accelerate_configs"


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("deepspeed")
    model_that_ends().float().save_pretrained(folder / "base")
    return folder


def run(place: Path, name: str, *launcher: str | Path, **environment: str) -> dict[str, Any]:
    run_python(
        *launcher, WORKER, place / "base", place / name, folder=place, timeout=900, OMP_NUM_THREADS="1", **environment
    )
    found: dict[str, Any] = json.loads((place / name / "results.json").read_text())
    return found


@pytest.fixture(scope="module")
def alone(place: Path) -> dict[str, Any]:
    return run(place, "alone")


@pytest.mark.parametrize("stage", [2, 3])
def test_two_processes_under_deepspeed_do_as_one(place: Path, alone: dict[str, Any], stage: int) -> None:
    """
    Loading, four steps, generation of unequal lengths at the same time, a checkpoint to go on from, and the folder.
    """
    launcher = ["-m", "accelerate.commands.launch", "--config_file", CONFIGS / f"deepspeed_zero{stage}.yaml"]
    launcher += ["--num_processes", "2", "--mixed_precision", "no", "--main_process_port", f"{29610 + stage}"]
    found = run(place, f"zero{stage}", *launcher, DS_ACCELERATOR="cpu")
    assert (found["engine"], found["zero stage"]) == ("DeepSpeedEngine", stage)
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-5)
    assert found["resumed losses"] == pytest.approx(alone["losses"], rel=1e-5)
    expected = alone["ids"][0]
    assert found["ids"] == [expected[0::2], expected[1::2]]
    assert any(len(one) != len(two) for one, two in zip(*found["ids"], strict=True))
    assert found["predicted"] == alone["predicted"]
    weights = [
        weights_of(AutoModelForSeq2SeqLM.from_pretrained(place / name / "saved", dtype=torch.float32))
        for name in ("alone", f"zero{stage}")
    ]
    assert weights[0].keys() == weights[1].keys()
    torch.testing.assert_close(weights[1], weights[0], rtol=1e-4, atol=1e-5)
