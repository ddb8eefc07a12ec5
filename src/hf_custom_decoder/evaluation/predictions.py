"""From the token ids that the Trainer returns to text."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

IGNORED_LABEL_ID = -100
"""What the Trainer and the collators put where there is no token; no tokenizer knows it."""


def decode_predictions(tokenizer: PreTrainedTokenizerBase, predictions: Any) -> list[str]:
    """Decodes generated ids or labels to text, without special tokens.

    The Trainer fills predictions and labels of unequal length with -100, on which tokenizers fail or decode rubbish;
    here it counts as padding.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): The tokenizer of the target side, with a padding token.
        predictions (`np.ndarray`, `torch.Tensor` or nested `list` of shape `(batch_size, target_length)`):
            Token ids, with -100 where there is none.

    Returns:
        `list[str]`: One text a row.

    Raises:
        ValueError: If the tokenizer has no padding token, or `predictions` are not whole numbers in two dimensions.
    """
    if tokenizer.pad_token_id is None:
        raise ValueError(
            "`tokenizer` must have a padding token to stand for -100, found none. Set `tokenizer.pad_token`, for "
            "example to `tokenizer.eos_token`."
        )
    if isinstance(predictions, torch.Tensor):
        predictions = predictions.detach().cpu().numpy()
    ids = np.asarray(predictions)
    if ids.ndim != 2 or not np.issubdtype(ids.dtype, np.integer):
        raise ValueError(
            "`predictions` must be whole numbers of shape (batch_size, target_length), got "
            f"{ids.dtype} of shape {ids.shape}. Of logits take the argmax first, of a tuple of outputs the ids."
        )
    ids = np.where(ids == IGNORED_LABEL_ID, tokenizer.pad_token_id, ids)
    texts: Sequence[str] = tokenizer.batch_decode(ids, skip_special_tokens=True)
    return list(texts)
