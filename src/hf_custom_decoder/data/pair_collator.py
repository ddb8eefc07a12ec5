"""From pairs of ids to a padded batch."""

from collections.abc import Sequence
from typing import Any

import torch
from torch.nn.utils.rnn import pad_sequence

from ..evaluation.predictions import IGNORED_LABEL_ID


class PairCollator:
    """Pads both sides of a batch on the right.

    Args:
        pad_token_id (`int`): Padding of the sources. Labels are padded with -100.
    """

    def __init__(self, pad_token_id: int) -> None:
        self.pad_token_id = pad_token_id

    def __call__(self, pairs: Sequence[dict[str, Any]]) -> dict[str, torch.Tensor]:
        """Returns `input_ids` and `attention_mask` (1 for a token) of shape `(batch_size, source_length)`, and
        `labels` of shape `(batch_size, target_length)`."""
        sources = [torch.tensor(pair["input_ids"], dtype=torch.int64) for pair in pairs]
        targets = [torch.tensor(pair["labels"], dtype=torch.int64) for pair in pairs]
        return {
            "input_ids": pad_sequence(sources, batch_first=True, padding_value=self.pad_token_id),
            "attention_mask": pad_sequence([torch.ones_like(ids) for ids in sources], batch_first=True),
            "labels": pad_sequence(targets, batch_first=True, padding_value=IGNORED_LABEL_ID),
        }
