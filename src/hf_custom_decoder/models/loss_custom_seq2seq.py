"""
The training loss. transformers' own for a class of this name would shift the labels once more.

Legend: B rows, T target length, E width, V vocabulary, N label positions.
"""

from typing import cast

import torch
from torch import nn

from .packing_custom_seq2seq import is_tracing
from .vocabulary_loss_custom_seq2seq import can_fuse, vocabulary_loss

IGNORE_INDEX = -100
"""Label of positions that do not count."""


def check_labels(labels: torch.Tensor, vocab_size: int) -> None:
    """
    Refuse labels of another form than `(B, T)`, and those outside the vocabulary, as no kernel names them; the latter
    only on CPU, where the look costs no stop.
    """
    if labels.dim() != 2 or labels.dtype != torch.int64:
        raise ValueError(
            f"`labels` must be of shape (batch_size, length) and torch.int64, got {tuple(labels.shape)} and "
            f"{labels.dtype}. Pass what the collator makes, or `labels.long()`."
        )
    if labels.device.type != "cpu" or is_tracing() or labels.numel() == 0:
        return
    wrong = (labels != IGNORE_INDEX) & ((labels < 0) | (labels >= vocab_size))
    if bool(wrong.any()):
        raise ValueError(
            f"`labels` must be {IGNORE_INDEX} or lie in [0, vocab_size={vocab_size}), got {int(labels[wrong][0])}. "
            "Check that the tokenizer and the decoder agree, or call `resize_token_embeddings`."
        )


def shift_tokens_right(labels: torch.Tensor, pad_token_id: int, decoder_start_token_id: int) -> torch.Tensor:
    """
    Decoder input for labels: the start token, then every label but the last; ignored ones become padding.

    Args:
        labels (`torch.LongTensor` of shape `(B, T)`).

    Returns:
        `torch.LongTensor` of shape `(B, T)`.
    """
    shifted = labels.new_empty(labels.shape)
    shifted[:, 1:] = labels[:, :-1]
    shifted[:, 0] = decoder_start_token_id
    return shifted.masked_fill_(shifted == IGNORE_INDEX, pad_token_id)


def mask_up_to_last_label(labels: torch.Tensor) -> torch.Tensor:
    """1 for decoder positions that some label depends on: those up to each row's last label; shape `(B, T)`."""
    return (labels != IGNORE_INDEX).flip(1).cumsum(1).flip(1).clamp(max=1)


def _mean(total: torch.Tensor, count: torch.Tensor | int) -> torch.Tensor:
    """The sum over `count` items divided by it; 0 where a whole step has no label."""
    return total / (count.to(total.device).clamp(min=1) if isinstance(count, torch.Tensor) else max(count, 1))


def token_loss(
    logits: torch.Tensor,
    labels: torch.Tensor,
    *,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """
    Cross-entropy over label positions.

    Args:
        logits (`torch.Tensor` of shape `(N, V)`): Taken to float32 (or kept in float64).
        labels (`torch.LongTensor` of shape `(N,)`): None of them ignored.
        num_items_in_batch (`int` or tensor, *optional*): What the sum is divided by: the label positions of all
            batches that are accumulated into one optimizer step. By default N, the mean over this batch.
        label_smoothing (`float`): Weight of the uniform distribution over all V ids (Szegedy et al. 2016, section 7).

    Returns:
        A scalar; 0 where there is no label.
    """
    logits = logits if logits.dtype == torch.float64 else logits.float()
    total = nn.functional.cross_entropy(logits, labels, reduction="sum", label_smoothing=label_smoothing)
    return _mean(total, labels.shape[0] if num_items_in_batch is None else num_items_in_batch)


def sequence_loss(
    hidden_states: torch.Tensor,
    logits: torch.Tensor | None,
    labels: torch.Tensor,
    lm_head: nn.Module,
    *,
    num_items_in_batch: torch.Tensor | int | None = None,
    label_smoothing: float = 0.0,
) -> torch.Tensor:
    """
    The loss of a padded batch; the vocabulary projection sees label positions only.

    Args:
        hidden_states (`torch.Tensor` of shape `(B, T, E)`).
        logits (`torch.Tensor` of shape `(B, T, V)`, *optional*): Used where they are there already.
        labels (`torch.LongTensor` of shape `(B, T)`): -100 where nothing counts.
        lm_head (`nn.Module`): E to V.

    Returns:
        A scalar, see [`token_loss`].
    """
    if is_tracing():  # the number of labels may not shape the graph: ignored positions weigh nothing instead
        logits = lm_head(hidden_states) if logits is None else logits
        flat = logits.flatten(0, 1)
        flat = flat if flat.dtype == torch.float64 else flat.float()
        total = nn.functional.cross_entropy(
            flat, labels.flatten(), reduction="sum", label_smoothing=label_smoothing, ignore_index=IGNORE_INDEX
        )
        return _mean(total, (labels != IGNORE_INDEX).sum() if num_items_in_batch is None else num_items_in_batch)
    positions = (labels.flatten() != IGNORE_INDEX).nonzero().squeeze(-1)  # (N,)
    if logits is None:
        states = hidden_states.flatten(0, 1).index_select(0, positions)  # (N, E)
        if can_fuse(states, lm_head):
            count = len(positions) if num_items_in_batch is None else float(num_items_in_batch)
            chosen_labels = labels.flatten().index_select(0, positions)
            return vocabulary_loss(states, chosen_labels, cast(nn.Linear, lm_head), max(count, 1.0), label_smoothing)
        chosen = lm_head(states)
    else:
        chosen = logits.flatten(0, 1).index_select(0, positions)  # (N, V)
    return token_loss(
        chosen,
        labels.flatten().index_select(0, positions),
        num_items_in_batch=num_items_in_batch,
        label_smoothing=label_smoothing,
    )
