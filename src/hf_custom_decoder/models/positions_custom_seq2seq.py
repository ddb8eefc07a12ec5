"""Position information of our Transformer layers.

Legend: B batch, T length, E width, H heads, D width of a head, S keys.
"""

import copy
import math
from typing import Any

import torch
from torch import nn
from transformers import PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS, dynamic_rope_update

MAX_TABLE = 2**24
"""Numbers in a table of sinusoidal positions (64 MiB); the formula gives those beyond it."""


def sinusoidal_table(positions: torch.Tensor, width: int) -> torch.Tensor:
    """
    Vaswani et al. 2017, section 3.5, in Marian's layout: sines in the first half of the width, cosines in the second.

    Args:
        positions (`torch.Tensor` of shape `(...)`): Whole numbers from 0.
        width (`int`): Even.

    Returns:
        `torch.FloatTensor` of shape `(..., width)`, computed in float64 and returned in float32.
    """
    exponents = torch.arange(0, width, 2, dtype=torch.float64, device=positions.device) / width
    angles = positions[..., None].double() / torch.pow(10000.0, exponents)
    return torch.cat([angles.sin(), angles.cos()], dim=-1).float()


class ComputedBuffers(nn.Module):
    """
    A module whose buffers are computed and in no checkpoint. A model that was laid out on the meta device and is given
    memory (`to_empty`) gets them anew, as nothing that is loaded afterwards fills them.
    """

    def computed_buffers(self) -> dict[str, torch.Tensor]:
        """What they hold at the beginning, by name, on torch's default device."""
        raise NotImplementedError

    def _apply(self, fn: Any, recurse: bool = True) -> "ComputedBuffers":
        was_meta = any(buffer.is_meta for buffer in self.buffers(recurse=False))
        super()._apply(fn, recurse)
        device = next(self.buffers(recurse=False)).device
        if was_meta and device.type != "meta":
            with torch.device(device):
                for name, values in self.computed_buffers().items():
                    getattr(self, name).copy_(values)
        return self


class SinusoidalPositions(ComputedBuffers):
    """Sinusoidal embeddings from a table that grows past `num_positions` by the formula when it has to."""

    table: torch.Tensor

    def __init__(self, num_positions: int, width: int) -> None:
        super().__init__()
        self.num_positions, self.width = num_positions, width
        self.register_buffer("table", self.initial_table(), persistent=False)

    def initial_table(self) -> torch.Tensor:
        """What the buffer holds; models fill it again after loading, as it is in no checkpoint."""
        return sinusoidal_table(torch.arange(self.num_positions), self.width)

    def computed_buffers(self) -> dict[str, torch.Tensor]:
        """The table."""
        return {"table": self.initial_table()}

    def forward(self, position_ids: torch.Tensor, num_positions: int | None = None) -> torch.Tensor:
        """
        Args:
            position_ids (`torch.LongTensor` of shape `(...)`).
            num_positions (`int`, *optional*): One more than the greatest position; where the caller does not know it
                the formula is used.

        Returns:
            `torch.FloatTensor` of shape `(..., width)`.
        """
        if num_positions is None or num_positions > self.num_positions:
            return sinusoidal_table(position_ids, self.width).to(self.table.dtype)
        return nn.functional.embedding(position_ids, self.table)


class LearnedPositions(nn.Embedding):
    """One trained vector a position, from position 0 (BART's table starts at its row 2)."""

    def forward(self, position_ids: torch.Tensor, num_positions: int | None = None) -> torch.Tensor:
        """`position_ids` of any shape `(...)` to vectors of shape `(..., E)`."""
        return super().forward(position_ids)


class RotaryEmbedding(ComputedBuffers):
    """
    Angles of rotary embeddings (Su et al. 2021, equation 34), with the length extensions of transformers'
    `rope_parameters`. The attribute names are those that transformers' helpers read and refill after loading.

    Raises:
        ValueError: `rope_parameters` lacks what its type needs.
    """

    inv_freq: torch.Tensor

    def __init__(self, config: PreTrainedConfig) -> None:
        super().__init__()
        config = copy.copy(config)
        config.head_dim = config.attention_head_dim  # transformers' helpers take None for a width
        self.config = config
        self.max_seq_len_cached = config.max_position_embeddings
        self.original_max_seq_len = config.max_position_embeddings
        self.rope_type = config.rope_parameters["rope_type"]
        try:
            inv_freq, self.attention_scaling = self._initial()
        except KeyError as error:
            raise ValueError(
                f"{type(config).__name__}: `rope_parameters` of `rope_type` {self.rope_type!r} must say {error}, got "
                f"{config.rope_parameters!r}. Add it."
            ) from error
        self.register_buffer("inv_freq", inv_freq, persistent=False)
        self.register_buffer("original_inv_freq", inv_freq.clone(), persistent=False)

    def _initial(self) -> tuple[torch.Tensor, float]:
        """Inverse frequencies and the factor on cosines and sines."""
        is_default = self.rope_type == "default"
        init = self.compute_default_rope_parameters if is_default else ROPE_INIT_FUNCTIONS[self.rope_type]
        return init(self.config)

    def computed_buffers(self) -> dict[str, torch.Tensor]:
        """Inverse frequencies, and those to which a rotation that follows the length returns; it starts anew."""
        inv_freq, self.attention_scaling = self._initial()
        self.max_seq_len_cached = self.original_max_seq_len
        return {"inv_freq": inv_freq, "original_inv_freq": inv_freq}

    @staticmethod
    def compute_default_rope_parameters(
        config: PreTrainedConfig, *args: object, **kwargs: object
    ) -> tuple[torch.Tensor, float]:
        """Inverse frequencies of shape `(D / 2,)` and the factor on cosines and sines (1)."""
        width = config.head_dim
        exponents = torch.arange(0, width, 2, dtype=torch.float) / width
        return 1.0 / (config.rope_parameters["rope_theta"] ** exponents), 1.0

    @torch.no_grad()
    @dynamic_rope_update  # type: ignore[untyped-decorator]
    def forward(self, hidden_states: torch.Tensor, position_ids: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Args:
            hidden_states: Gives dtype and device.
            position_ids (`torch.LongTensor` of shape `(B, T)`, or `(1, T)` for all rows).

        Returns:
            Cosines and sines, each of shape `(B, 1, T, D)`.
        """
        inv_freq = self.inv_freq.to(hidden_states.device)
        dtype = torch.float64 if hidden_states.dtype == torch.float64 else torch.float32
        angles = position_ids[:, None, :, None].to(dtype) * inv_freq.to(dtype)  # (B, 1, T, D / 2)
        angles = torch.cat([angles, angles], dim=-1)
        cos, sin = angles.cos() * self.attention_scaling, angles.sin() * self.attention_scaling
        return cos.to(hidden_states.dtype), sin.to(hidden_states.dtype)


def rotate(states: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotate queries or keys of shape `(B, H, T, D)`; the two halves of a head are the parts of each pair."""
    first, second = states.chunk(2, dim=-1)
    return states * cos + torch.cat([-second, first], dim=-1) * sin


def alibi_slopes(num_heads: int) -> list[float]:
    """
    Slopes of Press et al. 2022, section 3: a geometric sequence for powers of two; otherwise that of the next lower
    power, then every second slope of the next higher one (their released code).
    """
    lower = 2 ** math.floor(math.log2(num_heads))
    slopes = [2 ** (-8 * (head + 1) / lower) for head in range(lower)]
    return slopes + [2 ** (-4 * (head + 1) / lower) for head in range(0, 2 * (num_heads - lower), 2)]


def alibi_bias(num_heads: int, query_slots: torch.Tensor, key_slots: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """
    Minus slope times distance. Distances count slots, so padding before a row changes nothing.

    Args:
        num_heads (`int`): H.
        query_slots (`torch.LongTensor` of shape `(T,)`), key_slots (`torch.LongTensor` of shape `(S,)`).
        dtype: Of the result; computed in float32 or better.

    Returns:
        `torch.FloatTensor` of shape `(1, H, T, S)`, to be added to the scores.
    """
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    slopes = torch.tensor(alibi_slopes(num_heads), dtype=exact, device=query_slots.device)
    distance = (query_slots[:, None] - key_slots[None, :]).abs().to(exact)
    return (-slopes[:, None, None] * distance)[None].to(dtype)
