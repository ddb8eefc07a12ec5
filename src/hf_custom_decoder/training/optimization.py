"""The optimizer and the learning rate of a recipe."""

from typing import Any

import torch
from transformers import PreTrainedModel, get_scheduler

from .layer_rates import layer_rate_factors
from .recipe_options import TrainingOptions


def build_optimizer(model: PreTrainedModel, training: TrainingOptions) -> torch.optim.Optimizer:
    """Builds AdamW with weight decay on matrices only, and with a learning rate a layer where that is asked for.

    The first group has the peak learning rate.
    """
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    factors = dict.fromkeys(trained, 1.0)
    if training.layer_decay is not None:
        factors = layer_rate_factors(model, training.layer_decay)
    groups = []
    for factor in sorted({1.0, *(factors[name] for name in trained)}, reverse=True):
        weights = [weight for name, weight in trained.items() if factors[name] == factor]
        rate = factor * training.learning_rate
        matrices = [weight for weight in weights if weight.ndim > 1]
        vectors = [weight for weight in weights if weight.ndim <= 1]
        groups.append({"params": matrices, "weight_decay": training.weight_decay, "lr": rate})
        groups.append({"params": vectors, "weight_decay": 0.0, "lr": rate})
    return torch.optim.AdamW(
        groups,
        lr=training.learning_rate,
        betas=(training.adam_beta1, training.adam_beta2),
        eps=training.adam_epsilon,
        fused=True,
    )


def build_schedule(optimizer: torch.optim.Optimizer, training: TrainingOptions, max_steps: int) -> Any:
    """Builds the learning rate schedule: up in a straight line over the warm-up, then as `schedule` says."""
    warmup = training.warmup if training.warmup >= 1 else training.warmup * max_steps
    name = "constant_with_warmup" if training.schedule == "constant" else training.schedule
    return get_scheduler(name, optimizer, num_warmup_steps=round(warmup), num_training_steps=max_steps)
