"""The best of many scores are those that torch finds, ties, infinities and what is not a number included."""

from collections.abc import Iterator
from unittest.mock import patch

import pytest
import torch

from hf_custom_decoder.models import search_rules_custom_seq2seq
from hf_custom_decoder.models.search_rules_custom_seq2seq import BLOCK, best_place, best_scores

WIDTHS = [200, 2 * BLOCK, 30 * BLOCK, 30 * BLOCK + 1, 50_265, 128_000]


def scores_of(kind: str, rows: int, width: int) -> torch.Tensor:
    torch.manual_seed(width)
    scores = torch.randn(rows, width)
    if kind == "ties":
        scores = (3 * scores).round()
    elif kind == "few possible":
        scores[:, 5:] = -float("inf")
    elif kind == "nothing possible":
        scores[:] = -float("inf")
    elif kind == "not a number":
        scores[:, [7, width - 1]] = float("nan")
    elif kind == "the last":
        scores[:, -9:] = torch.arange(9.0) + 10
    return scores


@pytest.fixture(autouse=True)
def always_by_blocks() -> Iterator[None]:
    with patch.object(search_rules_custom_seq2seq, "MANY_SCORES", 0):
        yield


@pytest.mark.parametrize("kind", ["plain", "ties", "few possible", "nothing possible", "not a number", "the last"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("rows", [1, 3])
def test_the_best_place(kind: str, width: int, rows: int) -> None:
    scores = scores_of(kind, rows, width)
    assert torch.equal(best_place(scores), torch.argmax(scores, dim=1))


@pytest.mark.parametrize("kind", ["plain", "ties", "few possible", "nothing possible", "not a number", "the last"])
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("count", [1, 2, 8, 20])
@pytest.mark.parametrize("rows", [1, 3])
def test_the_best_scores(kind: str, width: int, count: int, rows: int) -> None:
    scores = scores_of(kind, rows, width)
    values, places, numbers = best_scores(scores, count)
    expected_values, expected_places = torch.topk(scores, count)
    assert places == expected_places.tolist()
    falls = bool((expected_values[:, :-1] > expected_values[:, 1:]).all())
    assert (numbers is not None) == falls
    if numbers is not None:
        assert torch.equal(torch.tensor(numbers).nan_to_num(), expected_values.nan_to_num())
    assert torch.equal(values.nan_to_num(), expected_values.nan_to_num())


def test_plain_scores_are_looked_for_by_blocks() -> None:
    """Where no two of the best are equal, torch never sees all of a row."""
    scores, widths = scores_of("plain", 2, 50_265), []
    plain = torch.topk

    def watch(scores: torch.Tensor, count: int) -> object:
        widths.append(scores.shape[1])
        return plain(scores, count)

    with patch.object(torch, "topk", watch):
        best_scores(scores, 8)
    assert widths == [50_265 // BLOCK, 9 * BLOCK + 50_265 % BLOCK]
