"""Tasks of pre-training over streams: text that is read while it is trained on, and never held as a whole."""

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, TypeVar

import numpy as np
from torch.utils.data import IterableDataset

from ..training.pretraining_options import TaskOptions
from .noise_tokens import NoiseTokens
from .task_mixture import noise_key, noisy_pair

Item = TypeVar("Item")
Pair = dict[str, list[int]]


class StreamedTask(Protocol):
    """Examples that come pass by pass."""

    def pairs(self, pass_idx: int, generator: np.random.Generator) -> Iterator[Pair]:
        """Yields `input_ids` and `labels` of one pass over the data."""


class StreamedNoisyTask:
    """Windows of a stream of text under a self-supervised objective; equal windows get the noise of [`NoisyTask`].

    Args:
        name (`str`): Of the task and split.
        options ([`TaskOptions`]): Objective, rate and lengths.
        windows (`datasets.IterableDataset`): From [`cut_windows`].
        tokens ([`NoiseTokens`]): Of the tokenizer.
        prefix_ids (`Sequence[int]`): Before every source.
        seed (`int`): Of the noise.
        shuffle_rows (`int`): Windows that are held, among which the next one is drawn; 1 keeps their order.
    """

    def __init__(
        self,
        name: str,
        options: TaskOptions,
        windows: Any,
        tokens: NoiseTokens,
        prefix_ids: Sequence[int],
        seed: int,
        shuffle_rows: int,
    ) -> None:
        self._options = options
        self._windows = windows
        self._tokens = tokens
        self._prefix_ids = list(prefix_ids)
        self._key = noise_key(seed, name)
        self._shuffle_rows = shuffle_rows

    def pairs(self, pass_idx: int, generator: np.random.Generator) -> Iterator[Pair]:
        """Yields the pairs of one pass, noise drawn from seed, task, pass and number of the window alone."""
        windows = ((row, window["ids"]) for row, window in enumerate(self._windows))
        for row, ids in shuffled(windows, self._shuffle_rows, generator):
            yield noisy_pair(self._options, ids, (*self._key, pass_idx, row), self._tokens, self._prefix_ids)


class StreamedSupervisedTask:
    """A stream of pairs of ids from [`encode_pairs`]; `shuffle_rows` as in [`StreamedNoisyTask`]."""

    def __init__(self, pairs: Any, shuffle_rows: int) -> None:
        self._pairs = pairs
        self._shuffle_rows = shuffle_rows

    def pairs(self, pass_idx: int, generator: np.random.Generator) -> Iterator[Pair]:
        """Yields the pairs of one pass."""
        pairs = ({"input_ids": pair["input_ids"], "labels": pair["labels"]} for pair in self._pairs)
        yield from shuffled(pairs, self._shuffle_rows, generator)


class StreamedMixture(IterableDataset[Pair]):
    """Several streams as one without end, the same each time that it is read from its start.

    The next example is always of the task that is furthest behind its rate, so that after any number of them each task
    has had its share. A task that has come to its end begins its next pass.

    Args:
        tasks (`dict[str, StreamedTask]`): At least one, by name.
        rates (`Sequence[float]`): Share of each task, together 1.
        seed (`int`): Of the order of rows.
    """

    def __init__(self, tasks: dict[str, StreamedTask], rates: Sequence[float], seed: int) -> None:
        self._tasks = dict(tasks)
        self._rates = np.asarray(rates, dtype=np.float64)
        self._seed = seed

    def __iter__(self) -> Iterator[Pair]:
        streams = [self._endless(task_idx, name) for task_idx, name in enumerate(self._tasks)]
        counts = np.zeros(len(streams), dtype=np.int64)
        while True:
            task_idx = int(np.argmax(self._rates * (counts.sum() + 1) - counts))
            counts[task_idx] += 1
            yield next(streams[task_idx])

    def _endless(self, task_idx: int, name: str) -> Iterator[Pair]:
        pass_idx = 0
        while True:
            is_empty = True
            for pair in self._tasks[name].pairs(pass_idx, np.random.default_rng([self._seed, task_idx, pass_idx])):
                is_empty = False
                yield pair
            if is_empty:
                raise ValueError(
                    f"`tasks.{name}` must lead to examples, but its stream gave none. Join short documents with "
                    "`pretraining.join_documents: true`, or allow longer pairs."
                )
            pass_idx += 1


def shuffled(items: Iterator[Item], num_held: int, generator: np.random.Generator) -> Iterator[Item]:
    """Yields all items, each drawn from the next `num_held` that have not been yielded."""
    held: list[Item] = []
    for item in items:
        held.append(item)
        if len(held) >= num_held:
            yield _taken(held, generator)
    while held:
        yield _taken(held, generator)


def _taken(held: list[Item], generator: np.random.Generator) -> Item:
    place = int(generator.integers(len(held)))
    held[place], held[-1] = held[-1], held[place]
    return held.pop()
