"""Streams of pre-training: the pairs of tasks that are held, an order with bounds, shares, and memory that stays."""

import itertools
import tracemalloc
from collections import Counter
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest

from hf_custom_decoder.data.endless_stream import EndlessStream
from hf_custom_decoder.data.streamed_tasks import (
    StreamedMixture,
    StreamedNoisyTask,
    StreamedSupervisedTask,
    shuffled,
)
from hf_custom_decoder.data.task_mixture import NoisyTask
from hf_custom_decoder.data.text_windows import cut_windows
from hf_custom_decoder.training.pretraining_options import TaskOptions
from tests.data.test_task_mixture import LENGTHS, TOKENS

datasets = pytest.importorskip("datasets")

OPTIONS = TaskOptions(objective="span_corruption", corruption_rate=0.4)
ROWS = [{"ids": list(range(100 + row, 100 + row + length)), "length": length} for row, length in enumerate(LENGTHS)]


def generator(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def streamed(shuffle_rows: int, rows: list[Any] = ROWS) -> StreamedNoisyTask:
    windows = datasets.Dataset.from_list(rows).to_iterable_dataset()
    return StreamedNoisyTask("spans/train", OPTIONS, windows, TOKENS, [90], 7, shuffle_rows)


def pairs(count: int) -> StreamedSupervisedTask:
    rows = [{"input_ids": [70, row, 2], "labels": [71, row, 2]} for row in range(count)]
    return StreamedSupervisedTask(datasets.Dataset.from_list(rows).to_iterable_dataset(), 4)


def test_a_stream_gives_the_pairs_of_a_task_that_is_held() -> None:
    held = NoisyTask("spans/train", OPTIONS, datasets.Dataset.from_list(ROWS), TOKENS, [90], 7)
    mixture = StreamedMixture({"spans": streamed(1)}, [1.0], seed=7)
    found = list(itertools.islice(mixture, 3 * len(ROWS)))
    assert found == [held.pair(row, draw) for draw in range(3) for row in range(len(ROWS))]
    assert found[: len(ROWS)] != found[len(ROWS) : 2 * len(ROWS)]  # noise of its own in every pass


def test_a_shuffled_stream_gives_them_in_another_order_each_pass() -> None:
    held = NoisyTask("spans/train", OPTIONS, datasets.Dataset.from_list(ROWS), TOKENS, [90], 7)
    found = list(itertools.islice(StreamedMixture({"spans": streamed(20)}, [1.0], seed=7), 2 * len(ROWS)))
    rows_of = {str(held.pair(row, draw)): row for draw in range(2) for row in range(len(ROWS))}
    orders = [[rows_of[str(pair)] for pair in found[start : start + len(ROWS)]] for start in (0, len(ROWS))]
    assert [sorted(order) for order in orders] == [list(range(len(ROWS)))] * 2
    assert orders[0] != orders[1]
    assert list(itertools.islice(StreamedMixture({"spans": streamed(20)}, [1.0], seed=7), 2 * len(ROWS))) == found


def test_an_item_comes_among_the_next_that_are_held() -> None:
    order = list(shuffled(iter(range(300)), 20, generator()))
    assert sorted(order) == list(range(300))
    assert all(item <= place + 19 for place, item in enumerate(order))
    assert max(item - place for place, item in enumerate(order)) == 19
    assert list(shuffled(iter(range(300)), 20, generator())) == order
    assert list(shuffled(iter(range(300)), 20, generator(1))) != order
    assert list(shuffled(iter(range(300)), 1, generator())) == list(range(300))
    read: list[int] = []
    next(shuffled((read.append(item) or item for item in range(300)), 20, generator()))  # type: ignore[func-returns-value]
    assert len(read) == 20


def test_tasks_have_their_shares_at_any_time() -> None:
    mixture = StreamedMixture({"few": pairs(3), "many": pairs(50), "spans": streamed(5)}, [0.5, 0.3, 0.2], seed=1)
    sides = [pair["input_ids"][0] for pair in itertools.islice(mixture, 400)]
    for length in (10, 57, 400):
        counts = Counter(sides[:length])
        assert abs(counts[70] - 0.8 * length) <= 2
        assert abs(counts[90] - 0.2 * length) <= 2


def test_a_stream_without_end_is_shuffled_anew_in_every_pass() -> None:
    rows = datasets.Dataset.from_list([{"row": row} for row in range(30)]).to_iterable_dataset()
    stream = EndlessStream(rows.shuffle(seed=3, buffer_size=10))
    first = [row["row"] for row in itertools.islice(stream, 75)]
    assert [sorted(first[start : start + 30]) for start in (0, 30)] == [list(range(30))] * 2
    assert first[:30] != first[30:60]
    assert [row["row"] for row in itertools.islice(stream, 75)] == first


def test_an_empty_stream_is_refused() -> None:
    empty = datasets.Dataset.from_list(ROWS).to_iterable_dataset().filter(lambda row: False)
    with pytest.raises(ValueError, match=r"`tasks\.pairs` must lead to examples"):
        next(iter(StreamedMixture({"pairs": StreamedSupervisedTask(empty, 4)}, [1.0], seed=1)))
    with pytest.raises(ValueError, match=r"`data\.train` must lead to pairs that are short enough"):
        next(iter(EndlessStream(empty)))


class Letters:
    """A tokenizer whose tokens are letters."""

    eos_token_id = 2

    def __call__(self, texts: list[str], **options: Any) -> dict[str, list[list[int]]]:
        return {"input_ids": [[*text.encode()] for text in texts]}


def windows_of(num_texts: int, *, streaming: bool, join_documents: bool = False) -> Any:
    def texts() -> Iterator[dict[str, str]]:
        for number in range(num_texts):
            yield {"text": f"{number} " * (1 + number % 5)}

    rows = datasets.IterableDataset.from_generator(texts) if streaming else datasets.Dataset.from_list(list(texts()))
    tokenizer: Any = Letters()
    return cut_windows(rows, tokenizer, window=8, join_documents=join_documents, split="train", streaming=streaming)


@pytest.mark.parametrize("join_documents", [False, True])
def test_streamed_windows_are_those_of_held_text(join_documents: bool) -> None:
    held, stream = (windows_of(1500, streaming=kind, join_documents=join_documents) for kind in (False, True))
    assert [row["ids"] for row in stream] == list(held["ids"])


def test_memory_does_not_grow_with_the_corpus() -> None:
    def peak(num_texts: int) -> int:
        options = TaskOptions(objective="causal_lm")
        windows = windows_of(num_texts, streaming=True)
        task = StreamedNoisyTask("all/train", options, windows, TOKENS, [], 7, 100)
        tracemalloc.start()
        count = sum(1 for _ in task.pairs(0, generator()))
        found = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert count > num_texts
        return found

    peak(1000)  # what is imported at the first call
    assert peak(6000) < 1.2 * peak(2000)  # two blocks of a thousand texts are held in both
