"""Our dropout against the definition, and against torch's where that one is taken."""

import pytest
import torch
from torch import nn

from hf_custom_decoder.models.dropout_custom_seq2seq import LEVELS, dropout


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("p", [0.001, 0.1, 1 / 3, 0.9])
def test_shares_and_scale(p: float, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    states = torch.rand(999, 1001, dtype=dtype) + 1
    dropped = dropout(states, p, training=True)
    kept = dropped != 0
    scale = LEVELS / (LEVELS - round(p * LEVELS))
    torch.testing.assert_close(dropped[kept], states[kept] * scale)
    assert scale == pytest.approx(1 / (1 - p), rel=2**-16 / (1 - p))
    deviation = (p * (1 - p) / states.numel()) ** 0.5
    assert abs((~kept).double().mean() - p) < 5 * deviation + 2**-17
    for dim in (0, 1):  # no row and no column is treated otherwise
        shares = (~kept).double().mean(dim=dim)
        assert (shares - p).abs().max() < 6 * (p * (1 - p) / states.shape[dim]) ** 0.5


def test_elements_are_independent() -> None:
    """Four of them come out of one draw."""
    torch.manual_seed(0)
    kept = dropout(torch.ones(4 * 250_000), 0.5, training=True) != 0
    for lag in (1, 2, 3, 4, 8):
        agree = (kept[lag:] == kept[:-lag]).double().mean()
        assert abs(agree - 0.5) < 5 * 0.5 / 1000


@pytest.mark.parametrize("shape", [(), (1,), (3,), (5, 7), (0, 4), (2, 3, 4)])
def test_gradients_are_those_of_the_same_mask(shape: tuple[int, ...]) -> None:
    states = torch.rand(shape, dtype=torch.float64).add(1).requires_grad_()
    torch.manual_seed(1)
    dropped = dropout(states, 0.4, training=True)
    (gradient,) = torch.autograd.grad(dropped.sum(), states)
    torch.testing.assert_close(gradient * states, dropped)
    torch.manual_seed(1)
    assert torch.equal(dropout(states, 0.4, training=True), dropped)

    def same_draws(states: torch.Tensor) -> torch.Tensor:
        torch.manual_seed(2)
        return dropout(states, 0.4, training=True)

    assert torch.autograd.gradcheck(same_draws, states)
    assert torch.autograd.gradgradcheck(same_draws, states)


def test_rows_that_do_not_lie_one_after_another() -> None:
    states = torch.rand(6, 8).add(1).t()
    dropped = dropout(states, 0.5, training=True)
    assert torch.equal(dropped[dropped != 0], (2 * states)[dropped != 0])


def test_evaluation_and_zero_change_nothing() -> None:
    states = torch.rand(3)
    assert dropout(states, 0.5, training=False) is states
    assert dropout(states, 0.0, training=True) is states


@pytest.mark.parametrize(
    ("p", "dtype"), [(1e-5, torch.float32), (0.99999, torch.float32), (1.0, torch.float32), (0.3, torch.bfloat16)]
)
def test_what_is_left_to_torch(p: float, dtype: torch.dtype) -> None:
    states = torch.rand(1000).to(dtype)
    torch.manual_seed(3)
    expected = nn.functional.dropout(states, p, True)
    torch.manual_seed(3)
    assert torch.equal(dropout(states, p, training=True), expected)


def test_function_transforms() -> None:
    states = torch.rand(5) + 1
    torch.manual_seed(0)
    gradient = torch.func.grad(lambda states: dropout(states, 0.5, training=True).sum())(states)
    assert set(gradient.tolist()) <= {0.0, 2.0}
    _, tangent = torch.func.jvp(lambda states: dropout(states, 0.5, training=True), (states,), (states,))
    assert tangent.shape == states.shape


def test_a_mask_takes_a_byte() -> None:
    kept: list[torch.Tensor] = []

    def pack(tensor: torch.Tensor) -> torch.Tensor:
        kept.append(tensor)
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        dropout(torch.rand(100, requires_grad=True), 0.5, training=True)
    assert [tensor.nbytes for tensor in kept] == [100]
