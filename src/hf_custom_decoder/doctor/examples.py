"""Pairs of ids that the checks run on, and batches of them with padding on either side."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from transformers import PreTrainedTokenizerBase

from ..data.pair_encoding import with_end
from ..evaluation.predictions import IGNORED_LABEL_ID

NUM_EXAMPLES = 8


@dataclass(frozen=True)
class Example:
    """Ids of one source and of its target, end tokens included, start token not."""

    source: tuple[int, ...]
    target: tuple[int, ...]


@dataclass(frozen=True)
class TokenIds:
    """Ids and vocabulary sizes that the checks need of a model.

    Attributes:
        source_size (`int`): Rows of the encoder's embedding.
        target_size (`int`): Rows of the decoder's embedding.
        pad (`int`): Fills up both sides; 0 where the model names none.
        eos (`int`, *optional*): Ends a sequence.
        start (`int`): First token that the decoder reads.
        special (`frozenset[int]`): All of them.
    """

    source_size: int
    target_size: int
    pad: int
    eos: int | None
    start: int
    special: frozenset[int]


def random_examples(ids: TokenIds, *, count: int = NUM_EXAMPLES, max_length: int = 12) -> list[Example]:
    """Draws pairs of unequal lengths without special tokens but the end; sources and first targets all differ.

    Args:
        ids ([`TokenIds`]): Of the model.
        count (`int`, *optional*, defaults to 8): Pairs.
        max_length (`int`, *optional*, defaults to 12): Longest side in tokens, end token included.

    Returns:
        `list[Example]`: Always the same for the same ids.
    """
    generator = torch.Generator().manual_seed(3)
    end = () if ids.eos is None else (ids.eos,)

    def draw(size: int, length: int) -> list[int]:
        ordinary = [token for token in range(size) if token not in ids.special] or list(range(size))
        chosen = torch.randint(len(ordinary), (length,), generator=generator)
        return [ordinary[int(place)] for place in chosen]

    first = [token for token in range(ids.target_size) if token not in ids.special] or list(range(ids.target_size))
    order = torch.randperm(len(first), generator=generator).tolist()
    examples = []
    for number in range(count):
        source = draw(ids.source_size, min(3 + (5 * number) % 9, max_length - 1))
        target = draw(ids.target_size, min(2 + (7 * number) % 9, max_length - 1))
        target[0] = first[order[number % len(order)]]
        examples.append(Example((*source, *end), (*target, *end)))
    return examples


def text_examples(
    pairs: Sequence[dict[str, Any]],
    source_tokenizer: PreTrainedTokenizerBase,
    target_tokenizer: PreTrainedTokenizerBase,
    *,
    max_length: int,
) -> list[Example]:
    """Tokenizes the first pairs with sources of their own; longer sides are cut before their last token.

    Args:
        pairs (`Sequence[dict[str, Any]]`): With `source` and `target`.
        source_tokenizer, target_tokenizer ([`~transformers.PreTrainedTokenizerBase`]): Of both sides.
        max_length (`int`): Longest side in tokens, end token included.

    Returns:
        `list[Example]`: At most eight.
    """
    chosen: dict[str, str] = {}
    for pair in pairs:
        chosen.setdefault(pair["source"], pair["target"])
        if len(chosen) == NUM_EXAMPLES:
            break
    sources = with_end(source_tokenizer, list(chosen), is_needed=False)
    targets = with_end(target_tokenizer, list(chosen.values()), is_needed=target_tokenizer.eos_token_id is not None)

    def cut(row: list[int]) -> tuple[int, ...]:
        return tuple(row if len(row) <= max_length else [*row[: max_length - 1], row[-1]])

    return [Example(cut(source), cut(target)) for source, target in zip(sources, targets, strict=True)]


def source_batch(examples: Sequence[Example], ids: TokenIds, *, is_left: bool = False) -> dict[str, torch.Tensor]:
    """`input_ids` and `attention_mask` (1 for a token), `(B, S)`, padded on the right or on the left."""
    rows, mask = _pad([example.source for example in examples], ids.pad, is_left)
    return {"input_ids": rows, "attention_mask": mask}


def target_batch(examples: Sequence[Example], ids: TokenIds, *, is_left: bool = False) -> dict[str, torch.Tensor]:
    """`decoder_input_ids` (the start token first) and `decoder_attention_mask`, `(B, T)`."""
    rows, mask = _pad([(ids.start, *example.target[:-1]) for example in examples], ids.pad, is_left)
    return {"decoder_input_ids": rows, "decoder_attention_mask": mask}


def label_batch(examples: Sequence[Example]) -> dict[str, torch.Tensor]:
    """`labels`, `(B, T)`, -100 on the right of shorter ones."""
    return {"labels": _pad([example.target for example in examples], IGNORED_LABEL_ID, False)[0]}


def _pad(rows: Sequence[Sequence[int]], filler: int, is_left: bool) -> tuple[torch.Tensor, torch.Tensor]:
    longest = max(map(len, rows))
    padded, mask = [], []
    for row in rows:
        surplus = longest - len(row)
        left, right = (surplus, 0) if is_left else (0, surplus)
        padded.append([filler] * left + list(row) + [filler] * right)
        mask.append([0] * left + [1] * len(row) + [0] * right)
    return torch.tensor(padded), torch.tensor(mask)
