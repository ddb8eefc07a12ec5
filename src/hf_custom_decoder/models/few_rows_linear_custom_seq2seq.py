"""
Linear layers for a few rows at a time, as in decoding, where reading the weights is the work.

`nn.functional.linear` reads them at a fraction of what the memory gives. For one or two rows a product that begins
with the weights, read where they are, comes close to it (for one row a batch of products over blocks of them); for
more rows, and for any number in bfloat16, oneDNN's packed form does. Packed copies live inside one `generate()` call:
an optimizer changes weights without a trace, so no copy may outlive the call.

Legend: R rows, I inputs, O outputs.
"""

from typing import Any

import torch
from torch import nn
from transformers.activations import GELUActivation

from .int8_linear_custom_seq2seq import Int8Linear, JoinedInt8Linear
from .packing_custom_seq2seq import is_tracing
from .vocabulary_loss_custom_seq2seq import is_bare

FEW_NUMBERS = 2048
"""Inputs of so many numbers, rows times columns, and fewer are multiplied with the weights where they are."""

FEW_ROWS = 2
"""For so few rows packed weights are no faster than that."""

BLOCK = 64
"""Outputs that one product of a batch computes."""

TALL = 8
"""A matrix with so many times as many outputs as inputs is tall: a vocabulary projection."""

CALLS_BEFORE_PACKING = {"plain": 5, "plain, tall": 3, "in place": 20, "in place, many to come": 3}
"""
Calls before a matrix is packed, by the way in which they were made. Packing costs as much as it saves in 3 to 5 calls
of "plain" and in 6 to 20 of "in place".
"""

MIN_WEIGHTS = {torch.float32: 2**16, torch.bfloat16: 2**16}
"""Smaller matrices are not packed, nor are those of other types."""

MIN_WEIGHTS_OF_FEW_ROWS = 2**17
MANY_ROWS = 12
"""In float32, fewer rows pack only so many weights."""

MIN_BLOCKS = 2
"""A batch of one product is computed as an ordinary one."""

MIN_WEIGHTS_IN_PLACE = 2**19
"""Smaller matrices may still be in a near cache, where `nn.functional.linear` reads them well."""


class FewRowsLinear:
    """
    `x W^T + b` for inputs of shape `(R, I)`, exact up to the order of the sums. Other dtypes than float32 and bfloat16
    and other devices take the ordinary way.

    Args:
        weight (`torch.Tensor` of shape `(O, I)`).
        bias (`torch.Tensor` of shape `(O,)`, *optional*).
        activation (`Callable`, *optional*): Applied to the outputs; a packed product computes ReLU and the exact GELU
            with them.
        expected_calls (`int`): How many are likely: outputs are mostly about as long as their source.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, activation: Any = None, *, expected_calls: int = 0
    ) -> None:
        self.weight, self.bias, self.activation = weight.detach(), bias, activation
        self.are_many_to_come = expected_calls >= CALLS_BEFORE_PACKING["in place"]
        self.fused_activation = fused_name(activation)
        num_outputs, self.num_inputs = weight.shape
        self.is_tall = num_outputs >= TALL * self.num_inputs
        is_packable = weight.device.type == "cpu" and weight.numel() >= MIN_WEIGHTS.get(weight.dtype, float("inf"))
        self.num_calls: int | None = 0 if is_packable else None
        """Calls that count towards packing; None where nothing is packed any more."""
        self.is_large = weight.dtype != torch.float32 or weight.numel() >= MIN_WEIGHTS_OF_FEW_ROWS
        self.packed: torch.Tensor | None = None
        self.packed_linear: Any = None
        self.blocks: torch.Tensor | None = None  # (O / BLOCK, BLOCK, I), without the last few outputs
        self.rest: torch.Tensor | None = None  # the last few, (O % BLOCK, I)
        num_blocks = num_outputs // BLOCK
        is_float = weight.dtype == torch.float32 and weight.device.type == "cpu"
        self.max_unpacked_rows = 1 if is_float else 0  # packed weights are for more rows
        if is_float and num_blocks >= MIN_BLOCKS and weight.is_contiguous():
            weight = self.weight
            self.blocks = weight[: num_blocks * BLOCK].view(num_blocks, BLOCK, self.num_inputs)
            self.rest = weight[num_blocks * BLOCK :] if num_outputs % BLOCK else None

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(R, I)` to `(R, O)`."""
        num_rows = inputs.shape[0]
        in_place = self.blocks is not None and num_rows * self.num_inputs <= FEW_NUMBERS
        if num_rows > (FEW_ROWS if in_place else self.max_unpacked_rows):
            if self.num_calls is not None and (self.is_large or (num_rows >= MANY_ROWS and not in_place)):
                self._count(num_rows, in_place)
            if self.packed is not None:
                name, algorithm = self.fused_activation or ("none", "")
                packed: torch.Tensor = self.packed_linear(inputs, self.packed, self.bias, name, [], algorithm)
                return packed if self.activation is None or self.fused_activation else self.activation(packed)
        if in_place:
            outputs = self._in_place(inputs, num_rows)
        else:
            outputs = nn.functional.linear(inputs, self.weight, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def _in_place(self, inputs: torch.Tensor, num_rows: int) -> torch.Tensor:
        """One product; for one row a batch of them, one for each block of outputs."""
        blocks: Any = self.blocks
        columns = inputs.t()
        if num_rows > 1:
            outputs = torch.mm(self.weight, columns).t().contiguous()
        elif self.rest is None:
            outputs = torch.bmm(blocks, columns.expand(blocks.shape[0], -1, -1)).view(1, -1)
        else:
            outputs = inputs.new_empty((1, self.weight.shape[0]))
            num_even = blocks.shape[0] * BLOCK
            torch.bmm(blocks, columns.expand(blocks.shape[0], -1, -1), out=outputs[0, :num_even].view(-1, BLOCK, 1))
            torch.mm(self.rest, columns, out=outputs[0, num_even:, None])
        return outputs if self.bias is None else outputs.add_(self.bias)

    def _count(self, num_rows: int, in_place: bool) -> None:
        """Count a call, and pack when it is time."""
        if in_place:
            way = "in place, many to come" if self.are_many_to_come else "in place"
        else:
            way = "plain, tall" if self.is_tall else "plain"
        calls: Any = self.num_calls
        if calls < CALLS_BEFORE_PACKING[way]:
            self.num_calls = calls + 1
            return
        self.num_calls = None
        if torch.backends.mkldnn.is_available():
            try:
                self.packed = torch.ops.mkldnn._reorder_linear_weight(self.weight, num_rows)
                self.packed_linear = torch.ops.mkldnn._linear_pointwise.default
            except (AttributeError, RuntimeError):  # another build of torch
                self.packed = None


def vocabulary_logits(lm_head: nn.Module, hidden_states: torch.Tensor) -> torch.Tensor:
    """
    The vocabulary projection of a forward pass: `lm_head(hidden_states)`, `(R, T, E)` to `(R, T, V)`. For a few
    positions in inference a large matrix is read where it is, in the way that is fastest for them, exact up to the
    order of the sums: the first token of `generate()`, and every token of searches that call the model.
    """
    is_recorded = torch.is_grad_enabled() or is_tracing()
    if not is_recorded and 0 < hidden_states.numel() <= FEW_NUMBERS and is_bare(hidden_states, lm_head):
        weight: Any = lm_head.weight
        if weight.numel() >= MIN_WEIGHTS_IN_PLACE:
            logits = FewRowsLinear(weight, lm_head.bias)(hidden_states.flatten(0, -2))  # type: ignore[arg-type]
            return logits.view(*hidden_states.shape[:-1], -1)
    logits = lm_head(hidden_states)
    return logits


def fused_name(activation: Any) -> tuple[str, str] | None:
    """How oneDNN calls an activation that it computes as torch does; None for others."""
    if isinstance(activation, nn.ReLU):
        return "relu", ""
    is_gelu = isinstance(activation, GELUActivation) and activation.act is nn.functional.gelu
    return ("gelu", "none") if is_gelu else None


def with_activation(module: Any, activation: Any, *, expected_calls: int = 0) -> Any:
    """A linear layer and what follows it, as one."""
    if isinstance(module, Int8Linear):
        linear = for_few_rows(module)
        return lambda inputs: activation(linear(inputs))
    return FewRowsLinear(module.weight, module.bias, activation, expected_calls=expected_calls)


def for_few_rows(*modules: Any, expected_calls: int = 0) -> Any:
    """One or several linear layers over the same inputs as one, their outputs side by side."""
    if all(isinstance(one, Int8Linear) for one in modules):
        return JoinedInt8Linear(*modules)
    if any(isinstance(one, Int8Linear) for one in modules):  # of several, some were too small
        return lambda inputs: torch.cat([one(inputs) for one in modules], dim=-1)
    if len(modules) == 1:
        return FewRowsLinear(modules[0].weight, modules[0].bias, expected_calls=expected_calls)
    weight = torch.cat([one.weight for one in modules])
    if all(one.bias is None for one in modules):
        return FewRowsLinear(weight, None, expected_calls=expected_calls)
    biases: list[Any] = [one.weight.new_zeros(one.out_features) if one.bias is None else one.bias for one in modules]
    return FewRowsLinear(weight, torch.cat(biases), expected_calls=expected_calls)
