"""The weights of the best measurements, and stopping when none is better; all is known from the Trainer's own log."""

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


def best_steps(log_history: list[dict[str, float]], name: str, *, greater_is_better: bool, count: int) -> list[int]:
    """Returns the steps of the `count` best measurements, best first; of equal ones the earlier.

    Args:
        log_history (`list[dict[str, float]]`): Of the Trainer's state.
        name (`str`): The entry to look at, such as "eval_loss".
        greater_is_better (`bool`): Which way is better.
        count (`int`): How many at most.
    """
    values = {int(entry["step"]): entry[name] for entry in log_history if name in entry}
    sign = -1.0 if greater_is_better else 1.0
    return sorted(values, key=lambda step: (sign * values[step], step))[:count]


class EarlyStopping(TrainerCallback):
    """Keeps the weights of the best measurements, and stops after some without a better one.

    Nothing is remembered here: a resumed run finds its past measurements in the log that its checkpoint holds.

    Args:
        name (`str`): The measurement, such as "eval_bleu".
        greater_is_better (`bool`): Which way is better.
        patience (`int`, *optional*): Measurements without a better one until training stops; None never stops.
        best (`Path`): Folder for the weights of the best measurements, in `step-N`; these appear whole.
        save (`Callable[[Path], None]`): Writes the model's weights, as they were measured, into a folder.
        keep (`int`, *optional*, defaults to 1): How many of the best are kept.
    """

    def __init__(
        self,
        name: str,
        *,
        greater_is_better: bool,
        patience: int | None,
        best: Path,
        save: Callable[[Path], None],
        keep: int = 1,
    ) -> None:
        self.name = name
        self.greater_is_better = greater_is_better
        self.patience = patience
        self.best = best
        self.keep = keep
        self._save = save

    def is_over(self, log_history: list[dict[str, float]]) -> bool:
        """Tells whether a run with this log has to stop."""
        if self.patience is None:
            return False
        since = measurements_since_best(log_history, self.name, greater_is_better=self.greater_is_better)
        return since >= self.patience

    def best_folders(self, log_history: list[dict[str, float]]) -> list[Path]:
        """Returns the folders of the best measurements that are there, best first."""
        steps = best_steps(log_history, self.name, greater_is_better=self.greater_is_better, count=self.keep)
        return [folder for step in steps if (folder := self.best / f"step-{step}").is_dir()]

    def on_evaluate(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        chosen = best_steps(state.log_history, self.name, greater_is_better=self.greater_is_better, count=self.keep)
        if state.is_world_process_zero:
            if state.global_step in chosen:
                self._write(self.best / f"step-{state.global_step}")
            for folder in self.best.glob("step-*"):
                if int(folder.name.removeprefix("step-")) not in chosen:
                    shutil.rmtree(folder)
        if self.is_over(state.log_history):
            control.should_training_stop = True
            control.should_save = True  # a resumed run must find that it is over

    def _write(self, folder: Path) -> None:
        partial = self.best / "best.partial"
        for torn in (partial, folder):  # the latter is from before an interruption
            if torn.exists():
                shutil.rmtree(torn)
        partial.mkdir(parents=True)
        self._save(partial)
        os.replace(partial, folder)
