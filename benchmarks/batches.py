"""Batches of random ids with realistic lengths, padded as a collator pads them."""

import random

import torch

from .lengths import SIGMA, length_pairs
from .sizes import FIRST_WORD, PAD

IGNORE_INDEX = -100

Batch = dict[str, torch.Tensor]


def padded_ids(lengths: list[int], vocab_size: int, generator: torch.Generator) -> tuple[torch.Tensor, torch.Tensor]:
    """Random ids and their mask (1 for tokens, 0 for padding), both `(len(lengths), longest)`, padded on the right."""
    shape = (len(lengths), max(lengths))
    mask = (torch.arange(shape[1])[None, :] < torch.tensor(lengths)[:, None]).long()
    ids = torch.randint(FIRST_WORD, vocab_size, shape, generator=generator)
    return ids * mask + PAD * (1 - mask), mask


def make_batch(pairs: list[tuple[int, int]], vocab_size: int, generator: torch.Generator) -> Batch:
    """`input_ids` and `attention_mask` `(B, S)`, `labels` `(B, T)` with -100 at the padding."""
    input_ids, attention_mask = padded_ids([source for source, _ in pairs], vocab_size, generator)
    labels, mask = padded_ids([target for _, target in pairs], vocab_size, generator)
    labels = labels.masked_fill(mask == 0, IGNORE_INDEX)
    return {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}


def training_batches(
    *,
    grouped: bool,
    vocab_size: int,
    seed: int,
    count: int = 3,
    batch_size: int = 32,
    pool: int = 32,
    sigma: float = SIGMA,
) -> list[Batch]:
    """
    `count` batches out of a corpus of `pool * batch_size` sentence pairs.

    Args:
        grouped (`bool`): False takes the sentences as they come; True sorts the corpus by source and target length
            before it is cut into batches and takes batches at even distances, so that short and long ones are both
            among them.
        vocab_size (`int`), seed (`int`), sigma (`float`): Of the ids and lengths.
    """
    pairs = length_pairs(pool * batch_size, seed, sigma)
    if grouped:
        pairs.sort()
    cut = [pairs[start : start + batch_size] for start in range(0, len(pairs), batch_size)]
    if grouped:
        cut = [cut[(2 * index + 1) * pool // (2 * count)] for index in range(count)]
        random.Random(seed).shuffle(cut)
    generator = torch.Generator().manual_seed(seed)
    return [make_batch(chosen, vocab_size, generator) for chosen in cut[:count]]


def source_batch(lengths: list[int], vocab_size: int, seed: int) -> Batch:
    """Sources for decoding: `input_ids` and `attention_mask` of shape `(len(lengths), longest)`."""
    input_ids, attention_mask = padded_ids(lengths, vocab_size, torch.Generator().manual_seed(seed))
    return {"input_ids": input_ids, "attention_mask": attention_mask}


def real_tokens(batches: list[Batch]) -> int:
    """Source tokens and labels that are not padding."""
    return sum(int(batch["attention_mask"].sum()) + int((batch["labels"] != IGNORE_INDEX).sum()) for batch in batches)


def padding_share(batches: list[Batch]) -> float:
    """Part of all source and target positions that is padding, 0 to 1."""
    positions = sum(batch["input_ids"].numel() + batch["labels"].numel() for batch in batches)
    return 1 - real_tokens(batches) / positions


def to_device(batches: list[Batch], device: str) -> list[Batch]:
    """The same batches on another device."""
    return [{name: tensor.to(device) for name, tensor in batch.items()} for batch in batches]
