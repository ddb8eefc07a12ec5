"""Linear layers for a few rows compute what `nn.functional.linear` computes, whatever way they take."""

from contextlib import ExitStack
from typing import Any
from unittest.mock import patch

import pytest
import torch
from torch import nn
from transformers.activations import ACT2FN

from hf_custom_decoder.models import few_rows_linear_custom_seq2seq, packed_linear_custom_seq2seq
from hf_custom_decoder.models.few_rows_linear_custom_seq2seq import (
    CALLS_BEFORE_PACKING,
    CALLS_WHERE_MANY_COME,
    FEW_ROWS,
    MANY_ROWS,
    MIN_WEIGHTS_IN_PLACE,
    FewRowsLinear,
    for_few_rows,
    vocabulary_logits,
    with_activation,
)
from hf_custom_decoder.models.packed_linear_custom_seq2seq import fused_name
from tests.factories import tiny_batch, tiny_causal, tiny_seq2seq
from tests.generation.helpers import SilentStreamer

MANY = CALLS_BEFORE_PACKING["one row"] + 2


@pytest.fixture(params=[False, True], ids=["AVX-512", "AVX2"])
def is_avx2(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> bool:
    """The ways of one kind of CPU; each computes the same on both."""
    monkeypatch.setattr(few_rows_linear_custom_seq2seq, "IS_AVX2", request.param)
    return bool(request.param)


@pytest.fixture
def not_avx2(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ways of CPUs other than those with AVX2 alone."""
    monkeypatch.setattr(few_rows_linear_custom_seq2seq, "IS_AVX2", False)


def assert_equal_outputs(step: FewRowsLinear, inputs: torch.Tensor) -> None:
    """Errors are those of float32 sums in any order (Higham 2002, equation 3.5)."""
    states, weight = inputs.double(), step.weight.double()
    exact, magnitude = states @ weight.t(), states.abs() @ weight.t().abs()
    if step.bias is not None:
        exact, magnitude = exact + step.bias.double(), magnitude + step.bias.double().abs()
    found = step(inputs)
    assert found.is_contiguous()
    bound = (inputs.shape[1] + 1) * 2.0**-24 * magnitude
    assert bool(((found.double() - exact).abs() <= bound).all())


@pytest.mark.usefixtures("is_avx2")
@pytest.mark.parametrize("rows", [1, 2, 4, 5, 9])
@pytest.mark.parametrize(
    ("outputs", "inputs"), [(2048, 256), (512, 512), (1003, 256), (128, 2048), (2107, 256), (3000, 384)]
)
@pytest.mark.parametrize("bias", [True, False])
@torch.no_grad()
def test_every_way_computes_the_same(rows: int, outputs: int, inputs: int, bias: bool) -> None:
    torch.manual_seed(0)
    linear = nn.Linear(inputs, outputs, bias=bias)
    states, step = torch.randn(rows, inputs), for_few_rows(linear)
    for _ in range(MANY):
        assert_equal_outputs(step, states)
    assert_equal_outputs(step, torch.randn(inputs, rows).t())
    assert_equal_outputs(step, torch.randn(rows, 2 * inputs)[:, :inputs])


@pytest.mark.parametrize(
    ("rows", "shape", "way"),
    [
        (1, (4096, 256), "in place"),
        (1, (256, 4096), "plain"),
        (2, (2048, 1024), "in place"),
        (2, (2048, 1536), "plain"),
        (3, (512, 256), "in place"),
        (8, (512, 256), "in place"),
        (8, (512, 512), "plain"),
        (8, (4096, 256), "in place"),
        (8, (4096, 256), "in place, many to come"),
        (3, (512, 256), "in place, many to come"),
        (2, (512, 256), "in place, many to come"),
        (9, (4096, 256), "plain, tall"),
        (MANY_ROWS - 1, (256, 256), "never, plain"),
        (MANY_ROWS, (256, 256), "plain"),
        (MANY_ROWS, (512, 128), "never, in place"),
    ],
)
@pytest.mark.usefixtures("not_avx2")
@torch.no_grad()
def test_weights_are_packed_where_it_pays(rows: int, shape: tuple[int, int], way: str) -> None:
    """One row never packs, nor do two over inputs that are not wide; others do after some calls, sooner if many come."""
    expected_calls = CALLS_BEFORE_PACKING["in place"] - (way != "in place, many to come")
    step = FewRowsLinear(torch.randn(shape), None, expected_calls=expected_calls)
    inputs = torch.randn(rows, shape[1])
    never = rows == 1 or (rows == FEW_ROWS and way.startswith("in place")) or "never" in way
    calls = CALLS_WHERE_MANY_COME if "many to come" in way else CALLS_BEFORE_PACKING.get(way)
    for call in range(MANY):
        with patch.object(FewRowsLinear, "_in_place", autospec=True, side_effect=FewRowsLinear._in_place) as in_place:
            assert_equal_outputs(step, inputs)
        is_packed = not never and calls is not None and call >= calls
        assert (step.packed is not None) == is_packed
        assert in_place.called == ("in place" in way and not is_packed)


@pytest.mark.parametrize(
    ("rows", "shape", "expected_calls", "calls", "form"),
    [
        (1, (2048, 256), 0, 24, "as_columns"),
        (1, (2048, 256), 24, 3, "as_columns"),
        (1, (16400, 256), 24, 32, "as_columns"),
        (1, (16400, 256), 32, 3, "as_columns"),
        (1, (1024, 256), 1000, None, None),
        (2, (2048, 256), 0, 20, "as_convolution"),
        (2, (1024, 256), 1000, None, None),
        (3, (1024, 256), 20, 3, "as_inner_product"),
        (4, (2048, 256), 20, 3, "as_convolution"),
        (9, (2048, 256), 0, 3, "as_convolution"),
        (4, (1024, 256), 1000, None, None),
        (4, (256, 1024), 1000, None, None),
        (4, (1028, 256), 1000, None, None),
        (4, (200, 1028), 1000, None, None),
        (5, (200, 1028), 1000, None, None),
        (40, (256, 1024), 1000, None, None),
        (5, (1024, 256), 20, 3, "as_inner_product"),
        (12, (256, 256), 0, 5, "as_inner_product"),
        (2, (1024, 512), 1000, None, None),
        (4, (1024, 512), 63, 64, "as_convolution"),
        (4, (1024, 512), 64, 3, "as_convolution"),
        (3, (1024, 512), 0, 16, "as_convolution"),
        (8, (1024, 512), 15, 16, "as_convolution"),
        (8, (512, 1024), 16, 3, "as_convolution"),
    ],
)
@torch.no_grad()
def test_ways_of_avx2(
    rows: int,
    shape: tuple[int, int],
    expected_calls: int,
    calls: int | None,
    form: str | None,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(few_rows_linear_custom_seq2seq, "IS_AVX2", True)
    step, inputs = FewRowsLinear(torch.randn(shape), None, expected_calls=expected_calls), torch.randn(rows, shape[1])
    used: list[str] = []
    for name in ("as_columns", "as_convolution", "as_inner_product"):
        pack = getattr(packed_linear_custom_seq2seq, name)
        monkeypatch.setattr(
            few_rows_linear_custom_seq2seq,
            name,
            lambda *args, pack=pack, name=name: used.append(name) or pack(*args),
        )
    for call in range(66):
        assert_equal_outputs(step, inputs)
        assert used == ([] if form is None or calls is None or call < calls else [form])
    assert (step.packed is not None) == (form is not None)


@pytest.mark.usefixtures("is_avx2")
@torch.no_grad()
def test_without_the_operator_weights_stay_as_they_are() -> None:
    step, inputs = FewRowsLinear(torch.randn(512, 512), torch.randn(512)), torch.randn(9, 512)
    tall, few = FewRowsLinear(torch.randn(4096, 512), None), torch.randn(4, 512)
    with (
        patch.object(torch.ops.mkldnn, "_reorder_linear_weight", side_effect=RuntimeError) as reorder,
        patch.object(torch.ops.mkldnn, "_reorder_convolution_weight", side_effect=RuntimeError) as convolution,
    ):
        for _ in range(MANY):
            assert_equal_outputs(step, inputs)
            assert_equal_outputs(tall, few)
    is_avx2 = few_rows_linear_custom_seq2seq.IS_AVX2
    assert (reorder.call_count, convolution.call_count) == ((1, 1) if is_avx2 else (2, 0))
    assert step.packed is tall.packed is None


@pytest.mark.parametrize(
    "weight", [torch.randn(64, 32), torch.randn(2048, 256).double(), torch.randn(2048, 256).half()]
)
@torch.no_grad()
def test_small_and_other_weights_take_the_ordinary_way(weight: torch.Tensor) -> None:
    step = FewRowsLinear(weight, None)
    for rows in (1, 9):
        for _ in range(MANY):
            assert torch.equal(step(weight[:rows]), nn.functional.linear(weight[:rows], weight))
    assert (step.packed, step.blocks) == (None, None)


@pytest.mark.parametrize("shape", [(256, 256), (4096, 256), (333, 1024)])
@pytest.mark.parametrize("rows", [1, 2, 7])
@torch.no_grad()
def test_bfloat16_is_packed_for_any_number_of_rows(shape: tuple[int, int], rows: int) -> None:
    """
    Sums are in float32 in both ways; rounding their last bit may differ. Nothing is packed on a CPU whose instructions
    oneDNN finds too few.
    """
    weight, bias = torch.randn(shape).bfloat16(), torch.randn(shape[0]).bfloat16()
    step, inputs = FewRowsLinear(weight, bias), torch.randn(rows, shape[1]).bfloat16()
    for _ in range(MANY):
        outputs = step(inputs)
        expected = nn.functional.linear(inputs.float(), weight.float(), bias.float())
        bound = 2.0**-8 * expected.abs() + 2.0**-20 * (inputs.float().abs() @ weight.float().abs().t())
        assert bool(((outputs.float() - expected).abs() <= bound).all())
        assert outputs.dtype == torch.bfloat16
    assert (step.packed is not None) == torch.ops.mkldnn._is_mkldnn_bf16_supported()


@pytest.mark.parametrize(("inputs", "is_in_place"), [(767, True), (768, False), (2048, False), (2049, False)])
@pytest.mark.parametrize("bias", [False, True])
@torch.no_grad()
def test_one_long_row_with_avx2(inputs: int, is_in_place: bool, bias: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(few_rows_linear_custom_seq2seq, "IS_AVX2", True)
    step = FewRowsLinear(torch.randn(300, inputs), torch.randn(300) if bias else None)
    with patch.object(FewRowsLinear, "_in_place", autospec=True, side_effect=FewRowsLinear._in_place) as in_place:
        for _ in range(MANY):
            assert_equal_outputs(step, torch.randn(1, inputs))
    assert in_place.called == is_in_place
    assert step.packed is None


@pytest.mark.usefixtures("not_avx2")
@torch.no_grad()
def test_rows_may_become_fewer() -> None:
    """Finished rows leave a batch; the last ones are computed in place again."""
    step = FewRowsLinear(torch.randn(2100, 512), torch.randn(2100))
    with patch.object(FewRowsLinear, "_in_place", autospec=True, side_effect=FewRowsLinear._in_place) as in_place:
        for rows in (12, 12, 12, 12, 12, 7, 3, 2, 1, 1):
            assert_equal_outputs(step, torch.randn(rows, 512))
            assert in_place.called == (rows <= FEW_ROWS)
    assert step.packed is not None


@pytest.mark.parametrize("shape", [(4100, 512), (512, 512), (1100, 512), (512, 1100)])
@pytest.mark.parametrize("rows", [(12, 7, 4, 3, 2, 1), (4, 9, 1), (1, 4, 1)])
@torch.no_grad()
def test_any_number_of_rows_follows_any_other(
    rows: tuple[int, ...], shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the ways of AVX2: a copy for one row is not read for four, one for twelve rows is read for fewer."""
    monkeypatch.setattr(few_rows_linear_custom_seq2seq, "IS_AVX2", True)
    step = FewRowsLinear(torch.randn(shape), torch.randn(shape[0]))
    for num_rows in rows:
        for _ in range(MANY):
            assert_equal_outputs(step, torch.randn(num_rows, shape[1]))
    assert (step.packed is None) == (shape != (4100, 512) and rows == (1, 4, 1))


@torch.no_grad()
def test_layers_with_and_without_biases_side_by_side() -> None:
    torch.manual_seed(0)
    layers = [nn.Linear(8, 3), nn.Linear(8, 4, bias=False)]
    states = torch.randn(2, 8)
    torch.testing.assert_close(for_few_rows(*layers)(states), torch.cat([layer(states) for layer in layers], dim=1))


@pytest.mark.parametrize("name", ["gelu", "relu", "silu", "gelu_new"])
@pytest.mark.usefixtures("is_avx2")
@pytest.mark.parametrize("rows", [1, 5])
@pytest.mark.parametrize("outputs", [1024, 2048])
@torch.no_grad()
def test_activations_follow(name: str, rows: int, outputs: int) -> None:
    torch.manual_seed(0)
    activation, layer = ACT2FN[name], nn.Linear(256, outputs)
    step, inputs = with_activation(layer, activation), 3.0 * torch.randn(rows, 256)
    for _ in range(MANY):
        torch.testing.assert_close(step(inputs), activation(layer(inputs)), rtol=1e-5, atol=1e-5)
    is_tall_on_avx2 = few_rows_linear_custom_seq2seq.IS_AVX2 and outputs == 2048
    assert (step.packed is not None) == (rows > FEW_ROWS or is_tall_on_avx2)
    assert (fused_name(activation) is not None) == (name in ("gelu", "relu"))


WIDTH = 64


def is_read_in_place(lm_head: nn.Linear, states: torch.Tensor, *contexts: Any) -> bool:
    """Whether a projection went past the module; what it returned is what the module returns."""
    with ExitStack() as stack:
        for context in contexts:
            stack.enter_context(context)
        with patch.object(FewRowsLinear, "__call__", autospec=True, side_effect=FewRowsLinear.__call__) as used:
            found = vocabulary_logits(lm_head, states)
        expected = lm_head(states)
    assert found.shape == expected.shape
    assert found.dtype == expected.dtype
    torch.testing.assert_close(found, expected, rtol=0.0, atol=1e-2 if found.dtype == torch.bfloat16 else 1e-5)
    return bool(used.called)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("shape", "expected"),
    [
        ((1, 1, WIDTH), True),
        ((4, 1, WIDTH), True),
        ((2, 3, WIDTH), True),
        ((33, 1, WIDTH), False),
        ((0, 1, WIDTH), False),
    ],
)
@pytest.mark.parametrize("outputs", [MIN_WEIGHTS_IN_PLACE // WIDTH, MIN_WEIGHTS_IN_PLACE // WIDTH + 7])
def test_a_forward_reads_a_large_vocabulary_in_place(
    shape: tuple[int, ...], expected: bool, bias: bool, outputs: int
) -> None:
    torch.manual_seed(0)
    lm_head, states = nn.Linear(WIDTH, outputs, bias=bias), torch.randn(shape)
    assert is_read_in_place(lm_head, states, torch.no_grad()) == expected
    assert is_read_in_place(lm_head, states, torch.inference_mode()) == expected
    assert not is_read_in_place(lm_head, states)


def test_projections_that_are_called() -> None:
    """A small vocabulary, another dtype, autocast, and whatever somebody looks into or records."""
    outputs = MIN_WEIGHTS_IN_PLACE // WIDTH
    lm_head, states = nn.Linear(WIDTH, outputs).requires_grad_(False), torch.randn(2, 1, WIDTH)
    assert not is_read_in_place(nn.Linear(WIDTH, outputs - 1), states, torch.no_grad())
    assert not is_read_in_place(nn.Linear(WIDTH, outputs).bfloat16(), states.bfloat16(), torch.no_grad())
    assert not is_read_in_place(lm_head, states, torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16))
    with torch.no_grad():
        # One row is read in a way of its own, which five rows would not fit.
        traced = torch.jit.trace(lambda given: vocabulary_logits(lm_head, given), states[:1])
        more = torch.randn(5, 1, WIDTH)
        torch.testing.assert_close(traced(more), lm_head(more), rtol=0.0, atol=1e-5)
    lm_head.register_forward_hook(lambda module, inputs, output: -output)
    assert not is_read_in_place(lm_head, states, torch.no_grad())


@pytest.mark.parametrize("build", [tiny_seq2seq, tiny_causal])
def test_searches_of_transformers_read_in_place(build: Any) -> None:
    """`generate()` with a streamer takes transformers' own loop, which calls the model for every token."""
    model, ids = build(), tiny_batch()["input_ids"][:1]
    expected = model.generate(ids, max_new_tokens=5, min_new_tokens=5, streamer=SilentStreamer())
    with (
        patch.object(few_rows_linear_custom_seq2seq, "MIN_WEIGHTS_IN_PLACE", 0),
        patch.object(FewRowsLinear, "__call__", autospec=True, side_effect=FewRowsLinear.__call__) as used,
    ):
        found = model.generate(ids, max_new_tokens=5, min_new_tokens=5, streamer=SilentStreamer())
    assert used.call_count == 5
    assert torch.equal(found, expected)
