"""
The commonest rules of a search with fewer calls, and the same results as transformers' classes, which are called for
all others; and the best of many scores, which torch looks for one score at a time.

Legend: R rows, T tokens so far, V vocabulary, N scores of a row, C best ones.
"""

from typing import Any

import torch
from transformers.generation.logits_process import MinLengthLogitsProcessor, MinNewTokensLengthLogitsProcessor
from transformers.generation.stopping_criteria import EosTokenCriteria, MaxLengthCriteria


class StoppingRules:
    """
    A list of stopping criteria. Whether every row is at its length is one comparison; whether the newest token is an
    end token needs that token alone.

    Args:
        criteria (`StoppingCriteriaList`).
    """

    def __init__(self, criteria: Any) -> None:
        self.criteria = criteria
        self.lengths = [one for one in criteria if type(one) is MaxLengthCriteria]
        self.ends = [one.eos_token_id for one in criteria if type(one) is EosTokenCriteria]
        self.all_ends = frozenset(number for one in self.ends for number in one.flatten().tolist())
        self.are_known = len(self.lengths) + len(self.ends) == len(criteria)
        self.max_length = min((one.max_length for one in self.lengths), default=None)
        self.warning_length = min((one.max_position_embeddings or 2**62 for one in self.lengths), default=2**62)

    def __call__(self, input_ids: torch.Tensor, scores: Any) -> torch.Tensor:
        """Ids `(R, T)` to booleans `(R,)`: which rows end here."""
        length = input_ids.shape[1]
        if not self.are_known or length > self.warning_length:
            self.warning_length = 2**62  # transformers warns there, once
            done: torch.Tensor = self.criteria(input_ids, scores)
            return done
        if self.max_length is not None and length >= self.max_length:
            return torch.ones(input_ids.shape[0], dtype=torch.bool)
        newest, is_end = input_ids[:, -1], None
        for ends in self.ends:
            hits = newest == ends if ends.numel() == 1 else torch.isin(newest, ends)
            is_end = hits if is_end is None else is_end | hits
        return torch.zeros(input_ids.shape[0], dtype=torch.bool) if is_end is None else is_end

    def end_ids(self, length: int) -> frozenset[int] | None:
        """
        The ids that end a row of that many tokens if they come last; None where that is not all there is to see:
        other criteria, a length at which transformers warns, or every row ends.
        """
        is_long = self.max_length is not None and length >= self.max_length
        return None if not self.are_known or length > self.warning_length or is_long else self.all_ends


class ScoreRules:
    """
    A list of logits processors. No end token before a least length is written in place.

    Args:
        processors (`LogitsProcessorList`).
    """

    def __init__(self, processors: Any) -> None:
        self.rules: list[tuple[int, torch.Tensor] | Any] = []
        self.are_by_row = True
        """Whether what a row gets depends on nothing but its own length: rows may then leave the batch."""
        for one in processors:
            if type(one) is MinLengthLogitsProcessor:
                self.rules.append((one.min_length, one.eos_token_id.flatten()))
            elif type(one) is MinNewTokensLengthLogitsProcessor:
                self.rules.append((one.prompt_length_to_skip + one.min_new_tokens, one.eos_token_id.flatten()))
            else:
                self.rules.append(one)
                self.are_by_row = False

    def __call__(self, input_ids: torch.Tensor, scores: torch.Tensor) -> torch.Tensor:
        """Ids `(R, T)` and scores `(R, V)`, which may be written into, to scores `(R, V)`."""
        for rule in self.rules:
            if not isinstance(rule, tuple):
                scores = rule(input_ids, scores)
            elif input_ids.shape[1] < rule[0]:
                scores[:, rule[1]] = -float("inf")
        return scores


BLOCK = 128
"""Scores whose greatest is found first."""

MANY_SCORES = 24_000
"""For fewer, of all rows, one call of torch takes no longer."""


def best_place(scores: torch.Tensor) -> torch.Tensor:
    """`torch.argmax(scores, dim=1)` of `(R, N)`, looked for in the greatest of every block."""
    num_blocks = scores.shape[1] // BLOCK
    if scores.numel() < MANY_SCORES or num_blocks < 2:
        return torch.argmax(scores, dim=1)
    blocks = scores[:, : num_blocks * BLOCK].unflatten(1, (num_blocks, BLOCK))
    first = torch.argmax(blocks.amax(dim=2), dim=1)  # (R,)
    rest = scores[:, num_blocks * BLOCK :]
    found = torch.argmax(torch.cat([blocks[torch.arange(len(scores)), first], rest], dim=1), dim=1)
    return torch.where(found < BLOCK, first * BLOCK + found, found + (num_blocks - 1) * BLOCK)


def best_scores(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, list[list[int]], list[list[float]] | None]:
    """
    `torch.topk(scores, count)` of `(R, N)`: values `(R, C)`, places, and the values once more as numbers, or None
    where two of a row are equal. Equal ones are left to torch, whose order of them is its own.
    """
    num_blocks = scores.shape[1] // BLOCK
    if scores.numel() < MANY_SCORES or num_blocks < 2 * (count + 1):
        return _best_of_few(scores, count)
    num_even = num_blocks * BLOCK
    blocks = scores[:, :num_even].unflatten(1, (num_blocks, BLOCK))
    chosen = torch.topk(blocks.amax(dim=2), count + 1)[1]  # (R, C + 1), one more to see whether it equals the last
    candidates = blocks.gather(1, chosen[:, :, None].expand(-1, -1, BLOCK)).flatten(1)
    if num_even < scores.shape[1]:
        candidates = torch.cat([candidates, scores[:, num_even:]], dim=1)
    values, found = torch.topk(candidates, count + 1)
    numbers = values.tolist()
    if not _all_fall(numbers):
        return _best_of_few(scores, count)
    after = (num_blocks - count - 1) * BLOCK  # the last few scores stand behind the chosen blocks
    places = [
        [own[place // BLOCK] * BLOCK + place % BLOCK if place // BLOCK <= count else place + after for place in row]
        for own, row in zip(chosen.tolist(), found[:, :count].tolist(), strict=True)
    ]
    return values[:, :count], places, [row[:count] for row in numbers]


def _best_of_few(scores: torch.Tensor, count: int) -> tuple[torch.Tensor, list[list[int]], list[list[float]] | None]:
    """[`best_scores`] in one call of torch."""
    values, places = torch.topk(scores, count)
    numbers = values.tolist()
    return values, places.tolist(), numbers if _all_fall(numbers) else None


def _all_fall(rows: list[list[float]]) -> bool:
    """Whether every number is below the one before it."""
    return all(one > other for row in rows for one, other in zip(row, row[1:], strict=False))
