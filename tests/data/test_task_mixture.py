"""Mixed tasks: rates, how often rows come, noise that depends on seed, draw and row alone, lengths that hold."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from hf_custom_decoder.data.noise_tokens import NoiseTokens, find_noise_tokens, sentinel_names
from hf_custom_decoder.data.task_mixture import NoisyTask, SupervisedTask, TaskMixture, mixing_rates
from hf_custom_decoder.data.token_batches import TokenBatchSampler
from hf_custom_decoder.data.tokenizer_training import train_tokenizer
from hf_custom_decoder.training.pretraining_options import OBJECTIVES, TaskOptions

datasets = pytest.importorskip("datasets")

TOKENS = NoiseTokens((), (2,), 4, tuple(range(5, 60)), frozenset({9}))
LENGTHS = np.random.default_rng(1).integers(2, 40, size=50).tolist()


def noisy(objective: str, name: str = "spans/train", seed: int = 7, **options: Any) -> NoisyTask:
    rows = [{"ids": list(range(100, 100 + length)), "length": length} for length in LENGTHS]
    windows = datasets.Dataset.from_list(rows)
    return NoisyTask(name, TaskOptions(objective=objective, **options), windows, TOKENS, [90, 91], seed)


def supervised(num_pairs: int) -> SupervisedTask:
    row = {"input_ids": [70, 2], "labels": [71, 72, 2], "source_length": 2, "target_length": 3}
    return SupervisedTask(datasets.Dataset.from_list([row] * num_pairs))


def test_rates_of_the_paper() -> None:
    sizes = [1000, 100, 10]
    free: list[float | None] = [None] * 3
    assert mixing_rates(sizes, weights=free, temperature=1.0, most_examples=None) == pytest.approx(
        [1000 / 1110, 100 / 1110, 10 / 1110]
    )
    assert mixing_rates(sizes, weights=free, temperature=1.0, most_examples=100) == pytest.approx(
        [100 / 210, 100 / 210, 10 / 210]
    )
    root = np.sqrt([1000, 100, 10])
    assert mixing_rates(sizes, weights=free, temperature=2.0, most_examples=None) == pytest.approx(root / root.sum())
    assert mixing_rates(sizes, weights=[1.0, 1.0, 2.0], temperature=1.0, most_examples=5) == [0.25, 0.25, 0.5]
    with pytest.raises(ValueError, match="all tasks must have `weight` or none, got it for 1 of 3"):
        mixing_rates(sizes, weights=[1.0, None, None], temperature=1.0, most_examples=None)


def test_rows_come_equally_often_and_tasks_by_their_rates() -> None:
    mixture = TaskMixture([noisy("causal_lm"), supervised(10)], [0.25, 0.75], seed=3)
    generator = np.random.default_rng(0)
    slots = np.concatenate([mixture.slots_of_pass(idx, generator) for idx in range(8)])
    assert len(np.unique(slots)) == len(slots)  # no draw of a row comes twice
    assert len(slots) == 8 * 60
    rows = Counter((slots % 60).tolist())
    assert sum(rows[row] for row in range(50)) == 120
    assert {rows[row] for row in range(50)} == {2, 3}
    assert {rows[row] for row in range(50, 60)} == {36}
    assert mixture[55]["labels"] == [71, 72, 2]
    assert mixture[3]["labels"] == [*range(100, 100 + LENGTHS[3]), 2]


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "supervised"])
def test_noise_depends_on_seed_task_draw_and_row_alone(objective: str) -> None:
    task, again = noisy(objective, corruption_rate=0.5), noisy(objective, corruption_rate=0.5)
    first = [task.pair(row, 0) for row in range(50)]
    assert [again.pair(row, 0) for row in reversed(range(50))] == first[::-1]
    if objective == "sentence_permutation":
        return  # these windows are one sentence each
    for other in (
        [task.pair(row, 1) for row in range(50)],
        [noisy(objective, seed=8, corruption_rate=0.5).pair(row, 0) for row in range(50)],
        [noisy(objective, "other/train", corruption_rate=0.5).pair(row, 0) for row in range(50)],
    ):
        assert (other == first) == (objective == "causal_lm")


@pytest.mark.parametrize("objective", [name for name in OBJECTIVES if name != "supervised"])
def test_sources_have_prefix_and_end_and_lengths_hold(objective: str) -> None:
    task = noisy(objective, permute_sentences=objective == "text_infilling")
    mixture = TaskMixture([task], [1.0], seed=3)
    for slot in range(5 * 50):
        pair = mixture[slot]
        assert pair["input_ids"][:2] == [90, 91]
        assert (pair["input_ids"][-1], pair["labels"][-1]) == (2, 2)
        assert len(pair["input_ids"]) <= task.source_lengths[slot % 50]
        assert len(pair["labels"]) <= task.target_lengths[slot % 50]
    if objective == "causal_lm":
        assert mixture[0]["input_ids"] == [90, 91, 2]
    else:
        assert len(mixture[0]["input_ids"]) > 3
    if objective == "span_corruption":
        assert all(len(mixture[row]["labels"]) == task.target_lengths[row] for row in range(50))


def test_batches_of_a_mixture_keep_the_budget_and_can_be_entered_anywhere() -> None:
    mixture = TaskMixture([noisy("text_infilling"), supervised(10)], [0.5, 0.5], seed=3)

    def batches(process_idx: int = 0, num_processes: int = 1) -> list[list[int]]:
        sampler = TokenBatchSampler(
            mixture.source_lengths,
            mixture.target_lengths,
            num_batches=24 // num_processes,
            max_tokens=300,
            seed=5,
            slots_of_pass=mixture.slots_of_pass,
            process_idx=process_idx,
            num_processes=num_processes,
        )
        assert 0 < sampler.padding_share() < 1
        return list(sampler)

    whole = batches()
    sizes = mixture.source_lengths + mixture.target_lengths
    spread = [max(sizes[slot % 60] for slot in batch) - min(sizes[slot % 60] for slot in batch) for batch in whole]
    assert np.mean(spread) < 0.5 * (sizes.max() - sizes.min())  # sorted by length, also where draws differ
    for batch in whole:
        pairs = [mixture[slot] for slot in batch]
        longest = [max(len(pair[name]) for pair in pairs) for name in ("input_ids", "labels")]
        assert len(batch) * sum(longest) <= 300
    assert batches(0, 2) == whole[::2]
    assert batches(1, 2) == whole[1::2]
    assert max(slot for batch in whole for slot in batch) > 60  # a second draw of some rows


def test_noise_tokens_of_a_trained_tokenizer() -> None:
    tokenizer = train_tokenizer(
        ["a cat. a dog! b"] * 3,
        kind="bpe",
        vocab_size=40,
        max_length=9,
        extra_tokens=["<mask>", *sentinel_names(3)],
    )
    assert tokenizer.mask_token_id == 4
    assert tokenizer.convert_tokens_to_ids(sentinel_names(3)) == [5, 6, 7]
    tokens = find_noise_tokens(tokenizer, "of a test", needs_mask=True, num_sentinels=3)
    assert (tokens.before, tokens.after) == ((), (2,))
    assert tokens.sentinel_ids == (5, 6, 7)
    assert tokens.last_ids == {2, *tokenizer.convert_tokens_to_ids([".", "!"])}
    hidden = [*tokenizer("a cat")["input_ids"][:-1], 4, 5, 2]
    assert tokenizer.decode(hidden, skip_special_tokens=True) == "a cat"
    with pytest.raises(ValueError, match="must have 4 sentinels for span_corruption, found no <extra_id_3>"):
        find_noise_tokens(tokenizer, "of a test", needs_mask=True, num_sentinels=4)
    plain = train_tokenizer(["a b"], kind="word", vocab_size=9, max_length=9, min_frequency=1)
    with pytest.raises(ValueError, match="must have a mask_token for text_infilling, found none"):
        find_noise_tokens(plain, "of a test", needs_mask=True, num_sentinels=0)
