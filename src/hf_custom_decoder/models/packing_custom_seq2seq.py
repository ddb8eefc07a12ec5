"""
Real tokens without their padding: gathered before the layers, spread out only for attention.

Legend: B batch, T length, N real tokens; of one piece, b rows, t columns and n real tokens.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch

PIECE_COST = 4096
"""What one more piece costs on a CPU, in scores of attention (one query and one key, all heads)."""

KEPT_MASKS = 3
"""Masks whose pieces are kept: of sliding and of full self-attention, and of cross-attention."""

PIECE_COUNTS = (2, 3, 4, 6, 8, 12, 16)
"""Numbers of pieces that are considered."""


class _Spread(torch.autograd.Function):
    """`(n, ...)` to `(size, ...)`: rows to their places, zeros elsewhere. Unlike `index_copy` it keeps no values."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
        return values.new_zeros((size, *values.shape[1:])).index_copy_(0, places, values)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        _, places, ctx.size = inputs
        ctx.save_for_backward(places)
        ctx.save_for_forward(places)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        return _Gather.apply(grad, *ctx.saved_tensors), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: object) -> Any:
        return _Spread.apply(tangent, *ctx.saved_tensors, ctx.size)


class _Gather(torch.autograd.Function):
    """`(size, ...)` to `(n, ...)`: the rows at places that differ, whose gradients therefore need no sum."""

    generate_vmap_rule = True

    @staticmethod
    def forward(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
        return values.index_select(0, places)

    @staticmethod
    def setup_context(ctx: Any, inputs: tuple[Any, ...], output: torch.Tensor) -> None:
        values, places = inputs
        ctx.size = values.shape[0]
        ctx.save_for_backward(places)
        ctx.save_for_forward(places)

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        return _Spread.apply(grad, *ctx.saved_tensors, ctx.size), None

    @staticmethod
    def jvp(ctx: Any, tangent: torch.Tensor, *_: object) -> Any:
        return _Gather.apply(tangent, *ctx.saved_tensors)


def _spread(values: torch.Tensor, places: torch.Tensor, size: int) -> torch.Tensor:
    places = places.to(values.device)  # a layer may stand on another device than the mask
    if is_tracing():  # a layer that is compiled by itself
        return values.new_zeros((size, *values.shape[1:])).index_copy(0, places, values)
    spread: torch.Tensor = _Spread.apply(values, places, size)
    return spread


def _gather(values: torch.Tensor, places: torch.Tensor) -> torch.Tensor:
    places = places.to(values.device)
    gathered: torch.Tensor = values.index_select(0, places) if is_tracing() else _Gather.apply(values, places)
    return gathered


@dataclass(frozen=True)
class RowStarts:
    """
    Where each row begins among packed tokens that lie as in the batch.

    Attributes:
        starts (`torch.IntTensor` of shape `(B + 1,)`): From 0 to N.
        shortest, longest (`int`): Real tokens of a row.
    """

    starts: torch.Tensor
    shortest: int
    longest: int


@dataclass(frozen=True)
class Piece:
    """
    Rows of similar lengths, whose attention is computed together.

    Attributes:
        rows (`torch.LongTensor` of shape `(b,)`): Of the batch.
        start, stop (`int`): The columns between which all real tokens of these rows stand; t of them.
        num_tokens (`int`): n.
        places (`torch.LongTensor` of shape `(n,)`): Where the tokens stand in the flattened `(b, t)`.
    """

    rows: torch.Tensor
    start: int
    stop: int
    num_tokens: int
    places: torch.Tensor

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """`(n, ...)` to `(b, t, ...)`, zeros at the padding."""
        shape = (self.rows.shape[0], self.stop - self.start)
        return _spread(packed, self.places, shape[0] * shape[1]).unflatten(0, shape)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(b, t, ...)` to `(n, ...)`."""
        return _gather(padded.flatten(0, 1), self.places)


class PackedRows:
    """
    Where the N real tokens of a padded `(B, T)` batch stand.

    Layers that treat every token alike (embeddings, linear layers, norms, the loss) run on `(N, ...)`; attention,
    which needs rows, gets `(B, T, ...)` back with zeros at the padding, or piece by piece. Only `indices` tells the
    order of the N tokens.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for real tokens, 0 for padding.
        cut (sequence of `torch.LongTensor`, *optional*): The rows of each piece, every row once; the tokens then lie
            piece after piece. By default there are no pieces, and they lie as in the batch.
    """

    def __init__(self, mask: torch.Tensor, cut: Sequence[torch.Tensor] = ()) -> None:
        self.batch_size, self.length = mask.shape
        self.mask, self.cut = mask, cut
        self._starts: RowStarts | None = None
        self.pieces: list[Piece] = []
        if not cut:
            self.indices = mask.reshape(-1).nonzero().squeeze(-1)  # (N,)
            return
        indices = []
        for rows in cut:
            chosen = mask.index_select(0, rows)  # (b, T)
            used = chosen.any(dim=0).nonzero()
            start, stop = (int(used[0]), int(used[-1]) + 1) if len(used) else (0, 1)
            places = chosen[:, start:stop].reshape(-1).nonzero().squeeze(-1)
            width = stop - start
            indices.append(rows[places // width] * self.length + start + places % width)
            self.pieces.append(Piece(rows, start, stop, len(places), places))
        self.indices = torch.cat(indices)
        self._masks: list[tuple[torch.Tensor, PackedRows, list[torch.Tensor]]] = []

    @property
    def starts(self) -> RowStarts:
        """Of rows that are not cut into pieces; looks at the mask once."""
        if self._starts is None:
            lengths = (self.mask != 0).sum(dim=1)
            starts = torch.nn.functional.pad(lengths.cumsum(0), (1, 0)).to(torch.int32)
            shortest, longest = torch.stack(lengths.aminmax()).tolist()
            self._starts = RowStarts(starts, int(shortest), int(longest))
        return self._starts

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(B, T, ...)` to `(N, ...)`; a first dimension of 1 is taken to stand for every row."""
        if padded.shape[0] != self.batch_size:
            padded = padded.expand(self.batch_size, *padded.shape[1:])
        return _gather(padded.flatten(0, 1), self.indices)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """`(N, ...)` to `(B, T, ...)`, zeros at the padding."""
        padded = _spread(packed, self.indices, self.batch_size * self.length)
        return padded.unflatten(0, (self.batch_size, self.length))

    def split(self, packed: torch.Tensor) -> list[torch.Tensor]:
        """`(N, ...)` to the `(b, t, ...)` of each piece, zeros at the padding."""
        tokens = packed.split([piece.num_tokens for piece in self.pieces])
        return [piece.unpack(own) for piece, own in zip(self.pieces, tokens, strict=True)]

    def join(self, padded: Sequence[torch.Tensor]) -> torch.Tensor:
        """The `(b, t, ...)` of each piece to `(N, ...)`."""
        return torch.cat([piece.pack(own) for piece, own in zip(self.pieces, padded, strict=True)])

    def has_pieces_of(self, other: "PackedRows") -> bool:
        """Whether both are cut, and into the same rows."""
        return len(self.cut) > 0 and self.cut is other.cut

    def split_mask(self, mask: torch.Tensor | None, keys: "PackedRows") -> Sequence[torch.Tensor | None]:
        """
        The part of each piece of a mask broadcastable to `(B, H, T, S)`, cut for the first layer that asks.

        Args:
            keys ([`PackedRows`]): Of the S keys, cut into the same pieces.
        """
        if mask is None:
            return [None] * len(self.pieces)
        for known, other, parts in self._masks:
            if known is mask and other is keys:
                return parts
        parts = [
            cut_rows(mask, piece.rows, (piece.start, piece.stop), (other.start, other.stop))
            for piece, other in zip(self.pieces, keys.pieces, strict=True)
        ]
        if not mask.requires_grad and not is_tracing():  # a layer that is computed again must do the same again
            self._masks = [*self._masks, (mask, keys, parts)][-KEPT_MASKS:]
        return parts


def cut_rows(
    states: torch.Tensor, rows: torch.Tensor, third: tuple[int, int], last: tuple[int, int] | None = None
) -> torch.Tensor:
    """Rows of a four-dimensional tensor, and columns of its third and last dimension; those of size 1 stay whole."""
    if states.shape[2] != 1:
        states = states[:, :, slice(*third)]
    if last is not None and states.shape[3] != 1:
        states = states[..., slice(*last)]
    return states if states.shape[0] == 1 else states.index_select(0, rows)


def is_tracing() -> bool:
    """Whether the shapes of this call are being recorded (compile, export, trace), so none may depend on the data."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined]


def packed_rows(
    mask: torch.Tensor | None, source_mask: torch.Tensor | None = None, *, in_pieces: bool = False
) -> PackedRows | None:
    """
    The rows of a two-dimensional padding mask, or None where nothing is padded or shapes are being recorded.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, length)`, *optional*): 1 for real tokens, 0 for padding.
        source_mask (`torch.Tensor` of shape `(batch_size, source_length)`, *optional*): Of what the tokens attend to
            besides themselves. Anything else is left to those who check it.
        in_pieces (`bool`, *optional*, defaults to False): Cut the batch where that saves attention on a CPU.
    """
    if mask is None or mask.dim() != 2 or is_tracing() or mask.device.type == "meta":
        return None
    if bool(mask.all()):
        return None
    if not in_pieces or mask.device.type != "cpu":
        return PackedRows(mask)
    is_mask = isinstance(source_mask, torch.Tensor) and source_mask.dim() == 2 and len(source_mask) == len(mask)
    return PackedRows(mask, cut_by_length(mask, source_mask if is_mask else None))


def source_rows(
    mask: torch.Tensor | None, states: torch.Tensor, decoder_rows: PackedRows | None, *, always: bool = False
) -> PackedRows | None:
    """
    The rows of a source, cut into the pieces of the decoder where that is cut.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, source_length)`, *optional*): 1 for real tokens, 0 for padding; one
            of four dimensions says nothing about padding.
        states (`torch.Tensor` of shape `(batch_size, source_length, width)`): For their shape.
        always (`bool`): Of a source without padding too.
    """
    if decoder_rows is None or not (decoder_rows.cut or always):
        return packed_rows(mask)
    whole = torch.ones(states.shape[:2], dtype=torch.bool, device=states.device)
    return PackedRows(whole if mask is None or mask.dim() != 2 else mask, decoder_rows.cut)


def cut_by_length(mask: torch.Tensor, source_mask: torch.Tensor | None = None) -> list[torch.Tensor]:
    """
    The rows of each piece, shortest first; none where one piece is best.

    Attention over a piece takes as long as if every row were its longest, so rows of similar lengths go together.
    """
    lengths = _spans(mask)
    partners = None if source_mask is None else _spans(source_mask)
    keys = lengths if partners is None else [(own, other) for own, other in zip(lengths, partners, strict=True)]
    order = sorted(range(len(lengths)), key=keys.__getitem__)

    def cost(pieces: list[list[int]]) -> int:
        total = 0
        for piece in pieces:
            longest = max(lengths[row] for row in piece)
            source = 0 if partners is None else max(partners[row] for row in piece)
            total += len(piece) * longest * (longest + source) + PIECE_COST
        return total

    best = [order]
    for count in PIECE_COUNTS:
        if count > len(order):
            break
        borders = [len(order) * index // count for index in range(count + 1)]
        pieces = [order[start:stop] for start, stop in zip(borders, borders[1:], strict=False)]
        best = min(best, pieces, key=cost)
    return [] if len(best) == 1 else [torch.tensor(piece, device=mask.device) for piece in best]


def _spans(mask: torch.Tensor) -> list[int]:
    """Columns from the first real token of each row to its last."""
    real = mask != 0
    columns = torch.arange(mask.shape[1], device=mask.device)
    last = torch.where(real, columns, -1).amax(dim=1)
    first = torch.where(real, columns, mask.shape[1]).amin(dim=1)
    spans: list[int] = (last - first + 1).clamp(min=0).tolist()
    return spans
