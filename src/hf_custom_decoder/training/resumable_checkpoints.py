"""Checkpoints from which a run goes on after Ctrl-C, a crash or a power cut."""

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..atomic_files import write_json
from .interruption import Interruption
from .token_count import TokenCount
from .training_budget import TrainingBudget

_PREFIX = "step-"
_BUDGET_FILE = "training_budget.json"


class ResumableCheckpoints(TrainerCallback):
    """Saves now and then, and before the Trainer stops for an interruption; keeps the newest checkpoint only.

    The Trainer writes into `checkpoint-N` of its output folder, piece by piece. When it has finished, this callback
    adds the time spent and renames the folder to `step-N`: a folder of that name is complete, whatever happens.

    Args:
        folder (`Path`): The Trainer's `output_dir`. The Trainer itself is told to save nothing
            (`save_strategy="no"`).
        budget ([`TrainingBudget`]): Its state goes into each checkpoint.
        interruption ([`Interruption`]): When requested, the Trainer saves and stops after the step.
        tokens ([`TokenCount`], *optional*): Its count goes into each checkpoint too.
        every_seconds (`float`, *optional*, defaults to 60.0): Seconds between two checkpoints.
        clock (`Callable[[], float]`, *optional*, defaults to `time.monotonic`): Returns the time in seconds.
    """

    def __init__(
        self,
        folder: Path,
        budget: TrainingBudget,
        interruption: Interruption,
        *,
        tokens: TokenCount | None = None,
        every_seconds: float = 60.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.folder = folder
        self._budget = budget
        self._interruption = interruption
        self._tokens = TokenCount() if tokens is None else tokens
        self._every_seconds = every_seconds
        self._clock = clock
        self._last_saved = clock()

    def newest(self) -> Path | None:
        """Returns the newest complete checkpoint, or None if there is none."""
        complete = [path for path in self.folder.glob(f"{_PREFIX}*") if path.is_dir()]
        return max(complete, key=_step_of, default=None)

    def restore_budget(self, checkpoint: Path) -> None:
        """Reads back the time that was spent up to a checkpoint, and the tokens that were counted."""
        state = json.loads((checkpoint / _BUDGET_FILE).read_text(encoding="utf-8"))
        self._budget.load_state_dict(state)
        self._tokens.num_tokens = int(state["num_tokens"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        for torn in self.folder.glob("checkpoint-*"):
            shutil.rmtree(torn)
        self._last_saved = self._clock()

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._budget.share(state.global_step) >= 1.0:
            return  # the run is over: its result is saved as a whole, not as a checkpoint
        if self._interruption.is_requested:
            control.should_save = True
            control.should_training_stop = True
        elif self._clock() - self._last_saved >= self._every_seconds:
            control.should_save = True

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        written = self.folder / f"checkpoint-{state.global_step}"
        write_json(written / _BUDGET_FILE, {**self._budget.state_dict(), "num_tokens": self._tokens.num_tokens})
        older = [path for path in self.folder.glob(f"{_PREFIX}*") if path.is_dir()]
        os.replace(written, self.folder / f"{_PREFIX}{state.global_step}")
        for path in older:
            shutil.rmtree(path)
        self._last_saved = self._clock()


def _step_of(checkpoint: Path) -> int:
    return int(checkpoint.name.removeprefix(_PREFIX))
