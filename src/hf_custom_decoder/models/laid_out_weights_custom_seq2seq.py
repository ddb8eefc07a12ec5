"""
Linear layers with weights laid out for a few rows at a time, as in decoding.

They live inside one `generate()` call: an optimizer changes weights without a trace, so no copy may outlive the call.
Legend: R rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import nn

from .int8_linear_custom_seq2seq import Int8Linear, JoinedInt8Linear

TALL = 8
"""A matrix with so many times as many outputs as inputs is tall: a vocabulary projection."""

CALLS_BEFORE = {"one row": 20, "one row, tall": 8, "rows": 5, "rows, tall": 3}
"""After so many calls a layout would have paid for itself, had it been there from the first."""

MIN_WEIGHTS = {"one row": 2**15, "rows": 2**17}
"""Smaller matrices gain nothing."""


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
        self.kind = ", tall" if weight.shape[0] >= TALL * weight.shape[1] else ""
        is_float = weight.dtype == torch.float32 and weight.device.type == "cpu"
        self.is_open = is_float and weight.numel() >= min(MIN_WEIGHTS.values())
        self.num_calls = 0
        self.transposed: torch.Tensor | None = None
        self.packed: torch.Tensor | None = None
        self.packed_linear: Any = None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(R, I)` to `(R, O)`."""
        if self.is_open:
            rows = "one row" if inputs.shape[0] == 1 else "rows"
            if self.num_calls >= CALLS_BEFORE[rows + self.kind]:
                self._lay_out(inputs.shape[0], self.weight.numel() >= MIN_WEIGHTS[rows])
            self.num_calls += 1
        if self.packed is not None:
            outputs: torch.Tensor = self.packed_linear(inputs, self.packed, self.bias, "none", [], "")
            return outputs
        if self.transposed is not None:
            if self.bias is None:
                return torch.mm(inputs, self.transposed)
            return torch.addmm(self.bias, inputs, self.transposed)
        return nn.functional.linear(inputs, self.weight, self.bias)

    def _lay_out(self, num_rows: int, gains: bool) -> None:
        self.is_open = False
        if not gains:
            return
        if num_rows > 1 and torch.backends.mkldnn.is_available():
            try:
                self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight.detach(), num_rows)
                self.packed_linear = torch.ops.mkldnn._linear_pointwise.default
                return
            except (AttributeError, RuntimeError):  # another build of torch
                self.packed = None
        self.transposed = self.weight.t().contiguous()


def laid_out(*modules: Any) -> Any:
    """One or several linear layers over the same inputs as one, their outputs side by side."""
    if all(isinstance(one, Int8Linear) for one in modules):
        return JoinedInt8Linear(*modules)
    if any(isinstance(one, Int8Linear) for one in modules):  # of several, some were too small
        return lambda inputs: torch.cat([one(inputs) for one in modules], dim=-1)
    if len(modules) == 1:
        return LaidOutLinear(modules[0].weight, modules[0].bias)
    weight = torch.cat([one.weight for one in modules])
    if all(one.bias is None for one in modules):
        return LaidOutLinear(weight, None)
    biases: list[Any] = [one.weight.new_zeros(one.out_features) if one.bias is None else one.bias for one in modules]
    return LaidOutLinear(weight, torch.cat(biases))
