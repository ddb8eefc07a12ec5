"""
Timing several contestants side by side: A B A B ..., never A A B B.

The machine may be shared and its clock speed may change, so no contestant is timed alone. Every round times each of
them once, in an order that turns from round to round; a figure is the median over the rounds of the ratio of two times
of the same round.
"""

import gc
import statistics
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass

MIN_ROUNDS = 5
"""Fewer pairs show no spread."""

Contestant = Callable[[], int]
"""Does its whole work once and returns how many real tokens (no padding) that were."""


class UnequalWorkError(ValueError):
    """Contestants that would be compared have not done the same work."""


def cpu_seconds() -> float:
    """Seconds of CPU time of this process, all threads together; other processes do not count."""
    return time.process_time()


@dataclass(frozen=True)
class Spread:
    """Median and quartiles of one figure over all rounds."""

    median: float
    lower: float
    upper: float


def spread_of(values: list[float]) -> Spread:
    """
    Median and quartiles.

    Args:
        values (`list[float]`): One figure a round, at least `MIN_ROUNDS` of them.

    Raises:
        ValueError: Fewer values.
    """
    if len(values) < MIN_ROUNDS:
        raise ValueError(f"`values` must hold at least {MIN_ROUNDS} rounds, got {len(values)}. Time more rounds.")
    lower, median, upper = statistics.quantiles(values, n=4, method="inclusive")
    return Spread(median, lower, upper)


@dataclass(frozen=True)
class Race:
    """
    What `race` has measured.

    Args:
        tokens (`int`): Real tokens of one run, the same for all contestants.
        seconds (`dict[str, list[float]]`): One time a round for each contestant.
    """

    tokens: int
    seconds: dict[str, list[float]]

    def speedup(self, name: str, reference: str) -> Spread:
        """How many times as fast `name` is as `reference`: the spread of the ratios of the same round."""
        pairs = zip(self.seconds[reference], self.seconds[name], strict=True)
        return spread_of([slow / fast for slow, fast in pairs])

    def tokens_per_second(self, name: str) -> float:
        """Real tokens a second in the median round."""
        return self.tokens / statistics.median(self.seconds[name])


def check_equal_work(done: Mapping[str, int]) -> int:
    """
    The number of tokens that all contestants have in common.

    Args:
        done (`Mapping[str, int]`): Real tokens of one run for each contestant.

    Raises:
        UnequalWorkError: The counts differ, or are 0.
    """
    counts = set(done.values())
    if len(counts) != 1 or counts <= {0}:
        raise UnequalWorkError(
            f"All contestants must do the same number of real tokens, above 0, got {dict(done)}. Give them the same "
            "data and force the same lengths."
        )
    return counts.pop()


def race(
    contestants: Mapping[str, Contestant],
    *,
    rounds: int = MIN_ROUNDS,
    clock: Callable[[], float] = cpu_seconds,
) -> Race:
    """
    Run every contestant once untimed, check that the work is equal, then time them round by round.

    Args:
        contestants (`Mapping[str, Contestant]`): By name.
        rounds (`int`): At least `MIN_ROUNDS`.
        clock: Returns seconds; by default CPU time.

    Raises:
        ValueError: Too few rounds.
        UnequalWorkError: Token counts differ between contestants or from round to round.
    """
    if rounds < MIN_ROUNDS:
        raise ValueError(f"`rounds` must be at least {MIN_ROUNDS}, got {rounds}. Time more rounds.")
    tokens = check_equal_work({name: run() for name, run in contestants.items()})
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    names = list(contestants)
    for _ in range(rounds):
        for name in names:
            gc.collect()  # nobody pays for what another has left behind
            start = clock()
            count = contestants[name]()
            seconds[name].append(clock() - start)
            check_equal_work({"first run": tokens, name: count})
        names = names[1:] + names[:1] if len(names) > 2 else names[::-1]
    return Race(tokens, seconds)
