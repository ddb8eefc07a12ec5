"""Divergences and their written-out gradients against torch.nn.functional and autograd."""

from collections.abc import Callable

import pytest
import torch
from torch.nn.functional import kl_div

from hf_custom_decoder.training import divergences
from hf_custom_decoder.training.divergences import symmetric_divergence, teacher_divergence

VOCAB_SIZE = 11
TEMPERATURE = 2.5
LENGTHS = [0, 1, 7, 23]


def symmetric_plainly(logits: torch.Tensor) -> torch.Tensor:
    one, two = logits.log_softmax(-1).tensor_split(2)
    both: torch.Tensor = kl_div(one, two, reduction="sum", log_target=True)
    return (both + kl_div(two, one, reduction="sum", log_target=True)) / 2


def teacher_plainly(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    known = (teacher / TEMPERATURE).log_softmax(-1).repeat(2, 1)
    guessed = (student / TEMPERATURE).log_softmax(-1)
    return TEMPERATURE**2 * kl_div(guessed, known, reduction="sum", log_target=True)


def random_logits(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return (3 * torch.randn(*shape, dtype=torch.float64)).to(dtype).requires_grad_()


def value_and_gradient(function: Callable[[torch.Tensor], torch.Tensor], logits: torch.Tensor) -> list[torch.Tensor]:
    value = function(logits)
    (gradient,) = torch.autograd.grad(0.7 * value, logits)
    return [value.detach(), gradient]


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several chunks, the last one shorter."""
    monkeypatch.setitem(divergences.CHUNK_LOGITS, "cpu", 4 * VOCAB_SIZE)


@pytest.mark.parametrize("length", LENGTHS)
def test_the_symmetric_one_is_that_of_torch(length: int) -> None:
    logits = random_logits(2 * length, VOCAB_SIZE)
    found, expected = (value_and_gradient(one, logits) for one in (symmetric_divergence, symmetric_plainly))
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("length", LENGTHS)
def test_that_to_a_teacher_is_that_of_torch(length: int) -> None:
    logits, teacher = random_logits(2 * length, VOCAB_SIZE), random_logits(length, VOCAB_SIZE)
    found = value_and_gradient(lambda student: teacher_divergence(student, teacher, TEMPERATURE), logits)
    expected = value_and_gradient(lambda student: teacher_plainly(student, teacher.detach()), logits)
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float32])
def test_low_precision_is_computed_in_float32(dtype: torch.dtype) -> None:
    logits = random_logits(2 * 7, VOCAB_SIZE, dtype=dtype)
    value, gradient = value_and_gradient(symmetric_divergence, logits)
    assert (value.dtype, gradient.dtype) == (torch.float32, dtype)
    exact = value_and_gradient(symmetric_plainly, logits.detach().double().requires_grad_())
    torch.testing.assert_close(value.double(), exact[0], rtol=1e-5, atol=1e-5)
    precision = torch.finfo(dtype).eps
    torch.testing.assert_close(gradient.double(), exact[1], rtol=2 * precision, atol=2 * precision)


def test_logits_are_left_as_they_were() -> None:
    logits, teacher = random_logits(14, VOCAB_SIZE), random_logits(7, VOCAB_SIZE)
    before = [logits.clone(), teacher.clone()]
    value_and_gradient(symmetric_divergence, logits)
    value_and_gradient(lambda student: teacher_divergence(student, teacher, 1.0), logits)
    assert torch.equal(logits, before[0])
    assert torch.equal(teacher, before[1])
    assert teacher.grad is None


@pytest.mark.parametrize("rows", [14, 60])
def test_nothing_but_the_logits_is_kept(rows: int) -> None:
    logits = random_logits(rows, VOCAB_SIZE)
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        symmetric_divergence(logits)
    assert sum(size for address, size in kept.items() if address != logits.untyped_storage().data_ptr()) <= 64


def test_shapes_that_do_not_fit_are_refused() -> None:
    with pytest.raises(ValueError, match="2 \\* positions"):
        symmetric_divergence(random_logits(3, 5))
    for shape in ((0, 5), (3, 5), (2, 6)):
        with pytest.raises(ValueError, match="a multiple of its rows"):
            teacher_divergence(random_logits(4, 5), random_logits(*shape), 1.0)
