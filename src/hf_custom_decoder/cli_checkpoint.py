"""The command `checkpoint`: moves a checkpoint of the Trainer to another layout of processes."""

import argparse
from collections.abc import Callable
from pathlib import Path

from .training.trainer_layouts import LAYOUTS, move_checkpoint


def add_checkpoint(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", print_line: Callable[[str], None]
) -> None:
    """Adds the command to a parser; `print_line` shows where the result is."""
    parser = commands.add_parser(
        "checkpoint",
        help="move a checkpoint of the Trainer from one process or DDP to FSDP2, or back",
        description=(
            "Writes a checkpoint of the Trainer, with its optimizer and schedule, in another layout, so that "
            "`resume_from_checkpoint` goes on from it there. See docs/processes.md."
        ),
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="a checkpoint-N of the Trainer")
    parser.add_argument(
        "--to",
        choices=LAYOUTS,
        required=True,
        help=(
            "ddp: one process or DistributedDataParallel; fsdp: FSDP2 with SHARDED_STATE_DICT; fsdp-full: FSDP2 with "
            "FULL_STATE_DICT"
        ),
    )
    parser.add_argument("--output", type=Path, required=True, metavar="FOLDER", help="new folder to write")
    parser.add_argument(
        "--model", metavar="NAME", help="folder or Hub name with the config, for a sharded checkpoint, which has none"
    )
    parser.add_argument("--trust_remote_code", action="store_true", help="let code that travels with the config run")

    def run(arguments: argparse.Namespace) -> None:
        move_checkpoint(
            arguments.folder,
            arguments.output,
            layout=arguments.to,
            model=arguments.model,
            trust_remote_code=arguments.trust_remote_code,
        )
        print_line(f"{arguments.output} goes on from {arguments.folder}, for the layout {arguments.to}.")

    parser.set_defaults(run=run)
