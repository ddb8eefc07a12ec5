"""What the progress bar shows."""

from pathlib import Path

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_custom_decoder.training import progress_bar
from hf_custom_decoder.training.progress_bar import BudgetProgressBar, format_seconds, progress_over
from hf_custom_decoder.training.training_budget import TrainingBudget


@pytest.mark.parametrize(("seconds", "text"), [(0, "0:00"), (59.4, "0:59"), (59.6, "1:00"), (151.4, "2:31")])
def test_minutes_and_seconds(seconds: float, text: str) -> None:
    assert format_seconds(seconds) == text


def test_share_loss_and_time_left_are_shown(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(progress_bar, "refresh_seconds", lambda: 0.0)
    now = [0.0]
    budget = TrainingBudget(seconds=200.0, clock=lambda: now[0])
    bar = BudgetProgressBar(budget)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state, control = TrainerState(), TrainerControl()
    budget.start()
    bar.on_train_begin(arguments, state, control)
    now[0] = 49.0
    state.global_step = 123
    bar.on_log(arguments, state, control, logs={"loss": 0.4567})
    bar.on_step_end(arguments, state, control)
    bar.on_train_end(arguments, state, control)
    shown = capsys.readouterr().err
    assert "24%" in shown
    assert "step 123, loss 0.457, 2:31 left" in shown


def test_items_pass_through(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress_over(iter("abc"), 3, "scoring", "words")) == ["a", "b", "c"]
    assert "scoring: 100%" in capsys.readouterr().err
