"""The packages and the launcher that a recipe needs, asked for before any work is done."""

import os
from importlib.util import find_spec

from transformers.integrations.integration_utils import get_available_reporting_integrations

from ..evaluation.text_metrics import check_metric_packages
from .recipe_adapter import check_peft
from .recipe_options import Recipe

SHARDING = {"ACCELERATE_USE_FSDP": "FSDP", "ACCELERATE_USE_DEEPSPEED": "DeepSpeed"}
"""Variables by which `accelerate launch` says that weights are to be shared over processes."""


def check_launch() -> None:
    """Raises a `ValueError` under a launcher that shares weights over processes, which a run does not put together."""
    from accelerate.utils import parse_flag_from_env

    for variable, name in SHARDING.items():
        if os.environ.get(variable) and parse_flag_from_env(variable):
            raise ValueError(
                f"Recipes are trained by processes that hold the whole model (`ddp.yaml`), got a launch with {name} "
                f"({variable} is set). Launch without it, or train by a script with the Trainer (docs/processes.md)."
            )


def is_left_alone(num_processes: int) -> bool:
    """Whether `accelerate launch --cpu` was asked for several processes and, without `mpirun`, has started one only.

    Args:
        num_processes (`int`): Those that have been started.
    """
    from accelerate.utils import parse_flag_from_env

    if num_processes > 1 or not os.environ.get("ACCELERATE_USE_CPU") or "WORLD_SIZE" in os.environ:
        return False
    return parse_flag_from_env("ACCELERATE_USE_CPU") and "MASTER_ADDR" in os.environ


def check_training_packages(recipe: Recipe) -> None:
    """Raises an `ImportError` with the remedy if a package that the recipe needs is missing, and a `ValueError` if the
    metric does not know the language."""
    missing = [name for name in ("accelerate", "datasets") if find_spec(name) is None]
    if missing:
        raise ImportError(
            f"Training needs {' and '.join(missing)}. Install what is missing with "
            'pip install "hf_custom_decoder[train]"'
        )
    if recipe.adapter.method is not None:
        check_peft("`adapter.method`")
    if recipe.training.metric is not None:
        check_metric_packages([recipe.training.metric], language=recipe.evaluation.language)
    reporters = recipe.training.report_to
    available = get_available_reporting_integrations()
    for name in reporters if isinstance(reporters, list) else [reporters or "none"]:
        if name not in ("none", "all", *available):
            raise ImportError(
                f"`training.report_to` must be none or reporters whose packages are installed ("
                f"{', '.join(available) or 'none is'}), got {name!r}. Install its package, or leave it out."
            )
