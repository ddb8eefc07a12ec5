"""How long to train: a number of seconds or of optimizer steps, kept over interruptions."""

import time
from collections.abc import Callable
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


class TrainingBudget:
    """Knows which share of a training run is done; schedules and stopping look at this share alone.

    With a budget in seconds, fast and slow machines take the same time and both see the whole learning rate schedule,
    but the number of steps, and so the result, differs from run to run. With a budget in steps a run is repeatable.

    Args:
        seconds (`float`, *optional*): Training time in seconds, summed over all resumed runs.
        steps (`int`, *optional*): Optimizer steps. Exactly one of the two is given.
        clock (`Callable[[], float]`, *optional*, defaults to `time.monotonic`): Returns the time in seconds.

    Raises:
        ValueError: If not exactly one of `seconds` and `steps` is given, or it is not positive.
    """

    def __init__(
        self,
        *,
        seconds: float | None = None,
        steps: int | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        if (seconds is None) == (steps is None):
            raise ValueError(
                f"Exactly one of `seconds` and `steps` must be given, got seconds={seconds} and steps={steps}."
            )
        amount = steps if seconds is None else seconds
        if amount is None or amount <= 0:
            raise ValueError(f"A budget must be positive, got seconds={seconds} and steps={steps}.")
        self.seconds = seconds
        self.steps = steps
        self._clock = clock
        self._spent_before = 0.0  # seconds, in finished stretches of training
        self._started: float | None = None

    @property
    def spent_seconds(self) -> float:
        """`float`: Seconds trained so far, over all resumed runs, pauses left out."""
        running = 0.0 if self._started is None else self._clock() - self._started
        return self._spent_before + running

    def start(self) -> None:
        """Starts counting time; counting already, it goes on."""
        if self._started is None:
            self._started = self._clock()

    def pause(self) -> None:
        """Stops counting time until the next `start`."""
        self._spent_before = self.spent_seconds
        self._started = None

    def share(self, step: int) -> float:
        """Returns the share of the run that is done after `step` optimizer steps, from 0 to 1."""
        done = self.spent_seconds / self.seconds if self.seconds is not None else step / (self.steps or 1)
        return min(done, 1.0)

    def seconds_left(self, step: int) -> float | None:
        """Returns the seconds still to come, estimated if the budget is in steps; None before anything is known."""
        if self.seconds is not None:
            return max(self.seconds - self.spent_seconds, 0.0)
        share = self.share(step)
        return self.spent_seconds * (1.0 - share) / share if share > 0.0 else None

    def state_dict(self) -> dict[str, Any]:
        """Returns what a checkpoint has to keep."""
        return {"spent_seconds": self.spent_seconds}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Takes over the time spent before an interruption."""
        self._spent_before = float(state["spent_seconds"])
        self._started = None


def warmup_then_linear(share: float, *, warmup: float) -> float:
    """Returns the factor on the peak learning rate: up in a straight line, then down to 0 in a straight line.

    Args:
        share (`float`): The share of the run that is done, from 0 to 1.
        warmup (`float`): The share at which the peak is reached, above 0 and below 1.

    Returns:
        `float`: From 0 to 1.
    """
    if share < warmup:
        return share / warmup
    return max(1.0 - share, 0.0) / (1.0 - warmup)


class BudgetCallback(TrainerCallback):
    """Counts training time into a [`TrainingBudget`] and stops the Trainer when it is spent."""

    def __init__(self, budget: TrainingBudget) -> None:
        self.budget = budget

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.budget.start()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self.budget.share(state.global_step) >= 1.0:
            control.should_training_stop = True

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self.budget.pause()
