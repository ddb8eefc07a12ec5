"""Objectives as properties: nothing of the text is lost, rates and lengths are as asked for, equal seeds give equal noise."""

from collections import Counter

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hf_custom_decoder.data.noise import (
    corrupt_spans,
    infill,
    infilling_extra,
    permute_sentences,
    span_counts,
    split_prefix,
)

MASK = 4
SENTINELS = range(5, 100)
TEXT = range(1000, 5000)

lengths = st.integers(2, 120)
rates = st.sampled_from([0.15, 0.3, 0.5, 0.9])
means = st.sampled_from([1.0, 2.0, 3.0, 8.0])
seeds = st.integers(0, 2**32 - 1)
quick = settings(deadline=None, max_examples=60)


def window(length: int) -> list[int]:
    """Tokens that are all different, so that a lost, doubled or moved one is seen."""
    return list(TEXT[:length])


def spans_of(target: list[int]) -> tuple[list[int], list[list[int]]]:
    """The sentinels of a target, and what follows each."""
    sentinels: list[int] = []
    spans: list[list[int]] = []
    for idx in target:
        if idx in SENTINELS:
            sentinels.append(idx)
            spans.append([])
        else:
            spans[-1].append(idx)
    return sentinels, spans


@quick
@given(lengths, rates, means, seeds)
def test_source_and_target_of_span_corruption_give_the_text_back(
    length: int, rate: float, mean: float, seed: int
) -> None:
    ids = window(length)
    source, target = corrupt_spans(
        ids, np.random.default_rng(seed), rate=rate, mean_length=mean, sentinel_ids=SENTINELS
    )
    sentinels, spans = spans_of(target)
    assert sentinels == list(SENTINELS[: len(sentinels)])  # in order, each once
    assert [idx for idx in source if idx in SENTINELS] == sentinels[:-1]  # and one more closes the target
    assert spans[-1] == []
    assert all(spans[:-1])
    hidden = dict(zip(sentinels, spans, strict=True))
    assert [idx for place in source for idx in hidden.get(place, [place])] == ids
    num_hidden, num_spans = span_counts(length, rate, mean)
    assert (len(source), len(target)) == (length - num_hidden + num_spans, num_hidden + num_spans + 1)
    assert all(not (left in SENTINELS and right in SENTINELS) for left, right in zip(source, source[1:], strict=False))


def test_span_corruption_counts_as_the_paper_does() -> None:
    assert span_counts(512, 0.15, 3.0) == (77, 26)
    assert span_counts(2, 0.15, 3.0) == (1, 1)
    assert span_counts(10, 0.9, 1.0) == (9, 2)  # one kept token lies between two spans at most


@pytest.mark.parametrize(("rate", "mean"), [(0.15, 3.0), (0.5, 2.0)])
def test_every_place_is_hidden_equally_often_away_from_the_ends(rate: float, mean: float) -> None:
    ids, count, drawn = window(60), Counter[int](), 4000
    num_hidden, num_spans = span_counts(60, rate, mean)
    for seed in range(drawn):
        _, target = corrupt_spans(
            ids, np.random.default_rng(seed), rate=rate, mean_length=mean, sentinel_ids=SENTINELS
        )
        count.update(idx for idx in target if idx not in SENTINELS)
    assert sum(count.values()) == drawn * num_hidden
    shares = np.array([count[idx] for idx in ids]) / drawn
    # Unlike in T5's code, both ends are hidden sometimes and kept sometimes; five standard errors in the middle.
    assert 0.0 < shares.min()
    assert shares.max() < 1.0
    assert shares[::-1] == pytest.approx(shares, abs=5 * (0.5 / drawn) ** 0.5)
    middle = shares[15:45]
    assert middle == pytest.approx(np.full(30, middle.mean()), abs=5 * (0.25 / drawn) ** 0.5)


@quick
@given(lengths, rates, means, seeds)
def test_infilling_keeps_the_order_of_what_stays(length: int, rate: float, mean: float, seed: int) -> None:
    ids = window(length)
    source = infill(ids, np.random.default_rng(seed), rate=rate, mean_length=mean, mask_id=MASK)
    kept = [idx for idx in source if idx != MASK]
    assert kept == sorted(kept)
    assert set(kept) <= set(ids)
    assert length - len(kept) == min(max(round(length * rate), 1), length)
    assert MASK in source
    assert len(source) <= length + infilling_extra(length, rate)


def test_infilling_draws_lengths_from_a_poisson() -> None:
    """Over long windows, where cutting the last span hardly counts: mean length, and the share of empty spans."""
    hidden = spans = 0
    empty = 0
    for seed in range(40):
        ids = window(4000)
        source = infill(ids, np.random.default_rng(seed), rate=0.3, mean_length=3.0, mask_id=MASK)
        places = [-1, *(idx - TEXT[0] if idx != MASK else None for idx in source), 4000]
        spans += source.count(MASK)
        hidden += 4000 - (len(source) - source.count(MASK))
        # A mask between two kept neighbours hides what lies between them, alone if no mask stands beside it.
        for left, mask, right in zip(places, places[1:], places[2:], strict=False):
            empty += mask is None and left is not None and right is not None and right - left == 1
    assert hidden == 40 * 1200
    assert hidden / spans == pytest.approx(3.0, abs=5 * (3.0 / spans) ** 0.5)
    alone = (2800 / (2800 + spans / 40)) ** 2  # both neighbours are kept tokens
    assert empty / spans == pytest.approx(np.exp(-3.0) * alone, abs=5 * (0.05 / spans) ** 0.5)


def test_masks_stand_anywhere() -> None:
    first = last = 0
    for seed in range(500):
        source = infill(window(10), np.random.default_rng(seed), rate=0.3, mean_length=3.0, mask_id=MASK)
        first, last = first + (source[0] == MASK), last + (source[-1] == MASK)
    assert first / 500 == pytest.approx(last / 500, abs=0.1)
    assert 0.05 < first / 500 < 0.4


@quick
@given(st.lists(st.integers(1, 6), min_size=1, max_size=6), seeds)
def test_sentences_stay_whole(sizes: list[int], seed: int) -> None:
    stop, ids, start = 9, [], 0
    sentences = set()
    for size in sizes:
        sentence = (*TEXT[start : start + size], stop)
        sentences.add(sentence)
        ids, start = [*ids, *sentence], start + size
    permuted = permute_sentences(ids, np.random.default_rng(seed), last_ids=frozenset({stop}))
    parts: list[list[int]] = [[]]
    for idx in permuted:
        parts[-1].append(idx)
        if idx == stop:
            parts.append([])
    assert parts.pop() == []
    assert len(parts) == len(sizes)
    assert {tuple(part) for part in parts} == sentences


def test_all_orders_of_sentences_come() -> None:
    ids = [1000, 9, 1001, 9, 1002]  # the last one is not closed
    orders = Counter(
        tuple(permute_sentences(ids, np.random.default_rng(seed), last_ids=frozenset({9}))) for seed in range(600)
    )
    assert len(orders) == 6
    assert min(orders.values()) > 60


@quick
@given(lengths, seeds)
def test_prefixes_and_their_rest_are_the_text(length: int, seed: int) -> None:
    first, rest = split_prefix(window(length), np.random.default_rng(seed))
    assert first + rest == window(length)
    assert first
    assert rest


def test_prefixes_end_anywhere() -> None:
    places = Counter(len(split_prefix(window(5), np.random.default_rng(seed))[0]) for seed in range(800))
    assert set(places) == {1, 2, 3, 4}
    assert min(places.values()) > 150
