"""Real tokens without their padding: gathered before the layers, spread out only for attention.

Legend: B batch, T length, N real tokens.
"""

import torch


class PackedRows:
    """
    Where the N real tokens of a padded `(B, T)` batch stand.

    Layers that treat every token alike (embeddings, linear layers, norms, the loss) run on `(N, ...)`; attention,
    which needs rows, gets `(B, T, ...)` back with zeros at the padding.

    Args:
        mask (`torch.Tensor` of shape `(batch_size, length)`): 1 for real tokens, 0 for padding.
    """

    def __init__(self, mask: torch.Tensor) -> None:
        self.batch_size, self.length = mask.shape
        self.indices = mask.reshape(-1).nonzero().squeeze(-1)  # (N,)

    def pack(self, padded: torch.Tensor) -> torch.Tensor:
        """`(B, T, ...)` to `(N, ...)`; a first dimension of 1 is taken to stand for every row."""
        if padded.shape[0] != self.batch_size:
            padded = padded.expand(self.batch_size, *padded.shape[1:])
        return padded.flatten(0, 1).index_select(0, self.indices)

    def unpack(self, packed: torch.Tensor) -> torch.Tensor:
        """`(N, ...)` to `(B, T, ...)`, zeros at the padding."""
        padded = packed.new_zeros((self.batch_size * self.length, *packed.shape[1:]))
        return padded.index_copy(0, self.indices, packed).unflatten(0, (self.batch_size, self.length))


def is_tracing() -> bool:
    """Whether the shapes of this call are being recorded (compile, export, trace), so none may depend on the data."""
    return bool(torch.compiler.is_compiling() or torch.jit.is_tracing())  # type: ignore[attr-defined]


def packed_rows(mask: torch.Tensor | None) -> PackedRows | None:
    """The rows of a two-dimensional padding mask, or None where nothing is padded or shapes are being recorded."""
    if mask is None or mask.dim() != 2 or is_tracing() or mask.device.type == "meta":
        return None
    return None if bool(mask.all()) else PackedRows(mask)
