"""Large transposed copies of weights leave their memory, and nothing else, to the next copy."""

import weakref

import pytest
import torch
from torch import nn

from hf_custom_decoder.models import few_rows_linear_custom_seq2seq, packed_linear_custom_seq2seq
from hf_custom_decoder.models.few_rows_linear_custom_seq2seq import FewRowsLinear
from hf_custom_decoder.models.packed_linear_custom_seq2seq import Product, as_columns, has_memory_at_hand
from tests.factories import tiny_batch
from tests.generation.both_loops import both, large_seq2seq, source_of, train_a_step


@pytest.fixture(autouse=True)
def small_is_large(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear_custom_seq2seq, "LARGE_FOR_ONE_ROW", 2**16)
    monkeypatch.setattr(few_rows_linear_custom_seq2seq, "LARGE_FOR_ONE_ROW", 2**16)
    monkeypatch.setattr(few_rows_linear_custom_seq2seq, "IS_AVX2", True)


def assert_multiplies(product: Product, weight: torch.Tensor, bias: torch.Tensor | None = None) -> None:
    inputs = torch.randn(1, weight.shape[1])
    expected = nn.functional.linear(inputs.double(), weight.double(), None if bias is None else bias.double())
    torch.testing.assert_close(product(inputs).double(), expected, rtol=1e-4, atol=1e-4)


def memory_of(weight: torch.Tensor) -> int:
    return packed_linear_custom_seq2seq._memory_at_hand[weight].data_ptr()


@torch.no_grad()
@pytest.mark.parametrize("modes", [(True, True), (True, False), (False, True), (False, False)])
@pytest.mark.parametrize("has_bias", [False, True])
def test_the_next_copy_takes_it(has_bias: bool, modes: tuple[bool, bool]) -> None:
    weight, bias = nn.Parameter(torch.randn(2048, 256)), torch.randn(2048) if has_bias else None
    with torch.inference_mode(modes[0]):
        product = as_columns(weight, bias, None)
        assert_multiplies(product, weight, bias)
    assert not has_memory_at_hand(weight)
    del product
    assert has_memory_at_hand(weight)
    first = memory_of(weight)
    weight.normal_()
    with torch.inference_mode(modes[1]):
        product = as_columns(weight, bias, None)
        assert not has_memory_at_hand(weight)
        assert_multiplies(product, weight, bias)
    del product
    assert memory_of(weight) == first


@torch.no_grad()
def test_copies_at_the_same_time_have_their_own() -> None:
    weight = nn.Parameter(torch.randn(2048, 256))
    products = [as_columns(weight, None, None) for _ in range(3)]
    before = weight.clone()
    del products[0]
    weight.normal_()
    latest = as_columns(weight, None, None)  # where the first one was
    for product in products:
        assert_multiplies(product, before)
    assert_multiplies(latest, weight)
    del products, product
    assert_multiplies(latest, weight)


@torch.no_grad()
def test_it_goes_with_the_weights() -> None:
    weight = nn.Parameter(torch.randn(2048, 256))
    as_columns(weight, None, None)
    memory = weakref.ref(packed_linear_custom_seq2seq._memory_at_hand[weight])
    assert memory() is not None
    del weight
    assert memory() is None


@torch.no_grad()
def test_weights_of_another_shape() -> None:
    weight = nn.Parameter(torch.randn(2048, 256))
    as_columns(weight, None, None)
    weight.data = torch.randn(4096, 128)
    product = as_columns(weight, None, None)
    assert_multiplies(product, weight)


@torch.no_grad()
@pytest.mark.parametrize("rule", [("LARGE_FOR_ONE_ROW", 2**19), ("MAX_KEPT_WEIGHTS", 2**18)])
def test_too_small_and_too_large_ones_are_not_kept(rule: tuple[str, int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(packed_linear_custom_seq2seq, *rule)
    weight = nn.Parameter(torch.randn(2048, 256))
    as_columns(weight, None, None)
    assert not has_memory_at_hand(weight)


@torch.no_grad()
@pytest.mark.parametrize(("expected_calls", "first", "then"), [(8, 32, 16), (16, 32, 3), (32, 3, 3)])
def test_weights_are_copied_earlier_then(expected_calls: int, first: int, then: int) -> None:
    weight = nn.Parameter(torch.randn(2048, 256))
    for calls in (first, then, then):
        step = FewRowsLinear(weight, None, expected_calls=expected_calls)
        for call in range(calls + 2):
            assert_multiplies(step, weight)
            assert (step.packed is not None) == (call >= calls)


def test_searches_read_the_weights_of_now() -> None:
    """A fused optimizer changes weights without a trace, so what stands in the memory may not be taken for a copy."""
    model = large_seq2seq()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1, fused=True)
    batch = {name: values[:1] for name, values in tiny_batch().items()}
    written: list[torch.Tensor] = []
    for _ in range(3):
        found, expected = both(model, **source_of(batch), max_length=40, eos_token_id=None)
        assert has_memory_at_hand(model.get_output_embeddings().weight)
        assert torch.equal(found, expected)
        written.append(found)
        train_a_step(model, optimizer, batch)
    assert not torch.equal(written[0], written[1])
