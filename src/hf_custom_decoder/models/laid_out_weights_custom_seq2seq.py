"""
Linear layers with weights laid out for a few rows at a time, as in decoding.

They live inside one `generate()` call: an optimizer changes weights without a trace, so no copy may outlive the call.
Legend: R rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import nn

CALLS_BEFORE_TALL = 6
"""After so many calls the layout of a tall matrix (a vocabulary projection) has paid for itself, had it been there."""

CALLS_BEFORE = 16
"""The same for other matrices."""

TALL = 4
"""A matrix with so many times as many outputs as inputs is tall."""

MIN_WEIGHTS = 2**18
"""Smaller matrices stay in the cache of the processor: no layout helps them."""


class LaidOutLinear:
    """
    `x W^T + b` for inputs of shape `(R, I)`. The first calls use the weights as they are; then they are laid out once:
    transposed for one row, packed by oneDNN for more. Both are exact up to the order of the sums. Where neither helps
    (other dtypes, other devices, small matrices) the weights stay as they are.

    Args:
        weight (`torch.Tensor` of shape `(O, I)`).
        bias (`torch.Tensor` of shape `(O,)`, *optional*).
    """

    def __init__(self, weight: torch.Tensor, bias: torch.Tensor | None) -> None:
        self.weight, self.bias = weight, bias
        self.is_tall = weight.shape[0] >= TALL * weight.shape[1]
        can_gain = weight.device.type == "cpu" and weight.dtype == torch.float32 and weight.numel() >= MIN_WEIGHTS
        self.calls_left = (CALLS_BEFORE_TALL if self.is_tall else CALLS_BEFORE) if can_gain else -1
        self.transposed: torch.Tensor | None = None
        self.packed: torch.Tensor | None = None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(R, I)` to `(R, O)`."""
        if self.calls_left >= 0:
            if self.calls_left == 0:
                self._lay_out(inputs.shape[0])
            self.calls_left -= 1
        if self.packed is not None:
            packed_linear: Any = torch.ops.mkldnn._linear_pointwise
            outputs: torch.Tensor = packed_linear(inputs, self.packed, self.bias, "none", [], "")
            return outputs
        if self.transposed is not None:
            if self.bias is None:
                return torch.mm(inputs, self.transposed)
            return torch.addmm(self.bias, inputs, self.transposed)
        return nn.functional.linear(inputs, self.weight, self.bias)

    def _lay_out(self, num_rows: int) -> None:
        if num_rows == 1:
            self.transposed = self.weight.t().contiguous() if self.is_tall else None
        elif hasattr(torch.ops.mkldnn, "_reorder_linear_weight") and torch.backends.mkldnn.is_available():
            self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), num_rows)
        elif self.is_tall:
            self.transposed = self.weight.t().contiguous()


def laid_out(*modules: nn.Linear) -> LaidOutLinear:
    """One or several linear layers over the same inputs as one, their outputs side by side."""
    if len(modules) == 1:
        return LaidOutLinear(modules[0].weight, modules[0].bias)
    weight = torch.cat([one.weight for one in modules])
    if all(one.bias is None for one in modules):
        return LaidOutLinear(weight, None)
    biases: list[Any] = [one.weight.new_zeros(one.out_features) if one.bias is None else one.bias for one in modules]
    return LaidOutLinear(weight, torch.cat(biases))
