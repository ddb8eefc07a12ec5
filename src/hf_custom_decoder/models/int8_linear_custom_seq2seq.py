"""
Linear layers with 8-bit weights, for decoding on the CPU.

Legend: R rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import nn

FEW_ROWS = 64
"""With more rows than these the product of floating-point numbers is faster than that of 8-bit weights."""

MIN_WEIGHTS = 2**18
"""Smaller matrices gain nothing: rounding the inputs costs as much as the product."""

INPUTS_MULTIPLE = 32
"""torch's kernel reads past its arguments where the number of inputs is no multiple of 16 (seen with AVX-512)."""


class Int8Linear(nn.Module):
    """
    `x W^T + b` with W rounded to whole numbers in [-127, 127] times one scale an output. Inputs and scales are rounded
    to bfloat16 (torch's kernel wants it), sums are in float32, the output has the inputs' type. It has no gradient.

    Args:
        linear (`nn.Linear`): On the CPU; it is not changed. Its inputs are a multiple of `INPUTS_MULTIPLE`.

    Raises:
        ValueError: They are not.
    """

    quantised: torch.Tensor
    scale: torch.Tensor
    bias: torch.Tensor | None

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        if linear.in_features % INPUTS_MULTIPLE:
            raise ValueError(
                f"Int8Linear: `in_features` must be a multiple of {INPUTS_MULTIPLE}, got {linear.in_features}. Keep "
                "the layer as it is."
            )
        self.in_features, self.out_features = linear.in_features, linear.out_features
        weight = linear.weight.detach().float()
        scale = weight.abs().amax(dim=1).clamp(min=1e-12) / 127
        scale = scale.bfloat16().float()
        rounded = (weight / scale[:, None]).round().clamp(-127, 127).to(torch.int8)
        self.register_buffer("quantised", rounded.contiguous())  # (O, I)
        self.register_buffer("scale", scale.bfloat16())  # (O,)
        self.register_buffer("bias", None if linear.bias is None else linear.bias.detach().clone())
        self.dtype = linear.weight.dtype

    @property
    def weight(self) -> torch.Tensor:
        """Shape and type of the weight that this layer stands for; it holds no numbers."""
        return torch.empty(self.out_features, self.in_features, dtype=self.dtype, device="meta")

    def dequantised(self) -> torch.Tensor:
        """The rounded weight, `(O, I)`, in float32: the slow twin."""
        return self.quantised.float() * self.scale.float()[:, None]

    def forward(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(..., I)` to `(..., O)`."""
        rows = inputs.reshape(-1, self.in_features)
        if rows.shape[0] > FEW_ROWS:
            outputs = nn.functional.linear(rows, self.dequantised().to(rows.dtype), self.bias)
        else:
            outputs = int8_product(rows, self.quantised, self.scale, self.bias)
        return outputs.view(*inputs.shape[:-1], self.out_features)

    def _save_to_state_dict(self, *args: Any, **kwargs: Any) -> None:
        raise ValueError(
            "Int8Linear: 8-bit weights are for decoding in this process and are not saved. Save the model before its "
            "precision is set, or load it again."
        )


class JoinedInt8Linear:
    """One or several [`Int8Linear`] over the same `(R, I)`, their outputs side by side."""

    def __init__(self, *modules: Int8Linear) -> None:
        self.quantised = torch.cat([one.quantised for one in modules]) if len(modules) > 1 else modules[0].quantised
        self.scale = torch.cat([one.scale for one in modules]) if len(modules) > 1 else modules[0].scale
        biases = [one.bias for one in modules]
        self.bias: torch.Tensor | None = None
        if any(bias is not None for bias in biases):
            zeros = [one.scale.new_zeros(one.out_features, dtype=one.dtype) for one in modules]
            self.bias = torch.cat([zero if bias is None else bias for zero, bias in zip(zeros, biases, strict=True)])

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(R, I)` to `(R, O)`."""
        return int8_product(inputs, self.quantised, self.scale, self.bias)


def int8_product(
    inputs: torch.Tensor, quantised: torch.Tensor, scale: torch.Tensor, bias: torch.Tensor | None
) -> torch.Tensor:
    """`(R, I)` to `(R, O)` in the inputs' type."""
    outputs: torch.Tensor = torch._weight_int8pack_mm(inputs.bfloat16(), quantised, scale).to(inputs.dtype)
    return outputs if bias is None else outputs.add_(bias)


def can_be_int8(module: Any) -> bool:
    """Whether a module is a linear layer that gains by 8-bit weights, and that torch's kernel can compute."""
    if type(module) is not nn.Linear or module.in_features % INPUTS_MULTIPLE:
        return False
    return bool(module.weight.numel() >= MIN_WEIGHTS)


def quantise_linears(part: nn.Module) -> int:
    """Replace the linear layers below a module that can be; returns how many."""
    count = 0
    for name, child in part.named_children():
        if can_be_int8(child):
            linear: Any = child
            setattr(part, name, Int8Linear(linear))
            count += 1
        else:
            count += quantise_linears(child)
    return count
