"""Budgets in seconds and in steps."""

import pytest
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_custom_decoder.training.training_budget import BudgetCallback, TrainingBudget, warmup_then_linear


class FakeClock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


def test_seconds_are_counted_between_start_and_pause() -> None:
    clock = FakeClock()
    budget = TrainingBudget(seconds=100.0, clock=clock)
    clock.now += 50  # not started: does not count
    assert budget.share(7) == 0.0
    budget.start()
    clock.now += 10
    budget.start()  # counts already
    clock.now += 10
    assert budget.spent_seconds == 20.0
    assert budget.share(0) == pytest.approx(0.2)
    assert budget.seconds_left(0) == 80.0
    budget.pause()
    clock.now += 500
    assert budget.spent_seconds == 20.0
    budget.start()
    clock.now += 200
    assert budget.share(0) == 1.0
    assert budget.seconds_left(0) == 0.0


def test_time_before_an_interruption_counts() -> None:
    clock = FakeClock()
    first = TrainingBudget(seconds=100.0, clock=clock)
    first.start()
    clock.now += 30
    second = TrainingBudget(seconds=100.0, clock=clock)
    second.load_state_dict(first.state_dict())
    assert second.share(0) == pytest.approx(0.3)
    second.start()
    clock.now += 20
    assert second.share(0) == pytest.approx(0.5)


def test_steps_ignore_the_clock() -> None:
    clock = FakeClock()
    budget = TrainingBudget(steps=8, clock=clock)
    assert budget.seconds_left(0) is None
    budget.start()
    clock.now += 30
    assert budget.share(2) == 0.25
    assert budget.seconds_left(2) == pytest.approx(90.0)
    assert budget.share(9) == 1.0


@pytest.mark.parametrize("arguments", [{}, {"seconds": 1.0, "steps": 1}])
def test_exactly_one_limit(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="Exactly one of `seconds` and `steps`"):
        TrainingBudget(**arguments)


@pytest.mark.parametrize("arguments", [{"seconds": 0.0}, {"steps": 0}, {"seconds": -1.0}])
def test_nothing_is_no_budget(arguments: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="must be positive"):
        TrainingBudget(**arguments)


@pytest.mark.parametrize(
    ("share", "factor"), [(0.0, 0.0), (0.05, 0.5), (0.1, 1.0), (0.55, 0.5), (0.91, 0.1), (1.0, 0.0)]
)
def test_schedule(share: float, factor: float) -> None:
    assert warmup_then_linear(share, warmup=0.1) == pytest.approx(factor)


def test_callback_stops_the_trainer_when_the_budget_is_spent(tmp_path) -> None:  # type: ignore[no-untyped-def]
    clock = FakeClock()
    budget = TrainingBudget(seconds=10.0, clock=clock)
    callback = BudgetCallback(budget)
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    state, control = TrainerState(), TrainerControl()
    callback.on_train_begin(arguments, state, control)
    clock.now += 9.9
    callback.on_step_end(arguments, state, control)
    assert not control.should_training_stop
    clock.now += 0.1
    callback.on_step_end(arguments, state, control)
    assert control.should_training_stop
    callback.on_train_end(arguments, state, control)
    clock.now += 5
    assert budget.spent_seconds == pytest.approx(10.0)
