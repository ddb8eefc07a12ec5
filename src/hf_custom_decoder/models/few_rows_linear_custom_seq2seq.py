"""
Linear layers for a few rows at a time, as in decoding, where reading the weights is the work.

`nn.functional.linear` reads them at a fraction of what the memory gives. For one or two rows a product that begins
with the weights, read where they are, comes close to it (for one row a batch of products over blocks of them); for
more rows, and for any number in bfloat16, oneDNN's packed form does. On CPUs with AVX2 alone other ways are faster
(`IS_AVX2`). Packed copies live inside one `generate()` call: an optimizer changes weights without a trace, so no copy
may outlive the call.

Legend: R rows, I inputs, O outputs.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import nn

from .int8_linear_custom_seq2seq import Int8Linear, JoinedInt8Linear
from .packed_linear_custom_seq2seq import (
    LARGE_FOR_ONE_ROW,
    as_columns,
    as_convolution,
    as_inner_product,
    has_memory_at_hand,
)
from .packing_custom_seq2seq import is_tracing
from .vocabulary_loss_custom_seq2seq import is_bare

IS_AVX2 = torch.backends.cpu.get_cpu_capability() == "AVX2"
"""
Whether float32 weights are read in the ways that were measured to be fastest there: large ones as a convolution,
vocabulary projections for one row from a transposed copy, other matrices for four rows in place, for one row of many
inputs in the ordinary way.
"""

FEW_NUMBERS = 2048
"""Inputs of so many numbers, rows times columns, and fewer are multiplied with the weights where they are."""

FEW_ROWS = 2
"""For so few rows packed weights are no faster than that."""

FOUR_ROWS = 4
"""Nor, for long, for four on a CPU with AVX2 alone; three and five rows are faster packed there too."""

LARGE_FOR_CONVOLUTION = 2**19
"""With AVX2 alone oneDNN reads so many weights and more faster as a convolution."""

LONG_FOR_ONE_ROW = 768
"""With AVX2 alone `nn.functional.linear` is faster for one row of so many inputs and more than products of blocks."""

BLOCK = 64
"""Outputs that one product of a batch computes."""

TALL = 8
"""A matrix with so many times as many outputs as inputs is tall: a vocabulary projection."""

CALLS_BEFORE_PACKING = {
    "plain": 5,
    "plain, tall": 3,
    "in place": 20,
    "one row": 24,
    "one row, large": 32,
    "one row, memory at hand": 16,
    "large": 16,
    "large, four rows": 64,
}
"""
Calls before a matrix is packed, by the way in which they were made. Packing costs as much as it saves in 3 to 5 calls
of "plain" and in 6 to 20 of "in place", a transposed copy for one row in about 24, where the matrix is large in about
30, or in 12 where an earlier search left the memory of its copy; with AVX2 packing a large one for more rows in 10 to
40, for four rows in 30 to 90.
"""

CALLS_WHERE_MANY_COME = 3
"""The same of "in place" and "one row" where as many calls as that are likely."""

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
        activation (`Callable`, *optional*): Applied to the outputs.
        expected_calls (`int`): How many are likely: outputs are mostly about as long as their source.
    """

    def __init__(
        self, weight: torch.Tensor, bias: torch.Tensor | None, activation: Any = None, *, expected_calls: int = 0
    ) -> None:
        self.owner, self.weight, self.bias, self.activation = weight, weight.detach(), bias, activation
        self.expected_calls = expected_calls
        num_outputs, self.num_inputs = weight.shape
        self.is_tall = num_outputs >= TALL * self.num_inputs
        self.is_float = weight.dtype == torch.float32 and weight.device.type == "cpu"
        self.packs_as_convolution = (
            IS_AVX2 and self.is_float and (self.is_tall or weight.numel() >= LARGE_FOR_CONVOLUTION)
        )
        is_packable = weight.device.type == "cpu" and weight.numel() >= MIN_WEIGHTS.get(weight.dtype, float("inf"))
        self.num_calls: int | None = 0 if is_packable else None
        """Calls that count towards packing; None where nothing is packed any more."""
        self.packed: Callable[[torch.Tensor], torch.Tensor] | None = None
        self.max_packed_rows = 2**62
        self.blocks: torch.Tensor | None = None  # (O / BLOCK, BLOCK, I), without the last few outputs
        self.rest: torch.Tensor | None = None  # the last few, (O % BLOCK, I)
        num_blocks = num_outputs // BLOCK
        if self.is_float and num_blocks >= MIN_BLOCKS and weight.is_contiguous():
            weight = self.weight
            self.blocks = weight[: num_blocks * BLOCK].view(num_blocks, BLOCK, self.num_inputs)
            self.rest = weight[num_blocks * BLOCK :] if num_outputs % BLOCK else None
        self.num_rows = 0  # of the last call, by which the rest is chosen
        self.is_in_place = self.is_best_unpacked = self.is_packing = False
        self.calls_before_packing = 0

    def __call__(self, inputs: torch.Tensor) -> torch.Tensor:
        """`(R, I)` to `(R, O)`."""
        if inputs.shape[0] != self.num_rows:
            self._choose(inputs.shape[0])
        if self.is_packing and self.num_calls is not None:
            self._count()
        if self.packed is not None and not self.is_best_unpacked and self.num_rows <= self.max_packed_rows:
            return self.packed(inputs)
        outputs = self._in_place(inputs) if self.is_in_place else nn.functional.linear(inputs, self.weight, self.bias)
        return outputs if self.activation is None else self.activation(outputs)

    def _choose(self, num_rows: int) -> None:
        """Settle how so many rows are multiplied, and whether and when weights are packed for them."""
        self.num_rows, weights = num_rows, self.weight.numel()
        numbers = num_rows * self.num_inputs
        self.is_in_place = self.blocks is not None and numbers <= FEW_NUMBERS
        self.is_best_unpacked = num_rows <= (FEW_ROWS if self.is_in_place else int(self.is_float))
        if IS_AVX2 and self.is_float:
            self._choose_with_avx2()
        is_large = not self.is_float or weights >= MIN_WEIGHTS_OF_FEW_ROWS
        self.is_packing = not self.is_best_unpacked and (is_large or (num_rows >= MANY_ROWS and not self.is_in_place))
        self.calls_before_packing = self._calls_before_packing()

    def _choose_with_avx2(self) -> None:
        if self.is_tall:
            self.is_best_unpacked = False
        elif self.num_rows == FOUR_ROWS and self.blocks is not None:
            self.is_in_place, self.is_best_unpacked = True, not self.packs_as_convolution
        elif not self.packs_as_convolution and self.num_inputs > self.weight.shape[0]:
            self.is_best_unpacked = True
        if self.num_rows == 1 and self.num_inputs >= LONG_FOR_ONE_ROW:
            self.is_in_place = False

    def _calls_before_packing(self) -> int:
        """Calls that it takes until packing pays."""
        if self.is_float and self.num_rows == 1:
            way = "one row, large" if self.weight.numel() > LARGE_FOR_ONE_ROW else "one row"
            way = "one row, memory at hand" if has_memory_at_hand(self.owner) else way
        elif self.packs_as_convolution and not self.is_tall:
            way = "large, four rows" if self.num_rows == FOUR_ROWS and self.is_in_place else "large"
        elif self.is_in_place:
            way = "in place"
        else:
            return CALLS_BEFORE_PACKING["plain, tall" if self.is_tall else "plain"]
        calls = CALLS_BEFORE_PACKING[way]
        return CALLS_WHERE_MANY_COME if self.expected_calls >= calls else calls

    def _in_place(self, inputs: torch.Tensor) -> torch.Tensor:
        """One product; for one row a batch of them, one for each block of outputs."""
        blocks: Any = self.blocks
        columns = inputs.t()
        if self.num_rows > 1:
            outputs = torch.mm(self.weight, columns).t().contiguous()
        elif self.rest is None:
            outputs = torch.bmm(blocks, columns.expand(blocks.shape[0], -1, -1)).view(1, -1)
        else:
            outputs = inputs.new_empty((1, self.weight.shape[0]))
            num_even = blocks.shape[0] * BLOCK
            torch.bmm(blocks, columns.expand(blocks.shape[0], -1, -1), out=outputs[0, :num_even].view(-1, BLOCK, 1))
            torch.mm(self.rest, columns, out=outputs[0, num_even:, None])
        return outputs if self.bias is None else outputs.add_(self.bias)

    def _count(self) -> None:
        """Count a call, and pack when it is time."""
        calls: Any = self.num_calls
        if calls < self.calls_before_packing:
            self.num_calls = calls + 1
            return
        self.num_calls = None
        if self.is_float and self.num_rows == 1:
            self.packed, self.max_packed_rows = as_columns(self.owner, self.bias, self.activation), 1
        elif torch.backends.mkldnn.is_available():
            pack = as_convolution if self.packs_as_convolution else as_inner_product
            self.packed = pack(self.weight, self.bias, self.activation, self.num_rows)


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
