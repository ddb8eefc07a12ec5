"""Batches by token budget: the budget, the order, processes, and going on in the middle."""

from typing import Any

import numpy as np
import pytest

from hf_custom_decoder.data.token_batches import TokenBatchSampler

GENERATOR = np.random.default_rng(3)
SOURCES = GENERATOR.integers(1, 30, size=400)
TARGETS = GENERATOR.integers(1, 30, size=400)


def sampler(**changes: Any) -> TokenBatchSampler:
    options: dict[str, Any] = {"num_passes": 1, "max_tokens": 200, "window_batches": 4, "seed": 5}
    options.update(changes)
    return TokenBatchSampler(SOURCES, TARGETS, **{name: value for name, value in options.items() if value is not None})


def test_every_pair_once_within_the_budget() -> None:
    batches = list(sampler())
    assert len(batches) == len(sampler())
    assert sorted(row for batch in batches for row in batch) == list(range(400))
    sizes = [len(batch) * (SOURCES[batch].max() + TARGETS[batch].max()) for batch in batches]
    assert max(sizes) <= 200
    assert np.mean(sizes) > 140  # and the budget is used


def test_batches_of_equally_many_pairs() -> None:
    sizes = [len(batch) for batch in sampler(max_tokens=None, batch_size=32)]
    assert sorted(sizes) == [16, *[32] * 12]


def test_sorting_in_windows_saves_padding() -> None:
    cells = sum(len(b) * (SOURCES[b].max() + TARGETS[b].max()) for b in map(np.array, sampler()))
    assert sampler().padding_share() == pytest.approx(1 - (SOURCES.sum() + TARGETS.sum()) / cells)
    assert sampler(window_batches=40).padding_share() < sampler(window_batches=1).padding_share()


def test_the_seed_alone_decides() -> None:
    assert list(sampler()) == list(sampler())
    assert list(sampler()) != list(sampler(seed=6))
    assert sampler().batches_of_pass(0)[0].tolist() != sampler().batches_of_pass(1)[0].tolist()


def test_processes_share_what_one_has_alone() -> None:
    alone = list(sampler(num_passes=None, num_batches=24))
    first = list(sampler(num_passes=None, num_batches=12, num_processes=2, process_idx=0))
    second = list(sampler(num_passes=None, num_batches=12, num_processes=2, process_idx=1))
    assert [batch for pair in zip(first, second, strict=True) for batch in pair] == alone


def test_passes_are_rounded_up_to_whole_steps() -> None:
    in_one_pass = len(sampler())
    batches = sampler(num_passes=1.5, group=4, num_processes=2)
    assert len(batches) % 4 == 0
    assert 2 * len(batches) - 8 < 1.5 * in_one_pass + 1 <= 2 * len(batches) + 1
    assert len(list(batches)) == len(batches)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"max_tokens": 50}, "`training.max_tokens` must hold the longest pair.*got 50"),
        ({"batch_size": 4}, "either max_tokens or batch_size"),
        ({"num_batches": 4}, "either num_batches or num_passes"),
    ],
)
def test_wrong_arguments(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sampler(**changes)


def test_no_pairs() -> None:
    with pytest.raises(ValueError, match="There must be pairs"):
        TokenBatchSampler([], [], num_batches=1, batch_size=1)
