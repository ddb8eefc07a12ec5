"""The measuring itself: order, ratios, and the refusal of unequal work."""

import re
from collections.abc import Callable

import pytest

from benchmarks.interleaved import Race, UnequalWorkError, check_equal_work, race, spread_of


def fake_contestants(seconds: dict[str, float], tokens: dict[str, int]) -> tuple[dict, Callable[[], float], list[str]]:
    """Contestants that move a clock of their own by known seconds, that clock, and the order in which they ran."""
    now, order = [0.0], []

    def contestant(name: str) -> Callable[[], int]:
        def run() -> int:
            now[0] += seconds[name]
            order.append(name)
            return tokens[name]

        return run

    return {name: contestant(name) for name in seconds}, lambda: now[0], order


def test_ratio_and_tokens_per_second() -> None:
    contestants, clock, _ = fake_contestants({"slow": 6.0, "fast": 2.0}, {"slow": 10, "fast": 10})
    result = race(contestants, rounds=5, clock=clock)
    assert result.seconds == {"slow": [6.0] * 5, "fast": [2.0] * 5}
    assert result.speedup("fast", "slow").median == 3.0
    assert result.speedup("slow", "fast").median == pytest.approx(1 / 3)
    assert result.tokens_per_second("fast") == 5.0


def test_order_turns_from_round_to_round() -> None:
    contestants, clock, order = fake_contestants({"a": 1.0, "b": 1.0}, {"a": 1, "b": 1})
    race(contestants, rounds=5, clock=clock)
    assert "".join(order) == "ab" + "ab" + "ba" + "ab" + "ba" + "ab"  # the first two are not timed


def test_ratio_is_the_median_of_pairs_not_the_ratio_of_medians() -> None:
    # Pairs: 1/1, 10/4, 10/5, 12/12, 20/5 = 1, 2.5, 2, 1, 4; the medians alone would give 10/5.
    result = Race(1, {"reference": [1.0, 10.0, 10.0, 12.0, 20.0], "ours": [1.0, 4.0, 5.0, 12.0, 5.0]})
    spread = result.speedup("ours", "reference")
    assert (spread.lower, spread.median, spread.upper) == (1.0, 2.0, 2.5)
    result = Race(1, {"reference": [10.0, 1.0, 9.0, 8.0, 1.0], "ours": [1.0, 10.0, 3.0, 4.0, 1.0]})
    assert result.speedup("ours", "reference").median == 2.0  # the ratio of the medians is 8/3


@pytest.mark.parametrize("count", [0, 4])
def test_too_few_rounds_are_refused(count: int) -> None:
    with pytest.raises(ValueError, match="at least 5"):
        spread_of([1.0] * count)
    with pytest.raises(ValueError, match="`rounds` must be at least 5"):
        race({"a": lambda: 1}, rounds=count)


def test_unequal_token_counts_are_refused_before_timing() -> None:
    contestants, clock, order = fake_contestants({"a": 1.0, "b": 1.0}, {"a": 10, "b": 9})
    with pytest.raises(UnequalWorkError, match=re.escape("{'a': 10, 'b': 9}")):
        race(contestants, rounds=5, clock=clock)
    assert order == ["a", "b"]


def test_no_tokens_are_refused() -> None:
    with pytest.raises(UnequalWorkError, match="above 0"):
        check_equal_work({"a": 0, "b": 0})


def test_work_that_changes_from_round_to_round_is_refused() -> None:
    counts = iter([5, 5, 5, 4])
    with pytest.raises(UnequalWorkError, match="'a': 4"):
        race({"a": lambda: next(counts)}, rounds=5)
