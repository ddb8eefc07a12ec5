"""Ctrl-C or termination ends a run after the running step, with a checkpoint."""

from typing import Any

import torch
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from .interruption import Interruption

STEPS_BETWEEN_QUESTIONS = 10
"""Optimizer steps between two times that several processes ask each other, which makes them wait."""


class StopOnRequest(TrainerCallback):
    """Saves and stops the Trainer after the step in which an interruption was requested.

    Several processes must stop after the same step: every tenth step they look whether any of them was asked to.

    Args:
        interruption ([`Interruption`]): Of this process.

    Attributes:
        has_stopped (`bool`): Whether a request has ended the training.
    """

    def __init__(self, interruption: Interruption) -> None:
        self._interruption = interruption
        self.has_stopped = False

    def on_step_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        if args.world_size == 1:
            is_requested = self._interruption.is_requested
        else:
            is_question = state.global_step % STEPS_BETWEEN_QUESTIONS == 0
            is_requested = is_question and _any_process(self._interruption.is_requested, args.device)
        if is_requested:
            self.has_stopped = True
            control.should_save = True
            control.should_training_stop = True


def _any_process(flag: bool, device: torch.device) -> bool:
    flags = torch.tensor(int(flag), device=device)
    torch.distributed.all_reduce(flags, op=torch.distributed.ReduceOp.MAX)
    return bool(flags)
