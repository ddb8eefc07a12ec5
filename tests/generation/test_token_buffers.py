"""Buffers of keys and values hold what a plain list of tokens would."""

from types import SimpleNamespace
from unittest.mock import patch

import pytest
import torch

from hf_custom_decoder.models import decoding_step_transformer_decoder
from hf_custom_decoder.models.decoding_step_transformer_decoder import BLOCK, TokenBuffers

LAYERS, ROWS, HEADS, HEAD_DIM, PREFIX = 3, 4, 2, 5, 6


def cache_layers(*, seen: int = PREFIX) -> list[SimpleNamespace]:
    torch.manual_seed(0)
    shape = (ROWS, HEADS, seen, HEAD_DIM)
    return [SimpleNamespace(keys=torch.randn(shape), values=torch.randn(shape)) for _ in range(LAYERS)]


def tokens_of(layer: SimpleNamespace) -> torch.Tensor:
    """`(P, 2, R, width)`."""
    return torch.stack([layer.keys, layer.values]).permute(3, 0, 1, 2, 4).flatten(3)


@pytest.mark.parametrize("at_once", [0, 10**9])
def test_tokens_are_added_and_moved(at_once: int) -> None:
    """Past the first growth, with rows that share beginnings, and fewer rows at the end."""
    layers = cache_layers()
    expected = [tokens_of(layer) for layer in layers]
    buffers = TokenBuffers(layers, PREFIX)
    moves = {9: [1, 1, 3, 0], 20: [0, 0, 0, 3], BLOCK + 20: [2, 0, 1, 1], BLOCK + 30: [3, 0]}
    with patch.object(decoding_step_transformer_decoder, "MOVED_AT_ONCE", at_once):
        for step in range(BLOCK + 40):
            buffers.append()
            for place in range(LAYERS):
                new = torch.randn(1, 2, expected[place].shape[2], HEADS * HEAD_DIM)
                buffers.filled(place)[-1] = new[0]
                expected[place] = torch.cat([expected[place], new])
            if step in moves:
                rows = torch.tensor(moves[step])
                buffers.select(rows)
                expected = [one.index_select(2, rows) for one in expected]
            for place in range(LAYERS):
                assert torch.equal(buffers.filled(place), expected[place])


def test_what_rows_share_stays_where_it_is() -> None:
    buffers = TokenBuffers(cache_layers(), PREFIX)
    before = buffers.buffer.clone()
    buffers.select(torch.tensor([1, 0, 3, 2]), start=4)
    assert torch.equal(buffers.buffer[:, :4], before[:, :4])
    assert torch.equal(buffers.filled(1)[4:], before[1, 4:PREFIX].index_select(2, torch.tensor([1, 0, 3, 2])))


def test_zeros_stand_for_what_a_sliding_layer_has_let_go_of() -> None:
    layers = cache_layers(seen=2)
    buffers = TokenBuffers(layers, PREFIX)
    for place, layer in enumerate(layers):
        assert not buffers.filled(place)[: PREFIX - 2].any()
        assert torch.equal(buffers.filled(place)[PREFIX - 2 :], tokens_of(layer))
