"""The command `memory`: what a recipe needs of a GPU, without one."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .atomic_files import write_json
from .memory import DTYPES, SHARDINGS, estimate_memory
from .training.recipe_options import describe_options
from .training.recipe_reading import read_recipe

MEMORY_OPTIONS = {"memory": ("gpus", "sharding", "dtype", "gradient_checkpointing", "json")}
"""Options of the command that takes those of a recipe beside them."""


def add_memory(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", print_line: Callable[[str], None]
) -> None:
    """Adds the command to a parser; `print_line` shows the table."""
    parser = commands.add_parser(
        "memory",
        help="count the memory per GPU that a recipe needs, without a GPU",
        usage="hf-custom-decoder memory RECIPE [--gpus N] [--sharding KIND] [--dtype DTYPE] [--OPTION VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Parameters, gradients, optimizer state, activations and working memory of the largest batch that the\n"
            "recipe lets be. Neither the model is laid out nor data read; see docs/scaling.md."
        ),
        epilog=f"Options of a recipe, in the file or here (the section may be left out):\n{describe_options()}",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    parser.add_argument("--gpus", type=int, default=1, metavar="N", help="GPUs of the whole run (default: 1)")
    parser.add_argument(
        "--sharding",
        choices=SHARDINGS,
        default="none",
        help="what GPUs share: none (DistributedDataParallel), DeepSpeed's ZeRO-2 or ZeRO-3, FSDP2 (default: none)",
    )
    parser.add_argument(
        "--dtype",
        choices=DTYPES,
        default="float32",
        help="of weights, gradients and moments; `training.precision` is that of products (default: float32)",
    )
    parser.add_argument(
        "--gradient_checkpointing", action="store_true", help="compute layers again in the backward pass"
    )
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too, in bytes")

    def run(arguments: argparse.Namespace) -> None:
        estimate = estimate_memory(
            read_recipe(arguments.recipe, arguments.overrides),
            num_gpus=arguments.gpus,
            sharding=arguments.sharding,
            dtype=arguments.dtype,
            gradient_checkpointing=arguments.gradient_checkpointing,
        )
        print_line(str(estimate))
        if arguments.json is not None:
            write_json(arguments.json, estimate.to_dict())

    parser.set_defaults(run=run)
