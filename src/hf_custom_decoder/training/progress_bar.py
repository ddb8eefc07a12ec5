"""A progress bar that shows the share of the budget and the time left."""

import sys
from collections.abc import Iterator
from typing import Any, TypeVar

from tqdm.auto import tqdm  # type: ignore[import-untyped]
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .training_budget import TrainingBudget

Item = TypeVar("Item")


def format_seconds(seconds: float) -> str:
    """Writes seconds as minutes and seconds: 151.4 becomes "2:31"."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes}:{rest:02d}"


def refresh_seconds() -> float:
    """Returns how often a bar is redrawn, in seconds: seldom where the output goes to a file."""
    return 0.5 if sys.stderr.isatty() else 15.0


def progress_over(items: Iterator[Item], total: int, description: str, unit: str) -> Iterator[Item]:
    """Yields `items` and draws how many of `total` are done, their speed and the time left."""
    yield from tqdm(items, total=total, desc=description, unit=f" {unit}", mininterval=refresh_seconds())


class BudgetProgressBar(TrainerCallback):
    """Draws the share of the budget that is done, the time left, and the training loss as it is logged.

    Args:
        budget ([`TrainingBudget`]): What is shown. Start it before this callback, that is, list its callback first.
        description (`str`, *optional*, defaults to "training"): What stands before the bar.
    """

    def __init__(self, budget: TrainingBudget, description: str = "training") -> None:
        self._budget = budget
        self._description = description
        self._bar: Any = None
        self._loss = ""

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar = tqdm(
            total=100.0,
            desc=self._description,
            bar_format="{desc}: {percentage:3.0f}%|{bar:30}|{postfix}",
            mininterval=refresh_seconds(),
        )
        self._show(state.global_step)

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._show(state.global_step)

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._loss = f"loss {float(logs['loss']):.3f}, "

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        self._bar.close()

    def _show(self, step: int) -> None:
        left = self._budget.seconds_left(step)
        remaining = "" if left is None else f"{format_seconds(left)} left"
        self._bar.set_postfix_str(f"step {step}, {self._loss}{remaining}", refresh=False)
        self._bar.update(100.0 * self._budget.share(step) - self._bar.n)
