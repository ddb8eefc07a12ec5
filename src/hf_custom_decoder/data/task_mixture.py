"""Tasks of pre-training, mixed by rates, each example with noise of its own in every pass."""

import zlib
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import numpy as np

from ..training.pretraining_options import TaskOptions
from .noise import corrupt_spans, infill, infilling_extra, permute_sentences, span_counts, split_prefix
from .noise_tokens import NoiseTokens


class Task(Protocol):
    """Examples that are drawn by row and number of the draw."""

    source_lengths: np.ndarray
    target_lengths: np.ndarray

    def __len__(self) -> int: ...

    def pair(self, row: int, draw: int) -> dict[str, list[int]]:
        """Returns `input_ids` and `labels` of a row; equal draws give equal ones."""


class NoisyTask:
    """Windows of text under a self-supervised objective.

    Args:
        name (`str`): Of the task and split; noise depends on it, so that tasks and splits differ.
        options ([`TaskOptions`]): Objective, rate and lengths.
        windows (`datasets.Dataset`): From [`cut_windows`].
        tokens ([`NoiseTokens`]): Of the tokenizer.
        prefix_ids (`Sequence[int]`): Before every source.
        seed (`int`): Of the noise.

    Attributes:
        source_lengths (`np.ndarray` of shape `(num_windows,)`): Most tokens of the source in any draw.
        target_lengths (`np.ndarray` of shape `(num_windows,)`): Most tokens of the target in any draw.
    """

    def __init__(
        self, name: str, options: TaskOptions, windows: Any, tokens: NoiseTokens, prefix_ids: Sequence[int], seed: int
    ) -> None:
        self._options = options
        self._ids = windows.with_format(None)["ids"]
        self._tokens = tokens
        self._prefix_ids = list(prefix_ids)
        self._key = noise_key(seed, name)
        lengths = windows.with_format("numpy")["length"][:]
        planned = {
            length: planned_lengths(options, int(length), tokens, len(self._prefix_ids))
            for length in np.unique(lengths)
        }
        self.source_lengths = np.array([planned[length][0] for length in lengths], dtype=np.int64)
        self.target_lengths = np.array([planned[length][1] for length in lengths], dtype=np.int64)

    def __len__(self) -> int:
        return len(self.source_lengths)

    def pair(self, row: int, draw: int) -> dict[str, list[int]]:
        """Returns `input_ids` and `labels` of a row, with the noise of this draw."""
        return noisy_pair(self._options, self._ids[row], (*self._key, draw, row), self._tokens, self._prefix_ids)


class SupervisedTask:
    """Pairs of ids from [`encode_pairs`], the same in every pass."""

    def __init__(self, pairs: Any) -> None:
        self._pairs = pairs
        lengths = pairs.with_format("numpy")
        self.source_lengths = np.asarray(lengths["source_length"][:], dtype=np.int64)
        self.target_lengths = np.asarray(lengths["target_length"][:], dtype=np.int64)

    def __len__(self) -> int:
        return len(self._pairs)

    def pair(self, row: int, draw: int) -> dict[str, list[int]]:
        """Returns `input_ids` and `labels` of a row."""
        pair = self._pairs[row]
        return {"input_ids": pair["input_ids"], "labels": pair["labels"]}


class TaskMixture:
    """Several tasks as one set of examples.

    A pass has about as many examples as all tasks together have rows; a task has its share of them, whatever its size:
    its rows come in an order that is drawn, all of them once before any comes again. An example is asked for by its
    slot: the number of the draw of its row, times the number of all rows, plus the row. So its noise depends on seed,
    draw and row alone, not on what was asked for before.

    Args:
        tasks (`Sequence[Task]`): At least one.
        rates (`Sequence[float]`): Share of each task, together 1.
        seed (`int`): Of the order of rows.
    """

    def __init__(self, tasks: Sequence[Task], rates: Sequence[float], seed: int) -> None:
        self._tasks = list(tasks)
        self._rates = list(rates)
        self._seed = seed
        self._starts = np.cumsum([0, *(len(task) for task in self._tasks)])
        self.source_lengths = np.concatenate([task.source_lengths for task in self._tasks])
        self.target_lengths = np.concatenate([task.target_lengths for task in self._tasks])

    def __len__(self) -> int:
        return int(self._starts[-1])

    def __getitem__(self, slot: int) -> dict[str, list[int]]:
        draw, row = divmod(int(slot), len(self))
        task_idx = int(np.searchsorted(self._starts, row, side="right")) - 1
        return self._tasks[task_idx].pair(row - int(self._starts[task_idx]), draw)

    def slots_of_pass(self, pass_idx: int, generator: np.random.Generator) -> np.ndarray:
        """Returns the examples of one pass over the data, shuffled by `generator`.

        Returns:
            `np.ndarray` of shape `(about len(self),)`: Slots.
        """
        slots = [self._slots(task_idx, pass_idx) for task_idx in range(len(self._tasks))]
        return generator.permutation(np.concatenate(slots))

    def _slots(self, task_idx: int, pass_idx: int) -> np.ndarray:
        size, rate = len(self._tasks[task_idx]), self._rates[task_idx]
        first, last = (round(number * len(self) * rate) for number in (pass_idx, pass_idx + 1))
        slots = []
        while first < last:
            draw, place = divmod(first, size)
            taken = min(size - place, last - first)
            rows = np.random.default_rng([self._seed, task_idx, draw]).permutation(size)[place : place + taken]
            slots.append(draw * len(self) + int(self._starts[task_idx]) + rows)
            first += taken
        return np.concatenate(slots) if slots else np.zeros(0, dtype=np.int64)


def mixing_rates(
    sizes: Sequence[int], *, weights: Sequence[float | None], temperature: float, most_examples: int | None
) -> list[float]:
    """Returns the share of each task (Raffel et al. 2020, section 3.5.2).

    Args:
        sizes (`Sequence[int]`): Examples of each task.
        weights (`Sequence[float | None]`): Count in place of the sizes; all are given or none is.
        temperature (`float`): 1 mixes by size, a large one evenly.
        most_examples (`int`, *optional*): Larger sizes count as this.

    Raises:
        ValueError: If some tasks have a weight and others have none.
    """
    given = [weight for weight in weights if weight is not None]
    if given and len(given) != len(sizes):
        raise ValueError(
            f"Either all tasks must have `weight` or none, got it for {len(given)} of {len(sizes)}. Give it to all, "
            "or leave it out and mix by size."
        )
    most = max(sizes) if most_examples is None else most_examples
    counted = np.array(given or [min(size, most) for size in sizes], dtype=np.float64) ** (1.0 / temperature)
    rates: list[float] = (counted / counted.sum()).tolist()
    return rates


def noise_key(seed: int, name: str) -> tuple[int, int]:
    """Returns what the noise of a task depends on beside draw and row."""
    return seed, zlib.crc32(name.encode())


def noisy_pair(
    options: TaskOptions, ids: Sequence[int], key: Sequence[int], tokens: NoiseTokens, prefix_ids: Sequence[int]
) -> dict[str, list[int]]:
    """Returns `input_ids` and `labels` of a window, with the noise of a key of whole numbers."""
    source, target = _corrupt(options, ids, np.random.default_rng(list(key)), tokens)
    return {"input_ids": tokens.framed([*prefix_ids, *source]), "labels": tokens.framed(target)}


def planned_lengths(options: TaskOptions, num_tokens: int, tokens: NoiseTokens, num_prefix: int) -> tuple[int, int]:
    """Returns the most tokens of source and target that a window can give, prefix and special tokens included."""
    hidden, spans = span_counts(num_tokens, options.corruption_rate, options.mean_span_length)
    sides: dict[str, Callable[[], tuple[int, int]]] = {
        "span_corruption": lambda: (num_tokens - hidden + spans, hidden + spans + 1),
        "text_infilling": lambda: (num_tokens + infilling_extra(num_tokens, options.corruption_rate), num_tokens),
        "sentence_permutation": lambda: (num_tokens, num_tokens),
        "prefix_lm": lambda: (num_tokens - 1, num_tokens - 1),
        "causal_lm": lambda: (0, num_tokens),
    }
    source, target = sides[options.objective]()
    return source + num_prefix + tokens.num_frame, target + tokens.num_frame


def _corrupt(
    options: TaskOptions, ids: Sequence[int], generator: np.random.Generator, tokens: NoiseTokens
) -> tuple[list[int], list[int]]:
    rate, mean_length = options.corruption_rate, options.mean_span_length
    if options.objective == "span_corruption":
        return corrupt_spans(ids, generator, rate=rate, mean_length=mean_length, sentinel_ids=tokens.sentinel_ids)
    if options.objective == "prefix_lm":
        return split_prefix(ids, generator)
    source: list[int] = list(ids)
    if options.objective == "causal_lm":
        source = []
    if options.objective == "sentence_permutation" or options.permute_sentences:
        source = permute_sentences(source, generator, last_ids=tokens.last_ids)
    if options.objective == "text_infilling" and tokens.mask_id is not None:
        source = infill(source, generator, rate=rate, mean_length=mean_length, mask_id=tokens.mask_id)
    return source, list(ids)
