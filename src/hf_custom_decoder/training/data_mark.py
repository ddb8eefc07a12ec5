"""By what a run that goes on knows its training data again."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..atomic_files import write_json

_FILE = "training_data.json"


class DataMark:
    """
    The number of pairs and their lengths, which every checkpoint holds. Batches are planned from lengths alone, so a
    run that goes on with others would be neither the one nor the other.

    Args:
        source_lengths, target_lengths (`Sequence[int]`): In tokens, of every pair.
    """

    def __init__(self, source_lengths: Sequence[int], target_lengths: Sequence[int]) -> None:
        digest = hashlib.sha256()
        for lengths in (source_lengths, target_lengths):
            digest.update(np.asarray(lengths, dtype=np.int64).tobytes())
        self._mark: dict[str, Any] = {"num_pairs": len(source_lengths), "lengths_sha256": digest.hexdigest()}

    def save(self, checkpoint: Path) -> None:
        """Writes it into a checkpoint."""
        write_json(checkpoint / _FILE, self._mark)

    def check(self, checkpoint: Path) -> None:
        """
        Compares with what the run had when it wrote a checkpoint; one without a mark is taken as it is.

        Raises:
            ValueError: The data was another.
        """
        if not (checkpoint / _FILE).is_file():
            return
        before = json.loads((checkpoint / _FILE).read_text(encoding="utf-8"))
        if before != self._mark:
            known, found = int(before["num_pairs"]), int(self._mark["num_pairs"])
            difference = f"{known:,} pairs, got {found:,}" if known != found else f"{known:,} pairs of other lengths"
            raise ValueError(
                f"The training data must be the same when a run is continued: {checkpoint.parent} was begun with "
                f"{difference}. Bring the earlier files back, or use `--fresh` or another `--output`."
            )
