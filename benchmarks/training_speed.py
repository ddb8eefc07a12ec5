"""Training: forward, backward and AdamW step over padded batches."""

import contextlib
from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .batches import Batch, real_tokens
from .interleaved import UnequalWorkError

LossFunction = Callable[[Batch], torch.Tensor]


class TrainingPass:
    """
    A contestant: one optimizer step for every batch.

    Args:
        model (`nn.Module`): Set to training mode.
        batches (`list[Batch]`): On the device of the model.
        loss (`LossFunction`, *optional*): The loss of a batch; by default `model(**batch).loss`.
        autocast (`torch.dtype`, *optional*): Run the forward pass under autocast to this dtype.
    """

    def __init__(
        self,
        model: nn.Module,
        batches: list[Batch],
        *,
        loss: LossFunction | None = None,
        autocast: torch.dtype | None = None,
    ) -> None:
        self.model, self.batches, self.autocast = model.train(), batches, autocast
        self.loss = loss if loss is not None else lambda batch: model(**batch).loss
        self.optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5)
        self.tokens = real_tokens(batches)
        self.device = batches[0]["input_ids"].device.type

    def __call__(self) -> int:
        for batch in self.batches:
            context: contextlib.AbstractContextManager[Any] = contextlib.nullcontext()
            if self.autocast is not None:
                context = torch.autocast(self.device, dtype=self.autocast)
            with context:
                loss = self.loss(batch)
            loss.backward()
            self.optimizer.step()
            self.optimizer.zero_grad()
        return self.tokens


def check_equal_loss(one: nn.Module, two: nn.Module, batch: Batch, tolerance: float = 1e-4) -> float:
    """
    Both models must give the same loss for a batch, dropout off: they are then the same function.

    Returns:
        The loss per token.

    Raises:
        UnequalWorkError: The losses differ by more than `tolerance`.
    """
    with torch.no_grad():
        losses = [float(model.eval()(**batch).loss) for model in (one, two)]
    if abs(losses[0] - losses[1]) > tolerance:
        raise UnequalWorkError(f"Both models must give the same loss, got {losses}. Give them the same weights.")
    return losses[0]
