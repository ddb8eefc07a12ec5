"""
Tensor parallelism: which weights transformers may split over processes, and what a module must know of its share.

The split is that of Shoeybi et al. 2019, section 3: queries, keys, values and the inner width of the feed-forward
block by columns, so that each process computes some heads and some inner features; the projections behind them by
rows, whose outputs are summed; the vocabulary by rows of the embedding and columns of the projection. Norms,
positions, bridges and linear recurrences stay whole: they are few numbers, or all processes read their outputs.
"""

import re
from collections.abc import Mapping
from typing import Any

import torch
from torch import nn

from .cache_recurrent_layer import RECURRENT_MIXERS

ATTENTION_RULES = {"q_proj": "colwise", "k_proj": "colwise", "v_proj": "colwise", "out_proj": "rowwise"}

HEAD_RULE = "colwise_gather_output"
"""For a vocabulary projection: every process gets all logits."""


def stack_plan(config: Any) -> dict[str, str]:
    """The rules of a Transformer stack, below its model; every one of them names modules that the stack has."""
    mlp = {"fc1": "colwise", "fc2": "rowwise"}
    blocks = {"mlp": {"gate_proj": "colwise", **mlp} if config.gated_mlp else mlp}
    mixer_types = getattr(config, "mixer_types", None)
    if not isinstance(mixer_types, (list, tuple)) or any(name not in RECURRENT_MIXERS for name in mixer_types):
        blocks["self_attn"] = ATTENTION_RULES
    if getattr(config, "add_cross_attention", False):
        blocks["encoder_attn"] = ATTENTION_RULES
    plan = {"embed_tokens": "embedding_rowwise"}
    for block, rules in blocks.items():
        plan.update({f"layers.*.{block}.{name}": style for name, style in rules.items()})
    return plan


class StackPlan:
    """
    `base_model_tp_plan` of a config: [`stack_plan`] of its fields as they are now. A plan that is set on a config
    takes its place.
    """

    def __get__(self, config: Any, owner: type) -> dict[str, str] | None:
        return None if config is None else stack_plan(config)


def whole_where_tied(plan: Mapping[str, str], tied: Mapping[str, str]) -> dict[str, str]:
    """
    The plan without the weights that are tied to one it leaves whole.

    Args:
        plan (`dict[str, str]`): Module names to styles.
        tied (`dict[str, str]`): Weights, `{target: source}`.
    """
    kept = dict(plan)
    for source in set(tied.values()):
        weights = [source, *[target for target, one in tied.items() if one == source]]
        modules = [weight.rpartition(".")[0] for weight in weights]
        if not all(module in plan for module in modules):
            for module in modules:
                kept.pop(module, None)
    return kept


def take_shares(model: Any) -> None:
    """
    Tell the attention and feed-forward blocks of a model that is about to be loaded in parts which part is theirs.

    Raises:
        ValueError: Heads or inner features do not divide among the processes.
    """
    if (model.tp_size or 1) == 1:
        return
    plan, mesh = model.tp_plan, model._device_mesh
    mesh = mesh["tp"] if mesh.ndim > 1 else mesh
    for name, module in model.named_modules():
        generic = re.sub(r"\.\d+(?=\.|$)", ".*", name)
        is_split = any(plan.get(f"{generic}.{child}") == "colwise" for child, _ in module.named_children())
        if is_split and hasattr(module, "take_share"):
            module.take_share(name, mesh)


def check_share(owner: str, name: str, number: int, size: int) -> None:
    """Raise a `ValueError` unless `number` of something divides among `size` processes."""
    if number % size:
        raise ValueError(
            f"{owner}: `{name}` must be divisible by the number of processes for tensor parallelism, got {number} and "
            f"{size}. Set `tp_size` to a divisor of it, or load the model whole."
        )


class _SummedGradient(torch.autograd.Function):
    """A weight as it is; its gradient is summed over the processes of a group."""

    @staticmethod
    def forward(ctx: Any, weight: torch.Tensor, group: Any) -> torch.Tensor:
        ctx.group = group
        return weight.view_as(weight)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        gradient = gradients[0].clone()
        torch.distributed.all_reduce(gradient, group=ctx.group)
        return gradient, None


def norm_of_some_heads(norm: nn.Module, states: torch.Tensor, group: Any) -> torch.Tensor:
    """
    A norm over each head's features, `(..., heads, D)` to the same, where the processes of a group have other heads.
    Its weights are those of all heads, so their gradients are summed.

    transformers' style for it (`replicated_with_grad_allreduce`) sums what has gathered in `grad`, which counts the
    first of several accumulated batches more than once.
    """
    if not torch.is_grad_enabled():
        normed: torch.Tensor = norm(states)
        return normed
    weights = {name: _SummedGradient.apply(weight, group) for name, weight in norm.named_parameters()}
    normed = torch.func.functional_call(norm, weights, (states,))
    return normed
