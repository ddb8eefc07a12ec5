"""The stock Trainer under FSDP2: what one process computes, checkpoints that move to one process and back, whole saves."""

import filecmp
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM

from hf_custom_decoder.training.trainer_layouts import layout_of, move_checkpoint
from tests.ecosystem.fsdp_worker import NUM_STEPS, arguments_for, build_model, launch, trainer_for
from tests.integration.training_runs import assert_same, logged_losses, weights_of


def train_alone(folder: Path, checkpoint: Path | None = None) -> dict[str, Any]:
    """One process without FSDP, which leaves a checkpoint at every step."""
    model = build_model()
    trainer = trainer_for(model, arguments_for(folder, 1))
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    return {"losses": logged_losses(trainer), "weights": weights_of(model)}


def at_step(folder: Path, step: int) -> Path:
    return folder / f"checkpoint-{step}"


def assert_goes_on_as_alone(tmp_path: Path, layout: str, num_processes: int = 2) -> Path:
    """From step 2 of one process to the end under FSDP, and from its step 3 in one process again."""
    alone = train_alone(tmp_path / "alone")
    moved = at_step(tmp_path / "moved", 2)
    move_checkpoint(at_step(tmp_path / "alone", 2), moved, layout=layout)
    sharded = tmp_path / "sharded"
    launch(sharded, layout, moved, num_processes=num_processes)
    found = torch.load(sharded / "found.pt")
    assert found["layers"] == "FSDPTransformerDecoderLayer"
    assert found["losses"] == pytest.approx(alone["losses"], rel=1e-6)
    config = tmp_path / "alone" / "checkpoint-2"
    assert layout_of(at_step(sharded, NUM_STEPS)) == layout
    for step in (3, NUM_STEPS):
        move_checkpoint(at_step(sharded, step), at_step(tmp_path / "back", step), layout="ddp", model=config)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(at_step(tmp_path / "back", NUM_STEPS), dtype="auto")
    assert_same(weights_of(loaded), alone["weights"])
    moments, expected = (
        torch.load(at_step(tmp_path / name, NUM_STEPS) / "optimizer.pt")["state"] for name in ("back", "alone")
    )
    assert moments.keys() == expected.keys()
    for number, entry in expected.items():
        assert_same(moments[number], entry)
    again = train_alone(tmp_path / "again", checkpoint=at_step(tmp_path / "back", 3))
    assert_same(again["weights"], alone["weights"])
    return sharded


def test_shards_go_on_as_one_process_and_back(tmp_path: Path) -> None:
    sharded = assert_goes_on_as_alone(tmp_path, "fsdp")
    assert not (at_step(sharded, NUM_STEPS) / "model.safetensors").exists()


def test_whole_checkpoints_go_on_as_one_process_and_back(tmp_path: Path) -> None:
    sharded = assert_goes_on_as_alone(tmp_path, "fsdp-full")
    saved, alone = sharded / "final", at_step(tmp_path / "alone", NUM_STEPS)
    code = {file.name for file in alone.glob("*.py")}
    assert len(code) > 30
    assert {file.name for file in saved.glob("*.py")} == code, "FSDP's class must not travel in the model's place"
    assert filecmp.cmp(saved / "config.json", alone / "config.json", shallow=False)


@pytest.mark.slow
def test_hybrid_shards_go_on_as_one_process_and_back(tmp_path: Path) -> None:
    """Two copies of two shards each."""
    sharded = assert_goes_on_as_alone(tmp_path, "fsdp", num_processes=4)
    assert "dp_replicate" in torch.load(sharded / "found.pt")["mesh"]
