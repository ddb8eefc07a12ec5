"""Batches by a budget of tokens, in an order that depends on the seed alone."""

from collections.abc import Callable, Iterator, Sequence

import numpy as np
from torch.utils.data import Sampler


class TokenBatchSampler(Sampler[list[int]]):
    """Yields the batches of a whole run, pass after pass over the data, those of one process.

    Each pass shuffles the pairs, cuts them into windows, sorts each window by length, fills batches, and shuffles the
    batches. Batches are dealt to the processes in turn, so that n processes see in one step what one process sees in n
    batches. Nothing depends on what was yielded before: skipping the first batches gives the rest of the same run.

    Args:
        source_lengths (`Sequence[int]`): Tokens of each source.
        target_lengths (`Sequence[int]`): Tokens of each target.
        num_batches (`int`, *optional*): Batches of this process in the whole run; this or `num_passes`.
        num_passes (`float`, *optional*): Passes over the data; the last group of batches is filled up from the next.
        max_tokens (`int`, *optional*): Most tokens of a batch after padding: pairs times the sum of the longest source
            and the longest target. This or `batch_size`.
        batch_size (`int`, *optional*): Pairs of a batch.
        window_batches (`int`, *optional*, defaults to 100): Batches' worth of pairs in a window.
        seed (`int`, *optional*, defaults to 0): Of both shuffles.
        group (`int`, *optional*, defaults to 1): Batches of a process that make an optimizer step, for `num_passes`.
        process_idx (`int`, *optional*, defaults to 0): Which process this is.
        num_processes (`int`, *optional*, defaults to 1): How many there are.
        slots_of_pass (`Callable`, *optional*): Gives the examples of a pass, in an order drawn by a generator, in
            place of every row once: numbers whose remainder by the number of rows is the row, so that the quotient
            can tell one draw of a row from another.

    Raises:
        ValueError: If there is no pair, one is longer than the budget, or both or none of two alternatives are given.
    """

    def __init__(
        self,
        source_lengths: Sequence[int],
        target_lengths: Sequence[int],
        *,
        num_batches: int | None = None,
        num_passes: float | None = None,
        max_tokens: int | None = None,
        batch_size: int | None = None,
        window_batches: int = 100,
        seed: int = 0,
        group: int = 1,
        process_idx: int = 0,
        num_processes: int = 1,
        slots_of_pass: Callable[[int, np.random.Generator], np.ndarray] | None = None,
    ) -> None:
        self._sources = np.asarray(source_lengths, dtype=np.int64)
        self._targets = np.asarray(target_lengths, dtype=np.int64)
        if len(self._sources) == 0 or len(self._sources) != len(self._targets):
            raise ValueError(
                f"There must be pairs, and a length of both sides for each, got {len(self._sources)} and "
                f"{len(self._targets)} lengths."
            )
        if (max_tokens is None) == (batch_size is None):
            raise ValueError(f"Give either max_tokens or batch_size, got {max_tokens} and {batch_size}.")
        if (num_batches is None) == (num_passes is None):
            raise ValueError(f"Give either num_batches or num_passes, got {num_batches} and {num_passes}.")
        longest = int((self._sources + self._targets).argmax())
        if max_tokens is not None and self._sources[longest] + self._targets[longest] > max_tokens:
            raise ValueError(
                f"`training.max_tokens` must hold the longest pair, which has {self._sources[longest]} tokens of "
                f"source and {self._targets[longest]} of target, got {max_tokens}. Raise it, or lower "
                "`data.max_source_length` and `data.max_target_length`."
            )
        self._max_tokens = max_tokens
        self._batch_size = batch_size
        self._window_batches = window_batches
        self._seed = seed
        self._process_idx = process_idx
        self._num_processes = num_processes
        self._slots_of_pass = slots_of_pass
        self.num_batches = self._batches_of(num_passes, group) if num_batches is None else num_batches

    def __len__(self) -> int:
        return self.num_batches

    def __iter__(self) -> Iterator[list[int]]:
        wanted = self.num_batches * self._num_processes
        number = pass_idx = 0
        while number < wanted:
            for batch in self.batches_of_pass(pass_idx):
                if number >= wanted:
                    return
                if number % self._num_processes == self._process_idx:
                    yield batch.tolist()
                number += 1
            pass_idx += 1

    def batches_of_pass(self, pass_idx: int) -> list[np.ndarray]:
        """Returns the batches of one pass over the data, for all processes, as arrays of row numbers (or slots)."""
        generator = np.random.default_rng([self._seed, pass_idx])
        if self._slots_of_pass is None:
            order = generator.permutation(len(self._sources))
        else:
            order = self._slots_of_pass(pass_idx, generator)
        batches: list[np.ndarray] = []
        size = self._window_size()
        for start in range(0, len(order), size):
            window = order[start : start + size]
            rows = window % len(self._sources)
            by_length = np.lexsort((self._sources[rows], self._targets[rows]))
            batches += self._fill(window[by_length])
        return [batches[idx] for idx in generator.permutation(len(batches))]

    def padding_share(self, pass_idx: int = 0) -> float:
        """Returns which share of the cells of one pass is padding, from 0 to 1."""
        batches = [batch % len(self._sources) for batch in self.batches_of_pass(pass_idx)]
        cells = sum(self._cells(rows) for rows in batches)
        return 1.0 - float(sum((self._sources[rows] + self._targets[rows]).sum() for rows in batches)) / cells

    def _window_size(self) -> int:
        if self._batch_size is not None:
            return self._batch_size * self._window_batches
        mean = float((self._sources + self._targets).mean())
        return max(int((self._max_tokens or 0) / mean), 1) * self._window_batches

    def _fill(self, slots: np.ndarray) -> list[np.ndarray]:
        """Cuts sorted examples into batches that keep the budget."""
        if self._batch_size is not None:
            return [slots[start : start + self._batch_size] for start in range(0, len(slots), self._batch_size)]
        batches = []
        start = longest_source = longest_target = 0
        for idx, row in enumerate(slots % len(self._sources)):
            source, target = max(longest_source, int(self._sources[row])), max(longest_target, int(self._targets[row]))
            if idx > start and (idx + 1 - start) * (source + target) > (self._max_tokens or 0):
                batches.append(slots[start:idx])
                start, source, target = idx, int(self._sources[row]), int(self._targets[row])
            longest_source, longest_target = source, target
        batches.append(slots[start:])
        return batches

    def _cells(self, rows: np.ndarray) -> int:
        return len(rows) * int(self._sources[rows].max() + self._targets[rows].max())

    def _batches_of(self, num_passes: float | None, group: int) -> int:
        """Turns passes into batches of one process, rounded up to whole optimizer steps."""
        whole, rest = divmod(num_passes or 0.0, 1.0)
        total = sum(len(self.batches_of_pass(idx)) for idx in range(int(whole)))
        if rest:
            total += int(np.ceil(rest * len(self.batches_of_pass(int(whole)))))
        step = group * self._num_processes
        return max(-(-total // step), 1) * group
