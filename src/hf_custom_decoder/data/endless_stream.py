"""A stream of rows as one pass without end, so that the number of batches says where a run goes on."""

from collections.abc import Iterator
from typing import Any

from torch.utils.data import IterableDataset


class EndlessStream(IterableDataset[dict[str, Any]]):
    """Reads a stream again and again, shuffled anew in every pass, and is the same each time that it is begun.

    The Trainer counts a stream of unknown length as one epoch when it goes on from a checkpoint: a run that had come
    to the end of the stream would else go on at another place. Every process reads all rows, and accelerate gives it
    its own.

    Args:
        rows (`datasets.IterableDataset`): Shuffled or not.
    """

    def __init__(self, rows: Any) -> None:
        self._rows = rows

    def __iter__(self) -> Iterator[dict[str, Any]]:
        pass_idx = 0
        while True:
            self._rows.set_epoch(pass_idx)
            is_empty = True
            for row in self._rows:
                is_empty = False
                yield row
            if is_empty:
                raise ValueError(
                    "`data.train` must lead to pairs that are short enough, but its stream gave none. Raise "
                    "`data.max_source_length` and `data.max_target_length`, or set `data.too_long: truncate`."
                )
            pass_idx += 1
