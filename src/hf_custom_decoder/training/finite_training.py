"""Stops a run whose numbers have become infinite or not a number."""

import math
from typing import Any

import torch
from torch import nn
from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

_WATCHED = ("loss", "grad_norm", "eval_loss")
_REMEDY = (
    "The run has diverged, and nothing is published. Start it again with `--fresh` and a lower "
    "`training.learning_rate`, a longer `training.warmup` or a smaller `training.clip_norm` (above 0)."
)


class FiniteTraining(TrainerCallback):
    """Raises a `ValueError` at the first log entry whose loss or gradient norm is not finite; no step mends that."""

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **kwargs: Any,
    ) -> None:
        for name in _WATCHED:
            value = (logs or {}).get(name)
            if value is not None and not math.isfinite(value):
                raise ValueError(f"`{name}` is {value} after step {state.global_step:,}. {_REMEDY}")


def check_finite_weights(model: nn.Module) -> None:
    """Raises a `ValueError` if a trained weight is infinite or not a number: the last step may have made it so."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not bool(torch.isfinite(weight).all()):
            raise ValueError(f"The trained weights must be finite, `{name}` is not. {_REMEDY}")
