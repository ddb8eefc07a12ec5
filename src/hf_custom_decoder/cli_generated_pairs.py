"""The commands that write training files with a model: `distill` and `back-translate`."""

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .evaluation.processes import refuse_several_processes
from .quickstart.quickstart_settings import DEVICES
from .training.generated_pairs import back_translate, distill_pairs
from .training.recipe_options import describe_options
from .training.recipe_reading import read_recipe

GENERATED_PAIRS_OPTIONS = {
    "distill": ("teacher", "output", "device", "fresh"),
    "back-translate": ("model", "text", "tag", "output", "device", "fresh"),
}
"""Options of the commands that take those of a recipe beside them."""

_RESUMED = "Interrupted in any way and started again with the same command, it goes on where it stopped."


def add_generated_pairs(
    commands: "argparse._SubParsersAction[argparse.ArgumentParser]", print_line: Callable[[str], None]
) -> None:
    """Adds both commands to a parser; `print_line` shows messages."""
    distill = _add(
        commands,
        "distill",
        help="write the training pairs of a recipe with the targets of a teacher",
        usage="hf-custom-decoder distill RECIPE --teacher FOLDER --output FILE [--OPTION VALUE ...]",
        description=f"Sequence-level distillation (Kim & Rush 2016): beam search writes the targets.\n{_RESUMED}",
    )
    distill.add_argument("--teacher", required=True, metavar="FOLDER", help="saved model, or its name on the Hub")
    back = _add(
        commands,
        "back-translate",
        help="write pairs for text in the target language, with sources that a model makes",
        usage="hf-custom-decoder back-translate RECIPE --model FOLDER --text FILE --output FILE [--OPTION VALUE ...]",
        description=(
            "Back-translation (Sennrich et al. 2016) with tagged sources (Caswell et al. 2019), for the model of\n"
            f"RECIPE. {_RESUMED}"
        ),
    )
    back.add_argument("--model", required=True, metavar="FOLDER", help="saved model from target to source")
    back.add_argument(
        "--text", required=True, action="append", type=Path, metavar="FILE", help="one target a line; repeatable"
    )
    back.add_argument("--tag", default="<BT>", help="stands before every source; '' for none (default: %(default)s)")

    def run_distill(arguments: argparse.Namespace) -> None:
        refuse_several_processes("distill")
        distill_pairs(_recipe(arguments), arguments.teacher, arguments.output, print_line, **_common(arguments))

    def run_back_translate(arguments: argparse.Namespace) -> None:
        refuse_several_processes("back-translate")
        back_translate(
            _recipe(arguments),
            arguments.model,
            arguments.text,
            arguments.output,
            print_line,
            tag=arguments.tag,
            **_common(arguments),
        )

    distill.set_defaults(run=run_distill)
    back.set_defaults(run=run_back_translate)


def _add(commands: Any, name: str, **texts: str) -> argparse.ArgumentParser:
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f"Options of a recipe, in the file or here (the section may be left out):\n{describe_options()}",
        **texts,
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    parser.add_argument("--output", required=True, type=Path, metavar="FILE", help="JSON Lines to write")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--fresh", action="store_true", help="write the file again, forget an interrupted run")
    return parser


def _recipe(arguments: argparse.Namespace) -> Any:
    return read_recipe(arguments.recipe, arguments.overrides)


def _common(arguments: argparse.Namespace) -> dict[str, Any]:
    return {"device": arguments.device, "fresh": arguments.fresh}
