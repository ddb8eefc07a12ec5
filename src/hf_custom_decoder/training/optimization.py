"""The optimizer and the learning rate of a recipe."""

from typing import Any

import torch
from transformers import PreTrainedModel, get_scheduler

from .recipe_options import TrainingOptions


def build_optimizer(model: PreTrainedModel, training: TrainingOptions) -> torch.optim.Optimizer:
    """Builds AdamW with weight decay on matrices only."""
    trained = [weight for weight in model.parameters() if weight.requires_grad]
    return torch.optim.AdamW(
        [
            {"params": [weight for weight in trained if weight.ndim > 1], "weight_decay": training.weight_decay},
            {"params": [weight for weight in trained if weight.ndim <= 1], "weight_decay": 0.0},
        ],
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
