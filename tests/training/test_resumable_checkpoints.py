"""An interrupted run that goes on ends where an uninterrupted one does."""

import json
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import TrainerCallback, set_seed

from hf_custom_decoder.data.pronunciation_examples import encode_entries
from hf_custom_decoder.training import pronunciation_recipe
from hf_custom_decoder.training.interruption import Interruption
from hf_custom_decoder.training.pronunciation_recipe import build_pronunciation_trainer
from hf_custom_decoder.training.resumable_checkpoints import ResumableCheckpoints
from hf_custom_decoder.training.token_count import TokenCount
from hf_custom_decoder.training.training_budget import TrainingBudget
from tests.tiny_pronunciation import ENTRIES, tiny_model, tiny_tokenizer

STEPS = 10


class AtStep(TrainerCallback):
    """Calls a function at the end of one step, and counts the steps."""

    def __init__(self, step: int, function: Any) -> None:
        self.step = step
        self.function = function
        self.num_steps = 0

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.num_steps += 1
        if state.global_step + 1 == self.step:
            self.function()


@pytest.fixture(autouse=True)
def _small_batches(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pronunciation_recipe, "BATCH_SIZE", 2)  # 3 steps an epoch: runs cross epochs


def run(
    folder: Path, *, at_step: AtStep, tokens: TokenCount | None = None, every_seconds: float = 1e9
) -> tuple[dict[str, torch.Tensor], ResumableCheckpoints]:
    """Trains, from the newest checkpoint if there is one; returns the weights."""
    tokenizer = tiny_tokenizer()
    set_seed(1)
    model = tiny_model(tokenizer).train()
    budget = TrainingBudget(steps=STEPS)
    tokens = TokenCount() if tokens is None else tokens
    with Interruption() as interruption:
        checkpoints = ResumableCheckpoints(folder, budget, interruption, tokens=tokens, every_seconds=every_seconds)
        newest = checkpoints.newest()
        if newest is not None:
            checkpoints.restore_budget(newest)
        trainer = build_pronunciation_trainer(
            model,
            tokenizer,
            encode_entries(tokenizer, ENTRIES),
            budget,
            peak_learning_rate=2e-3,
            output_dir=folder,
            seed=1,
            callbacks=[at_step, tokens, checkpoints],
        )
        trainer.train(resume_from_checkpoint=None if newest is None else str(newest))
    return {name: value.clone() for name, value in model.state_dict().items()}, checkpoints


def test_resumed_run_equals_uninterrupted_run(tmp_path: Path) -> None:
    nothing = AtStep(0, lambda: None)
    expected, untouched = run(tmp_path / "whole", at_step=nothing)
    assert nothing.num_steps == STEPS
    assert untouched.newest() is None

    interrupt = AtStep(7, lambda: signal.raise_signal(signal.SIGINT))  # within the third epoch
    stopped, checkpoints = run(tmp_path / "parts", at_step=interrupt)
    assert interrupt.num_steps == 7
    newest = checkpoints.newest()
    assert newest is not None
    assert newest.name == "step-7"
    assert any(not torch.equal(stopped[name], expected[name]) for name in expected)

    rest = AtStep(0, lambda: None)
    resumed, _ = run(tmp_path / "parts", at_step=rest)
    assert rest.num_steps == STEPS - 7
    for name in expected:
        torch.testing.assert_close(resumed[name], expected[name], rtol=0, atol=0)


def test_interrupt_that_tears_a_step_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    def tear() -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, at_step=AtStep(6, tear), every_seconds=0.0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step-5"]  # the older ones are gone
    rest = AtStep(0, lambda: None)
    run(tmp_path, at_step=rest)
    assert rest.num_steps == STEPS - 5


def test_torn_checkpoint_is_never_used(tmp_path: Path) -> None:
    torn = tmp_path / "checkpoint-8"
    torn.mkdir(parents=True)
    (torn / "model.safetensors").write_bytes(b"half")
    nothing = AtStep(0, lambda: None)
    _, checkpoints = run(tmp_path, at_step=nothing)
    assert nothing.num_steps == STEPS
    assert checkpoints.newest() is None
    assert not torn.exists()


def test_checkpoint_keeps_the_time_spent(tmp_path: Path) -> None:
    _, checkpoints = run(tmp_path, at_step=AtStep(2, lambda: signal.raise_signal(signal.SIGINT)))
    newest = checkpoints.newest()
    assert newest is not None
    stored = json.loads((newest / "training_budget.json").read_text())
    assert stored["spent_seconds"] > 0
    budget = TrainingBudget(seconds=1000.0)
    ResumableCheckpoints(tmp_path, budget, Interruption()).restore_budget(newest)
    assert budget.spent_seconds == stored["spent_seconds"]


def test_tokens_before_an_interruption_count(tmp_path: Path) -> None:
    whole, first, rest = TokenCount(), TokenCount(), TokenCount()
    run(tmp_path / "whole", at_step=AtStep(0, lambda: None), tokens=whole)
    interrupt = AtStep(7, lambda: signal.raise_signal(signal.SIGINT))
    run(tmp_path / "parts", at_step=interrupt, tokens=first)
    run(tmp_path / "parts", at_step=AtStep(0, lambda: None), tokens=rest)
    assert 0 < first.num_tokens < rest.num_tokens == whole.num_tokens


def test_newest_counts_steps_as_numbers(tmp_path: Path) -> None:
    for name in ("step-9", "step-10", "step-8"):
        (tmp_path / name).mkdir()
    newest = ResumableCheckpoints(tmp_path, TrainingBudget(steps=1), Interruption()).newest()
    assert newest == tmp_path / "step-10"
