"""
Vocabulary projection and cross-entropy in one, some positions at a time, so that no logits wait for the backward pass.

The gradient of a cross-entropy is known as soon as its logits are, so each chunk of positions computes its logits, its
loss and its share of the gradients, and leaves the logits to the next chunk. The products are those of the ordinary
way, which the tests compare it with; what goes away is the memory, and the time to fill it (the idea of Hsu et al.
2024, "Liger Kernel").

Legend: N label positions, E width, V vocabulary.
"""

from typing import Any

import torch
from torch import nn

CHUNK_LOGITS = 2**21
"""About so many logits are computed at a time."""

MIN_CHUNK = 256
"""Fewer positions at a time would add to the gradient of the weights too often."""


def can_fuse(hidden_states: torch.Tensor, lm_head: nn.Module) -> bool:
    """Whether a projection is what it seems, and its logits are worth more memory than the gradient of its weights."""
    if not is_bare(hidden_states, lm_head):
        return False
    is_trained = lm_head.weight.requires_grad and torch.is_grad_enabled()
    return not is_trained or hidden_states.shape[0] >= hidden_states.shape[1]


def is_bare(hidden_states: torch.Tensor, lm_head: nn.Module) -> bool:
    """
    Whether a projection is what it seems: a linear layer on a CPU in full precision that nobody looks into, wraps or
    transforms.
    """
    if type(lm_head) is not nn.Linear or hidden_states.device.type != "cpu" or torch.is_autocast_enabled("cpu"):
        return False
    weight = lm_head.weight
    if type(hidden_states) is not torch.Tensor or type(weight) is not nn.Parameter:
        return False
    if weight.dtype not in (torch.float32, torch.float64):
        return False
    watchers: list[Any] = [
        lm_head._forward_hooks,
        lm_head._forward_pre_hooks,
        lm_head._backward_hooks,
        lm_head._backward_pre_hooks,
        "forward" in vars(lm_head),
        torch.nn.modules.module._has_any_global_hook(),
        torch._C._are_functorch_transforms_active(),
        torch.autograd.forward_ad._current_level >= 0,
    ]
    return hidden_states.dtype == weight.dtype and not any(watchers)


def vocabulary_loss(
    hidden_states: torch.Tensor, labels: torch.Tensor, lm_head: nn.Linear, divisor: float, label_smoothing: float = 0.0
) -> torch.Tensor:
    """
    The cross-entropy of a linear layer's outputs, summed and divided; see [`token_loss`].

    Args:
        hidden_states (`torch.Tensor` of shape `(N, E)`).
        labels (`torch.LongTensor` of shape `(N,)`): None of them ignored.
        lm_head (`nn.Linear`): E to V; [`can_fuse`] says whether it will do.
        divisor (`float`).

    Returns:
        A scalar; 0 where there is no label.
    """
    weight: torch.Tensor = lm_head.weight
    bias: torch.Tensor | None = lm_head.bias
    if not torch.is_grad_enabled():
        hidden_states, weight = hidden_states.detach(), weight.detach()
        bias = None if bias is None else bias.detach()
    loss: torch.Tensor = _VocabularyLoss.apply(hidden_states, weight, bias, labels, divisor, label_smoothing)
    return loss


class _VocabularyLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_states: torch.Tensor,
        weight: torch.Tensor,
        bias: torch.Tensor | None,
        labels: torch.Tensor,
        divisor: float,
        label_smoothing: float,
    ) -> torch.Tensor:
        wants_states, wants_weight, wants_bias = ctx.needs_input_grad[:3]
        num_positions, vocab_size = hidden_states.shape[0], weight.shape[0]
        size = min(num_positions, max(CHUNK_LOGITS // vocab_size, MIN_CHUNK))
        logits_buffer = hidden_states.new_empty((size, vocab_size))
        log_buffer = torch.empty_like(logits_buffer)
        states_gradient = torch.empty_like(hidden_states) if wants_states else None
        weight_gradient = torch.zeros_like(weight) if wants_weight else None
        bias_gradient = torch.zeros_like(bias) if wants_bias and bias is not None else None
        total = hidden_states.new_zeros(())
        for start in range(0, num_positions, max(size, 1)):
            states = hidden_states[start : start + size]
            targets = labels[start : start + size, None]
            logits, log_shares = logits_buffer[: len(states)], log_buffer[: len(states)]
            if bias is None:
                torch.mm(states, weight.t(), out=logits)
            else:
                torch.addmm(bias, states, weight.t(), out=logits)
            torch.log_softmax(logits, dim=-1, out=log_shares)
            total -= (1 - label_smoothing) * log_shares.gather(1, targets).sum()
            if label_smoothing:
                total -= label_smoothing / vocab_size * log_shares.sum()
            gradient = log_shares.exp_()
            if label_smoothing:
                gradient -= label_smoothing / vocab_size
            gradient.scatter_add_(1, targets, gradient.new_full((), label_smoothing - 1).expand_as(targets))
            if states_gradient is not None:
                torch.mm(gradient, weight, out=states_gradient[start : start + size])
            if weight_gradient is not None:
                weight_gradient.addmm_(gradient.t(), states)
            if bias_gradient is not None:
                bias_gradient += gradient.sum(dim=0)
        ctx.divisor, ctx.label_smoothing = divisor, label_smoothing
        ctx.save_for_backward(hidden_states, weight, bias, labels, states_gradient, weight_gradient, bias_gradient)
        return total / divisor

    @staticmethod
    def backward(ctx: Any, grad: torch.Tensor) -> tuple[Any, ...]:
        hidden_states, weight, bias, labels, *gradients = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody wants the gradient of this gradient
            # Of views: the states may depend on the weight themselves, where it is that of the embedding too.
            given: list[Any] = [None if one is None else one.view_as(one) for one in (hidden_states, weight, bias)]
            inputs = [one for one, wanted in zip(given, ctx.needs_input_grad, strict=False) if wanted]
            loss = nn.functional.cross_entropy(
                nn.functional.linear(*given),
                labels,
                reduction="sum",
                label_smoothing=ctx.label_smoothing,
            )
            found = iter(torch.autograd.grad(loss / ctx.divisor, inputs, grad, create_graph=True))
            return *(next(found) if wanted else None for wanted in ctx.needs_input_grad[:3]), None, None, None
        factor = grad / ctx.divisor
        return *(None if one is None else one * factor for one in gradients), None, None, None
