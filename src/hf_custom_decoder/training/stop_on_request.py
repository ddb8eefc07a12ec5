"""Ctrl-C or termination ends a run after the running step, with a checkpoint."""

from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .interruption import Interruption


class StopOnRequest(TrainerCallback):
    """Saves and stops the Trainer after the step in which an interruption was requested.

    Args:
        interruption ([`Interruption`]): Looked at after every step.
    """

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if self._interruption.is_requested:
            control.should_save = True
            control.should_training_stop = True
