"""Stopping when a measurement no longer improves; what is known of it lies in the Trainer's own log."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments


def measurements_since_best(log_history: list[dict[str, float]], name: str, *, greater_is_better: bool) -> int:
    """Counts the measurements after the first one that had the best value; 0 if the last one is the best or none is.

    Args:
        log_history (`list[dict[str, float]]`): Of the Trainer's state.
        name (`str`): The entry to look at, such as "eval_loss".
        greater_is_better (`bool`): Which way is better.
    """
    values = [entry[name] for entry in log_history if name in entry]
    if not values:
        return 0
    best = max(values) if greater_is_better else min(values)
    return len(values) - 1 - values.index(best)


class EarlyStopping(TrainerCallback):
    """Stops after some measurements without a better one, and keeps the weights of the best.

    Nothing is remembered here: a resumed run finds its past measurements in the log that its checkpoint holds.

    Args:
        name (`str`): The measurement, such as "eval_bleu".
        greater_is_better (`bool`): Which way is better.
        patience (`int`): Measurements without a better one until training stops.
        best (`Path`): Folder for the weights of the best measurement; it appears whole.
        save (`Callable[[Path], None]`): Writes the model's weights, as they were measured, into a folder.
    """

    def __init__(
        self, name: str, *, greater_is_better: bool, patience: int, best: Path, save: Callable[[Path], None]
    ) -> None:
        self.name = name
        self.greater_is_better = greater_is_better
        self.patience = patience
        self.best = best
        self._save = save

    def is_over(self, log_history: list[dict[str, float]]) -> bool:
        """Tells whether a run with this log has to stop."""
        since = measurements_since_best(log_history, self.name, greater_is_better=self.greater_is_better)
        return since >= self.patience

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        since = measurements_since_best(state.log_history, self.name, greater_is_better=self.greater_is_better)
        if since == 0 and state.is_world_process_zero:
            partial = self.best.with_name(f"{self.best.name}.partial")
            if partial.exists():
                shutil.rmtree(partial)
            partial.mkdir(parents=True)
            self._save(partial)
            previous = self.best.with_name(f"{self.best.name}-previous.partial")
            if self.best.exists():
                os.replace(self.best, previous)
            os.replace(partial, self.best)
            if previous.exists():
                shutil.rmtree(previous)
        if since >= self.patience:
            control.should_training_stop = True
            control.should_save = True  # a resumed run must find that it is over
