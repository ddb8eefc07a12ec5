"""
Copies of the weights of a linear layer, laid out for a product with a few rows; `FewRowsLinear` chooses among them.

Legend: R rows, I inputs, O outputs. Every function returns `(R, I)` to `(R, O)`, or None where this build of torch
lacks the operator.
"""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.utils.weak import WeakTensorKeyDictionary
from transformers.activations import GELUActivation

Product = Callable[[torch.Tensor], torch.Tensor]

LARGE_FOR_ONE_ROW = 2**22
"""The memory of a transposed copy of more weights must be had from the system first, and is kept for the next one."""

MAX_KEPT_WEIGHTS = 2**26
"""Not if they are more than that (256 MiB)."""

_memory_at_hand: Any = WeakTensorKeyDictionary()
"""
By the weights: memory of a copy of them that is used no more. The system takes longer to give so much memory, page by
page, than the copying takes. What stands in it is never read, and it goes with the weights.
"""


def as_inner_product(
    weight: torch.Tensor, bias: torch.Tensor | None, activation: Any, num_rows: int
) -> Product | None:
    """oneDNN's packed form of a linear layer, which computes ReLU and the exact GELU with it."""
    fused = fused_name(activation)
    name, algorithm = fused or ("none", "")
    try:
        packed = torch.ops.mkldnn._reorder_linear_weight(weight, num_rows)
        product = torch.ops.mkldnn._linear_pointwise.default
    except (AttributeError, RuntimeError):  # another build of torch
        return None
    return _followed(lambda inputs: product(inputs, packed, bias, name, [], algorithm), None if fused else activation)


def as_convolution(weight: torch.Tensor, bias: torch.Tensor | None, activation: Any, num_rows: int) -> Product | None:
    """
    oneDNN's packed form of a convolution over the rows, each of them a pixel. With AVX2 its kernel takes a fifth less
    time than that of a linear layer, and a call 30 microseconds more: it is for large matrices.
    """
    fused = fused_name(activation)
    name, algorithm = fused or ("none", "")
    num_outputs, num_inputs = weight.shape
    once, nowhere, shape = [1, 1], [0, 0], [1, num_inputs, 1, num_rows]  # batch, channels, height, width
    try:
        kernel = weight.reshape(num_outputs, num_inputs, 1, 1)
        packed = torch.ops.mkldnn._reorder_convolution_weight(kernel, nowhere, once, once, 1, shape)
        product = torch.ops.mkldnn._convolution_pointwise.default
    except (AttributeError, RuntimeError):  # another build of torch
        return None

    def convolve(inputs: torch.Tensor) -> torch.Tensor:
        pixels = inputs.contiguous().view(1, 1, -1, num_inputs).permute(0, 3, 1, 2)  # channels last
        outputs = product(pixels, packed, bias, nowhere, once, once, 1, name, [], algorithm)
        return outputs.permute(0, 2, 3, 1).reshape(-1, num_outputs)

    return _followed(convolve, None if fused else activation)


def as_columns(weight: torch.Tensor, bias: torch.Tensor | None, activation: Any) -> Product:
    """
    A transposed copy, for one row alone: twice as fast as the weights where they are, with AVX2. When the product is
    used no more, the copy's memory is kept for the next one.
    """
    with torch.inference_mode(False):  # else no later copy could be written there but in inference
        memory = _memory_at_hand.pop(weight, None)
        if memory is None or memory.shape != weight.t().shape:
            memory = torch.empty_like(weight.detach().t(), memory_format=torch.contiguous_format)
        memory.copy_(weight.detach().t())
    columns = memory.t()  # (O, I), outputs side by side

    def multiply(inputs: torch.Tensor) -> torch.Tensor:
        if bias is None:
            return torch.mv(columns, inputs[0])[None]
        return torch.addmv(bias, columns, inputs[0])[None]

    if LARGE_FOR_ONE_ROW < weight.numel() <= MAX_KEPT_WEIGHTS:
        weakref.finalize(multiply, _memory_at_hand.__setitem__, weight, memory).atexit = False
    return _followed(multiply, activation)


def has_memory_at_hand(weight: torch.Tensor) -> bool:
    """Whether a transposed copy of these weights needs no new memory."""
    return weight in _memory_at_hand


def _followed(product: Product, activation: Any) -> Product:
    return product if activation is None else lambda inputs: activation(product(inputs))


def fused_name(activation: Any) -> tuple[str, str] | None:
    """How oneDNN calls an activation that it computes as torch does; None for others."""
    if isinstance(activation, nn.ReLU):
        return "relu", ""
    is_gelu = isinstance(activation, GELUActivation) and activation.act is nn.functional.gelu
    return ("gelu", "none") if is_gelu else None
