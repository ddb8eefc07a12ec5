"""Checkpoints from which a run goes on after Ctrl-C, a crash or a power cut."""

import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerControl, TrainerState, TrainingArguments

from ..atomic_files import write_json
from .interruption import Interruption
from .token_count import TokenCount
from .training_budget import TrainingBudget
from .whole_checkpoints import WholeCheckpoints, checkpoints_in, remove_torn, step_of

_BUDGET_FILE = "training_budget.json"


class ResumableCheckpoints(WholeCheckpoints):
    """Saves now and then, and before the Trainer stops for an interruption; keeps the newest checkpoint only.

    Time spent and tokens counted go into each, see [`WholeCheckpoints`].

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
        super().__init__(folder, add=self._add_state)
        self._budget = budget
        self._interruption = interruption
        self._tokens = TokenCount() if tokens is None else tokens
        self._every_seconds = every_seconds
        self._clock = clock
        self._last_saved = clock()

    def newest(self) -> Path | None:
        """Returns the newest complete checkpoint, or None if there is none."""
        return max(checkpoints_in(self.folder), key=step_of, default=None)

    def restore_budget(self, checkpoint: Path) -> None:
        """Reads back the time that was spent up to a checkpoint, and the tokens that were counted."""
        state = json.loads((checkpoint / _BUDGET_FILE).read_text(encoding="utf-8"))
        self._budget.load_state_dict(state)
        self._tokens.num_tokens = int(state["num_tokens"])

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        remove_torn(self.folder)
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
        super().on_save(args, state, control, **kwargs)
        self._last_saved = self._clock()

    def _add_state(self, checkpoint: Path) -> None:
        write_json(checkpoint / _BUDGET_FILE, {**self._budget.state_dict(), "num_tokens": self._tokens.num_tokens})
