"""
Dropout on a CPU with fewer draws and smaller masks than torch's.

torch draws a double for every element and keeps the mask in the dtype of the values. Here one draw of 64 bits decides
for four elements, and the mask is kept as booleans.
"""

from typing import Any

import torch
from torch import nn

from .packing_custom_seq2seq import is_tracing

LEVELS = 2**16
"""A probability is rounded to a multiple of one part in so many; what is kept is scaled by the rounded one exactly."""

LEAST_LEVELS = 64
"""Probabilities of fewer levels, or of so few less than one, are left to torch."""


def dropout(states: torch.Tensor, p: float, training: bool) -> torch.Tensor:
    """
    Dropout (Srivastava et al. 2014) as `nn.functional.dropout` defines it, with other draws of torch's generator.

    Args:
        states (`torch.Tensor` of any shape).
        p (`float`): Probability that an element becomes zero; the others are divided by `1 - p`.
        training (`bool`): False returns `states` as they are.
    """
    if not training or p == 0.0:
        return states
    level = round(p * LEVELS)
    plain = type(states) is torch.Tensor and states.device.type == "cpu" and not is_tracing()
    if (
        not plain
        or states.dtype not in (torch.float32, torch.float64)
        or not LEAST_LEVELS <= level <= LEVELS - LEAST_LEVELS
        or torch._C._are_functorch_transforms_active()
        or torch.autograd.forward_ad._current_level >= 0
    ):
        return nn.functional.dropout(states, p=p, training=training)
    dropped: torch.Tensor = _Dropout.apply(states, level)
    return dropped


class _Dropout(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, states: torch.Tensor, level: int) -> torch.Tensor:
        count = states.numel()
        draws = torch.empty((count + 3) // 4, dtype=torch.int64, device=states.device).random_(-(2**63), None)
        kept = draws.view(torch.int16)[:count].view(states.shape) >= level - LEVELS // 2
        ctx.save_for_backward(kept)
        ctx.scale = LEVELS / (LEVELS - level)
        return kept.to(states.dtype).mul_(ctx.scale).mul_(states)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        (kept,) = ctx.saved_tensors
        return kept.to(grad.dtype).mul_(ctx.scale) * grad, None
