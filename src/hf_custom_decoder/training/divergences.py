"""
Divergences between distributions over a vocabulary, some positions at a time, with their gradients written out.

Nothing of the size of the logits is kept between forward and backward, and each chunk stays in the cache from its
logits to its share of the gradient. Legend: N positions, V vocabulary.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch.autograd.function import once_differentiable

CHUNK_LOGITS = {"cpu": 2**18}
"""About so many logits of one side are looked at together, by type of device: what a CPU keeps in its cache."""

MANY_LOGITS = 2**24
"""The same on other devices, where every operation costs a launch."""


def symmetric_divergence(logits: torch.Tensor) -> torch.Tensor:
    """Half of KL(P1 || P2) + KL(P2 || P1), summed over positions (Liang et al. 2021, equation 2).

    Args:
        logits (`torch.Tensor` of shape `(2 * N, V)`): Those of P1 at all positions, then those of P2.

    Returns:
        `torch.Tensor`: A scalar in nats, in float32 (float64 for such logits). It can be differentiated once.

    Raises:
        ValueError: If the number of rows is odd.
    """
    if logits.dim() != 2 or len(logits) % 2:
        raise ValueError(f"`logits` must have the shape (2 * positions, vocabulary), got {tuple(logits.shape)}.")
    total: torch.Tensor = _SymmetricDivergence.apply(logits)
    return total


def teacher_divergence(student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
    """KL(teacher || student) at a temperature, times its square, summed over positions (Hinton et al. 2015).

    Its gradient in the student is that of the word-level loss of Kim & Rush (2016, section 3.1), from which it differs
    by the teacher's entropy.

    Args:
        student (`torch.Tensor` of shape `(passes * N, V)`): Its logits, one pass after the other.
        teacher (`torch.Tensor` of shape `(N, V)`): Its logits, the same for every pass. They get no gradient.
        temperature (`float`): What both logits are divided by.

    Returns:
        `torch.Tensor`: As of [`symmetric_divergence`].

    Raises:
        ValueError: If the shapes do not fit.
    """
    rows, known = len(student), len(teacher)
    if student.shape[1:] != teacher.shape[1:] or (rows % known if known else rows):
        raise ValueError(
            f"`student` must have the teacher's vocabulary and a multiple of its rows, got {tuple(student.shape)} and "
            f"{tuple(teacher.shape)}."
        )
    total: torch.Tensor = _TeacherDivergence.apply(student, teacher, temperature)
    return total


class _SymmetricDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, logits: torch.Tensor) -> torch.Tensor:
        ctx.save_for_backward(logits)
        total = _zero(logits)
        first, second = logits.tensor_split(2)
        for rows in _chunks(first):
            one, two = _log_softmax(first[rows]), _log_softmax(second[rows])
            total += (one.exp() - two.exp()).mul_(one.sub_(two)).sum()
        return total.mul_(0.5)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> torch.Tensor:
        (logits,) = ctx.saved_tensors
        grads = torch.empty_like(logits)
        first, second = logits.tensor_split(2)
        of_first, of_second = grads.tensor_split(2)
        for rows in _chunks(first):
            one, two = _log_softmax(first[rows]), _log_softmax(second[rows])
            p, q, d = one.exp(), two.exp(), one.sub_(two)
            ahead, back = (p * d).sum(-1, keepdim=True), (q * d).sum(-1, keepdim=True)  # the KL divergences; back < 0
            # With d = log p - log q: the derivative of half of sum((p - q) * d) in both logits.
            of_first[rows] = torch.sub(d, ahead - 1).mul_(p).sub_(q).mul_(0.5 * grad)
            of_second[rows] = d.neg_().add_(back + 1).mul_(q).sub_(p).mul_(0.5 * grad)
        return grads


class _TeacherDivergence(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, student: torch.Tensor, teacher: torch.Tensor, temperature: float) -> torch.Tensor:
        ctx.save_for_backward(student, teacher)
        ctx.temperature = temperature
        total = _zero(student)
        for own in _passes(student, teacher):
            for rows in _chunks(teacher):
                known, guessed = _log_softmax(teacher[rows], temperature), _log_softmax(own[rows], temperature)
                total += known.exp().mul_(known.sub_(guessed)).sum()
        return total.mul_(temperature**2)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[torch.Tensor, None, None]:
        student, teacher = ctx.saved_tensors
        grads = torch.empty_like(student)
        for own, of_own in zip(_passes(student, teacher), _passes(grads, teacher), strict=True):
            for rows in _chunks(teacher):
                known, guessed = _log_softmax(teacher[rows], ctx.temperature), _log_softmax(own[rows], ctx.temperature)
                of_own[rows] = guessed.exp_().sub_(known.exp_()).mul_(ctx.temperature * grad)
        return grads, None, None


def _passes(student: torch.Tensor, teacher: torch.Tensor) -> tuple[torch.Tensor, ...]:
    return student.split(max(len(teacher), 1))


def _chunks(logits: torch.Tensor) -> Iterator[slice]:
    num_positions, vocab_size = logits.shape
    size = max(1, CHUNK_LOGITS.get(logits.device.type, MANY_LOGITS) // vocab_size)
    for start in range(0, num_positions, size):
        yield slice(start, start + size)


def _zero(logits: torch.Tensor) -> torch.Tensor:
    return logits.new_zeros((), dtype=torch.promote_types(logits.dtype, torch.float32))


def _log_softmax(logits: torch.Tensor, temperature: float = 1.0) -> torch.Tensor:
    logits = logits if logits.dtype == torch.float64 else logits.float()
    return (logits if temperature == 1.0 else logits / temperature).log_softmax(-1)
