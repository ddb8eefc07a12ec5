"""
Recurrent layers over ordinary linear modules.

Legend: B rows, T length, N real tokens of a batch, I width of the input, H width of the state, G gates (1 in an RNN, 3
in a GRU, 4 in an LSTM).
"""

import math
from typing import Any

import torch
from torch import nn

from .packing_custom_seq2seq import is_tracing

NUM_GATES = {"rnn": 1, "gru": 3, "lstm": 4}

State = tuple[torch.Tensor, ...]
"""`(h,)`, or `(h, c)` in an LSTM; each of shape `(B, H)`."""


class TimeMajorRows:
    """
    The N real tokens of a padded `(B, T)` batch in the order in which recurrent kernels read them: first tokens of all
    rows, second tokens of all rows, and so on, longer rows first. Padding anywhere in a row is stepped over, so the
    backward direction starts at the true end of each row.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for real tokens, 0 for padding.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self.batch_size, self.length = mask.shape
        keep = mask.to(torch.bool)
        lengths = keep.sum(1)  # (B,)
        self.order = torch.argsort(lengths, descending=True, stable=True)  # (B,) row at each sorted place
        self.place = torch.argsort(self.order)  # (B,) sorted place of each row
        step = keep.long().cumsum(1) - 1  # (B, T) how many real tokens stand before
        key = (step * self.batch_size + self.place[:, None])[keep]  # (N,)
        self.indices = keep.flatten().nonzero().squeeze(-1)[torch.argsort(key)]  # (N,) flat places in (B, T)
        counts = (lengths[None] > torch.arange(int(lengths.max()), device=mask.device)[:, None]).sum(1)
        self.batch_sizes = counts.cpu()  # rows at each step, as the kernels want it
        self.num_rows = int(self.batch_sizes[0]) if self.batch_sizes.numel() else 0  # rows with any token
        # Token t of a row of n tokens changes places with token n - 1 - t.
        starts = counts.cumsum(0) - counts  # (T,) where each step begins in the packed order
        sorted_key = key.sort().values
        place, here = sorted_key % self.batch_size, sorted_key // self.batch_size
        self.mirror = starts[lengths[self.order][place] - 1 - here] + place  # (N,) packed order, each row backwards

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(B, T, ...)` to `(N, ...)`."""
        return padded.flatten(0, 1).index_select(0, self.indices)

    def sort_state(self, state: State) -> State:
        """States of all rows `(B, H)` as the kernels take them: rows with any token, longer ones first."""
        return tuple(one.index_select(0, self.order[: self.num_rows]) for one in state)

    def unsort_state(self, sorted_state: State, before: State) -> State:
        """Back to all rows `(B, H)`; rows without a token keep the state they had `before`."""
        rows = self.order[: self.num_rows]
        return tuple(old.index_copy(0, rows, new) for new, old in zip(sorted_state, before, strict=True))

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """`(N, ...)` to `(B, T, ...)`, zeros at the padding."""
        padded = packed.new_zeros((self.batch_size * self.length, *packed.shape[1:]))
        return padded.index_copy(0, self.indices, packed).unflatten(0, (self.batch_size, self.length))


def time_major_rows(mask: torch.Tensor | None) -> TimeMajorRows | None:
    """The rows of a padding mask; None where nothing is padded."""
    if mask is None:
        return None
    if is_tracing():
        raise ValueError(
            "Recurrent layers cannot be compiled or exported with a padding mask: the order of their tokens depends "
            "on it. Leave out `attention_mask` (one row, or rows of equal length)."
        )
    return None if bool(mask.all()) else TimeMajorRows(mask)


def gru_step(gates: torch.Tensor, recurrent: torch.Tensor, h: torch.Tensor) -> torch.Tensor:
    """
    GRU in torch's form (gate order r, z, n): `n = tanh(x_n + r * h_n)`, `h' = (1 - z) * n + z * h`. Cho et al. 2014
    apply r to h before the product instead.
    """
    x_r, x_z, x_n = gates.chunk(3, dim=-1)
    h_r, h_z, h_n = recurrent.chunk(3, dim=-1)
    reset, update = torch.sigmoid(x_r + h_r), torch.sigmoid(x_z + h_z)
    new = torch.tanh(x_n + reset * h_n)
    return new + update * (h - new)


def lstm_step(gates: torch.Tensor, c: torch.Tensor) -> State:
    """LSTM with forget gate (Gers et al. 2000; gate order i, f, g, o): `c' = f * c + i * g`, `h' = o * tanh(c')`."""
    i, f, g, o = gates.chunk(4, dim=-1)
    c = torch.sigmoid(f) * c + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(c), c


def is_plain_linear(module: nn.Module) -> bool:
    """
    Whether nothing stands between the weights of a linear layer and its output: no other class (an adapter, 8-bit
    weights), no other kind of tensor (torchao, sharding), no hook that changes weights or places them (pruning,
    offloading).
    """
    hooks = (module._forward_pre_hooks, module._forward_hooks, module._backward_pre_hooks, module._backward_hooks)
    is_wrapped = "forward" in module.__dict__ or any(hooks)
    return type(module) is nn.Linear and type(module.weight) in (nn.Parameter, torch.Tensor) and not is_wrapped


class RecurrentCell(nn.Module):
    """
    One recurrent layer in one direction. Its weights are `input_proj` (I to G * H) and `recurrent_proj` (H to G * H)
    with torch's gate order, so those of `nn.RNN`, `nn.GRU` and `nn.LSTM` load unchanged and adapters find linear
    layers.

    Whole sequences go through torch's fused kernels over these weights; where a linear layer is not plain (see
    `is_plain_linear`) the modules are called step by step instead, with equal results.

    Args:
        cell_type (`str`): `"rnn"`, `"gru"` or `"lstm"`.
        input_size (`int`): I.
        hidden_size (`int`): H.
    """

    def __init__(self, cell_type: str, input_size: int, hidden_size: int) -> None:
        super().__init__()
        self.cell_type, self.hidden_size = cell_type, hidden_size
        gates = NUM_GATES[cell_type]
        self.input_proj = nn.Linear(input_size, gates * hidden_size)
        self.recurrent_proj = nn.Linear(hidden_size, gates * hidden_size)

    def reset_parameters(self, init: object) -> None:
        """Uniform in `1 / sqrt(H)`, as torch's recurrent modules; `init` is `transformers.initialization`."""
        bound = 1.0 / math.sqrt(self.hidden_size)
        for module in (self.input_proj, self.recurrent_proj):
            for parameter in module.parameters(recurse=False):
                init.uniform_(parameter, -bound, bound)  # type: ignore[attr-defined]

    @property
    def is_plain(self) -> bool:
        """Whether the weights may be given to a kernel past their modules."""
        return is_plain_linear(self.input_proj) and is_plain_linear(self.recurrent_proj)

    @property
    def weights(self) -> list[torch.Tensor]:
        """In torch's order: input weight, recurrent weight, input bias, recurrent bias."""
        one, two = self.input_proj, self.recurrent_proj
        return [one.weight, two.weight, one.bias, two.bias]

    def zero_state(self, like: torch.Tensor, num_rows: int) -> State:
        """Zeros of shape `(num_rows, H)` for each state."""
        count = 2 if self.cell_type == "lstm" else 1
        return tuple(like.new_zeros((num_rows, self.hidden_size)) for _ in range(count))

    def step(self, inputs: torch.Tensor, state: State) -> State:
        """One token: `(B, I)` and state to the new state, whose first tensor is the output `(B, H)`."""
        if self.is_plain and not is_tracing():
            if self.cell_type == "lstm":
                return tuple(torch.lstm_cell(inputs, state, *self.weights))
            kernel = torch.gru_cell if self.cell_type == "gru" else torch.rnn_tanh_cell
            return (kernel(inputs, state[0], *self.weights),)
        return self.slow_step(self.input_proj(inputs), state)

    def slow_step(self, gates: torch.Tensor, state: State) -> State:
        """The same from the input's gates `(B, G * H)`, through the modules; also the twin that tests compare with."""
        recurrent = self.recurrent_proj(state[0])
        if self.cell_type == "lstm":
            return lstm_step(gates + recurrent, state[1])
        if self.cell_type == "gru":
            return (gru_step(gates, recurrent, state[0]),)
        return (torch.tanh(gates + recurrent),)

    def forward(
        self, inputs: torch.Tensor, state: State, batch_sizes: torch.Tensor | None = None
    ) -> tuple[torch.Tensor, State]:
        """
        A whole sequence, or one token.

        Args:
            inputs (`torch.Tensor` of shape `(B, T, I)`, `(N, I)` in the order of [`TimeMajorRows`] with
                `batch_sizes`, or `(B, I)` for one token).
            state: Each of shape `(B, H)`, in that order's rows.
            batch_sizes (`torch.LongTensor` of shape `(T,)`, *optional*): On CPU; of the packed form.

        Returns:
            Outputs `(B, T, H)`, `(N, H)` or `(B, H)`, and the state after each row's last token, of the dtype of
            `state` (under autocast kernels return another).
        """
        dtype = state[0].dtype
        outputs, last = self._run(inputs.to(dtype), state, batch_sizes)
        return outputs, tuple(one.to(dtype) for one in last)

    def _run(self, inputs: torch.Tensor, state: State, batch_sizes: torch.Tensor | None) -> tuple[torch.Tensor, State]:
        if inputs.dim() == 2 and batch_sizes is None:
            state = self.step(inputs, state)
            return state[0], state
        if self.is_plain and not is_tracing():
            return _fused(self, inputs, state, batch_sizes)
        gates = self.input_proj(inputs)
        if batch_sizes is None:
            return _loop(self, gates, state)
        return _packed_loop(self, gates, state, batch_sizes)


def _fused(
    cell: RecurrentCell, inputs: torch.Tensor, state: State, batch_sizes: torch.Tensor | None
) -> tuple[torch.Tensor, State]:
    kernel: Any = {"rnn": torch.rnn_tanh, "gru": torch.gru, "lstm": torch.lstm}[cell.cell_type]
    first = [one[None].contiguous() for one in state]  # (1, B, H)
    given = first if cell.cell_type == "lstm" else first[0]
    common = (cell.weights, True, 1, 0.0, cell.training, False)
    if batch_sizes is not None:
        outputs, *last = kernel(inputs, batch_sizes, given, *common)
    elif cell.cell_type == "lstm" and _lacks_low_precision(inputs.device):
        with torch.autocast("cpu", enabled=False):
            outputs, *last = kernel(inputs, given, *common, True)
    else:
        outputs, *last = kernel(inputs, given, *common, True)
    return outputs, tuple(one[0] for one in last)


def _lacks_low_precision(device: torch.device) -> bool:
    """Whether autocast would ask oneDNN for an LSTM in numbers for which this CPU has no instructions: an error."""
    if device.type != "cpu" or not torch.is_autocast_enabled("cpu"):
        return False
    name = "bf16" if torch.get_autocast_dtype("cpu") == torch.bfloat16 else "fp16"
    is_supported: Any = getattr(torch.ops.mkldnn, f"_is_mkldnn_{name}_supported", None)
    return is_supported is None or not is_supported()


def _loop(cell: RecurrentCell, gates: torch.Tensor, state: State) -> tuple[torch.Tensor, State]:
    outputs = []
    for step in range(gates.shape[1]):
        state = cell.slow_step(gates[:, step], state)
        outputs.append(state[0])
    return torch.stack(outputs, dim=1), state


def _packed_loop(
    cell: RecurrentCell, gates: torch.Tensor, state: State, batch_sizes: torch.Tensor
) -> tuple[torch.Tensor, State]:
    outputs = []
    start = 0
    for count in batch_sizes.tolist():
        new = cell.slow_step(gates[start : start + count], tuple(one[:count] for one in state))
        outputs.append(new[0])
        state = tuple(torch.cat([fresh, old[count:]]) for fresh, old in zip(new, state, strict=True))
        start += count
    return torch.cat(outputs), state
