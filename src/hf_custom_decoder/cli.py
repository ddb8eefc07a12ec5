"""The command line: reads arguments, calls the library, turns errors into messages and exit codes."""

import argparse
import os
import sys
from dataclasses import asdict
from pathlib import Path

from transformers.utils.logging import disable_progress_bar

from .atomic_files import write_json
from .cli_checkpoint import add_checkpoint
from .cli_generated_pairs import GENERATED_PAIRS_OPTIONS, add_generated_pairs
from .cli_memory import MEMORY_OPTIONS, add_memory
from .data.text_sources import read_sources
from .doctor import CHECK_NAMES, examine
from .evaluation.batched_generation import generate_texts
from .evaluation.decoding_precision import PRECISIONS
from .evaluation.paired_bootstrap import compare_predictions
from .evaluation.processes import refuse_several_processes
from .evaluation.run_evaluation import evaluate_recipe, evaluation_recipe
from .evaluation.sentence_scores import PAIRED_METRICS
from .hub.model_folder import load_model_folder
from .hub.push import push
from .quickstart.quickstart_settings import ALL_DECODERS, DECODER_CHOICES, DEVICES, QuickstartSettings
from .quickstart.run_comparison import run_comparison
from .quickstart.run_quickstart import run_quickstart
from .training.option_rules import check_at_least
from .training.recipe_options import describe_options
from .training.recipe_reading import read_recipe, take_overrides
from .training.recipe_tokenizers import load_target_tokenizer
from .training.run_pretraining import pretrain_recipe
from .training.run_recipe import train_recipe
from .training.run_tokenizer import train_recipe_tokenizer

EXIT_DONE = 0
EXIT_WRONG = 1
EXIT_USAGE = 2
EXIT_INTERRUPTED = 130

USER_ERRORS = (ImportError, OSError, ValueError)
"""What the library raises for wrong arguments, missing files and missing packages."""

OWN_OPTIONS: dict[str, tuple[str, ...]] = {
    "train": ("fresh",),
    "pretrain": ("fresh",),
    "tokenizer": ("folder",),
    "evaluate": ("model", "data", "predictions", "device", "precision", "trust_remote_code"),
    "doctor": ("json", "skip", "trust_remote_code"),
    **GENERATED_PAIRS_OPTIONS,
    **MEMORY_OPTIONS,
}
"""Options of the commands that take those of a recipe beside them."""


def build_parser() -> argparse.ArgumentParser:
    """Returns the parser of all commands; each sets `run`, a function that takes the parsed arguments."""
    parser = argparse.ArgumentParser(
        prog="hf-custom-decoder", description="Encoder-decoder models that you compose from a config."
    )
    commands = parser.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_quickstart(commands)
    _add_train(commands)
    _add_pretrain(commands)
    _add_tokenizer(commands)
    _add_evaluate(commands)
    _add_generate(commands)
    _add_push(commands)
    _add_doctor(commands)
    _add_compare(commands)
    add_generated_pairs(commands, _print_line)
    add_memory(commands, _print_line)
    add_checkpoint(commands, _print_line)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Runs one command.

    Args:
        argv (`list[str]`, *optional*): Arguments without the program's name, by default those of the process.

    Returns:
        `int`: 0 when done, 1 where `doctor` found something wrong, 2 for wrong usage, 130 after Ctrl-C.
    """
    argv = sys.argv[1:] if argv is None else argv
    overrides: dict[str, str] = {}
    try:
        if argv and argv[0] in OWN_OPTIONS:
            argv, overrides = take_overrides(argv, OWN_OPTIONS[argv[0]])
        arguments = build_parser().parse_args(argv)
        arguments.overrides = overrides
    except ValueError as error:
        print(f"hf-custom-decoder: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except SystemExit as error:  # argparse has written its message
        return error.code if isinstance(error.code, int) else EXIT_USAGE
    disable_progress_bar()  # of transformers, for every file it reads; ours stay
    try:
        status: int | None = arguments.run(arguments)
        return status or EXIT_DONE
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    except USER_ERRORS as error:
        print(f"hf-custom-decoder: error: {error}", file=sys.stderr)
        return EXIT_USAGE
    except KeyboardInterrupt:
        print("\nhf-custom-decoder: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED
    return EXIT_DONE


def _add_quickstart(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    defaults = QuickstartSettings()
    parser = commands.add_parser(
        "quickstart",
        help="train a pronunciation model from scratch in minutes, score it and leave a folder for the Hub",
        description=(
            "Trains a small encoder-decoder on the CMU Pronouncing Dictionary with the stock Seq2SeqTrainer, scores "
            "it on held-out words, and leaves a folder that is ready for the Hub. With --decoder all it does so with "
            "every decoder in turn and compares them. Interrupted with Ctrl-C and started again, it goes on where it "
            "stopped."
        ),
    )
    parser.add_argument(
        "--decoder",
        choices=DECODER_CHOICES,
        default=defaults.decoder,
        help="what writes the phonemes, or every one in turn and a table of all (default: %(default)s)",
    )
    parser.add_argument(
        "--output",
        type=Path,
        metavar="DIR",
        help=f"folder to leave (default: {defaults.folder}, for other decoders {defaults.folder}-DECODER)",
    )
    length = parser.add_mutually_exclusive_group()
    length.add_argument(
        "--minutes",
        type=float,
        default=defaults.minutes,
        help="training time of a decoder over all resumed runs (default: %(default)s)",
    )
    length.add_argument(
        "--max_steps", type=int, metavar="STEPS", help="train so many optimizer steps instead: repeatable"
    )
    parser.add_argument(
        "--seed",
        type=int,
        default=defaults.seed,
        help="of fresh weights and of the order of the words (default: %(default)s)",
    )
    parser.add_argument(
        "--num_beams",
        type=int,
        default=defaults.num_beams,
        help="beams of the search; 1 is greedy (default: %(default)s)",
    )
    parser.add_argument(
        "--device", choices=DEVICES, default=defaults.device, help="where to train and to score (default: %(default)s)"
    )
    parser.add_argument("--limit", type=int, metavar="WORDS", help="use so many words only, for trying things out")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have left in the folder")
    parser.set_defaults(run=_run_quickstart)


def _run_quickstart(arguments: argparse.Namespace) -> None:
    options = {name: value for name, value in vars(arguments).items() if name not in ("run", "overrides")}
    settings = QuickstartSettings(**options)
    run = run_comparison if settings.decoder == ALL_DECODERS else run_quickstart
    try:
        run(settings, _print_line)
    except KeyboardInterrupt:
        if settings.fresh:
            _print_line("\nThe same command without --fresh goes on where it stopped.")
        else:
            _print_line("\nThe same command goes on where it stopped; with --fresh it starts again.")
        raise


def _add_train(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "train",
        help="train what a recipe describes, from text to a folder for the Hub",
        usage="hf-custom-decoder train RECIPE [--fresh] [--OPTION VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Trains with the stock Seq2SeqTrainer what a recipe (a YAML file) describes. Interrupted in any way and\n"
            "started again with the same command, it goes on from its newest checkpoint. On several devices:\n"
            "accelerate launch -m hf_custom_decoder train RECIPE"
        ),
        epilog=f"Options of a recipe, in the file or here (the section may be left out):\n{describe_options()}",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have left in the folder")
    parser.set_defaults(run=_run_train, train=train_recipe)


def _run_train(arguments: argparse.Namespace) -> None:
    recipe = read_recipe(arguments.recipe, arguments.overrides)
    try:
        arguments.train(recipe, _print_line, fresh=arguments.fresh)
    except KeyboardInterrupt:
        _print_line("\nThe same command (without --fresh) goes on where it stopped.")
        raise


def _add_pretrain(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "pretrain",
        help="pre-train on unlabelled text with the tasks of a recipe",
        usage="hf-custom-decoder pretrain RECIPE [--fresh] [--OPTION VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Trains on the tasks of a recipe: span corruption, text infilling, sentence permutation, prefix and\n"
            "causal language modelling on unlabelled text, and supervised pairs, mixed. What it leaves is a model\n"
            "that another recipe goes on from (model.pretrained). Interrupted in any way and started again with the\n"
            "same command, it goes on. On several devices: accelerate launch -m hf_custom_decoder pretrain RECIPE"
        ),
        epilog=f"Options of a recipe, in the file or here (the section may be left out):\n{describe_options()}",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    parser.add_argument("--fresh", action="store_true", help="forget what earlier runs have left in the folder")
    parser.set_defaults(run=_run_train, train=pretrain_recipe)


def _add_tokenizer(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "tokenizer",
        help="train and save only the tokenizer of a recipe",
        usage="hf-custom-decoder tokenizer RECIPE [--folder DIR] [--OPTION VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Trains the tokenizer(s) that `train` or `pretrain` would train, prints how many tokens it has, how many\n"
            "it takes for a word and which share is unknown on validation text, and saves it for tokenizer.name."
        ),
        epilog=f"Options of a recipe, in the file or here (the section may be left out):\n{describe_options()}",
    )
    parser.add_argument("recipe", type=Path, metavar="RECIPE", help="YAML file")
    parser.add_argument("--folder", type=Path, metavar="DIR", help="where to save (default: the output, -tokenizer)")
    parser.set_defaults(run=_run_tokenizer)


def _run_tokenizer(arguments: argparse.Namespace) -> None:
    recipe = read_recipe(arguments.recipe, arguments.overrides)
    train_recipe_tokenizer(recipe, _print_line, folder=arguments.folder)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "evaluate",
        help="score a model on test data",
        usage="hf-custom-decoder evaluate [RECIPE] [--model FOLDER] [--data FILE ...] [--OPTION VALUE ...]",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description=(
            "Generates for the test data of a recipe, or for --data, prints the metrics that the recipe or\n"
            "--metrics names, and writes outputs and figures. A model trained by `train` brings its recipe.\n"
            "On several devices: torchrun --nproc_per_node N -m hf_custom_decoder evaluate RECIPE --device cuda"
        ),
        epilog=f"Options of a recipe, in the file or here (the section may be left out):\n{describe_options()}",
    )
    parser.add_argument("recipe", type=Path, nargs="?", metavar="RECIPE", help="YAML file")
    parser.add_argument("--model", metavar="FOLDER", help="saved model, or its name on the Hub (default: the output)")
    parser.add_argument(
        "--data", action="append", metavar="FILE", help="test file in place of the recipe's; repeatable"
    )
    parser.add_argument("--predictions", type=Path, metavar="DIR", help="where to write (default: in the model's)")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--precision", choices=PRECISIONS, help="numbers to decode with (default: those of the file)")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run code from the folder; models of this package need none"
    )
    parser.set_defaults(run=_run_evaluate)


def _run_evaluate(arguments: argparse.Namespace) -> None:
    recipe = evaluation_recipe(arguments.recipe, arguments.model, arguments.data, arguments.overrides)
    evaluate_recipe(
        recipe,
        _print_line,
        predictions=arguments.predictions,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        precision=arguments.precision,
    )


def _add_generate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "generate",
        help="run a saved model on words or lines of text",
        description=(
            "Generates for every input and prints one line for each, in order: several outputs are separated by "
            "tabs, best first. Inputs are the arguments, else the lines of --file, else those of standard input."
        ),
    )
    parser.add_argument("--model", required=True, metavar="FOLDER", help="saved model, or its name on the Hub")
    parser.add_argument("texts", nargs="*", metavar="TEXT", help="inputs")
    parser.add_argument("--file", type=Path, help="text file with one input a line")
    parser.add_argument("--num_beams", type=int, help="beams of the search; 1 is greedy (default: the model's)")
    parser.add_argument("--num_return_sequences", type=int, default=1, metavar="N", help="outputs for each input")
    parser.add_argument("--max_new_tokens", type=int, metavar="N", help="longest output in tokens")
    parser.add_argument("--batch_size", type=int, default=32, metavar="N", help="inputs generated together")
    parser.add_argument("--device", choices=DEVICES, default="cpu", help="where to run (default: cpu)")
    parser.add_argument("--precision", choices=PRECISIONS, help="numbers to decode with (default: those of the file)")
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run code from the folder; models of this package need none"
    )
    parser.set_defaults(run=_run_generate)


def _run_generate(arguments: argparse.Namespace) -> None:
    refuse_several_processes("generate")
    for name in ("num_beams", "max_new_tokens"):  # the rest is checked where it is used
        if getattr(arguments, name) is not None:
            check_at_least(name, getattr(arguments, name), 1)
    sources = read_sources(arguments.texts, arguments.file, sys.stdin.buffer)
    model, tokenizer = load_model_folder(
        arguments.model,
        device=arguments.device,
        trust_remote_code=arguments.trust_remote_code,
        precision=arguments.precision,
    )
    chosen = {name: getattr(arguments, name) for name in ("num_beams", "max_new_tokens")}
    outputs = generate_texts(
        model,
        tokenizer,
        sources,
        batch_size=arguments.batch_size,
        num_return_sequences=arguments.num_return_sequences,
        target_tokenizer=load_target_tokenizer(arguments.model),
        **{name: value for name, value in chosen.items() if value is not None},
    )
    for texts in outputs:
        _print_line("\t".join(" ".join(text.splitlines()) for text in texts))


def _add_push(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "push",
        help="check a saved folder and upload it to the Hub",
        description=(
            "Checks a folder (card, licence and data, code, no pickles, no secrets or local paths, loads in a clean "
            "process) and uploads it in one commit. Nothing is sent where a check fails."
        ),
    )
    parser.add_argument("folder", type=Path, metavar="FOLDER", help="folder written by save_pretrained")
    parser.add_argument("--repo", required=True, metavar="NAME", help="repository on the Hub: owner/name")
    parser.add_argument("--private", action="store_true", help="make a new repository private")
    parser.add_argument("--dry-run", "--dry_run", action="store_true", help="check and report only")
    parser.set_defaults(run=_run_push)


def _run_push(arguments: argparse.Namespace) -> None:
    report = push(arguments.folder, arguments.repo, private=arguments.private, dry_run=arguments.dry_run)
    _print_line(str(report))
    if not report.is_ready:
        raise ValueError(f"{arguments.folder} is not ready for the Hub, see above")


def _add_doctor(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "doctor",
        help="say on one screen whether an encoder-decoder model can be trusted",
        usage="hf-custom-decoder doctor MODEL [DATA] [--json FILE] [--skip CHECK] [--source COLUMN] [--target COLUMN]",
        description=(
            "Examines any encoder-decoder model (a folder, a name on the Hub, or a folder with a config.json alone) "
            "on the CPU, on rows of DATA or on random ids. The folder is only read. Exit status 1 if a check says "
            "wrong."
        ),
    )
    parser.add_argument("model", metavar="MODEL", help="folder, name on the Hub, or folder with a config alone")
    parser.add_argument("data", nargs="?", metavar="DATA", help="json, csv, tsv or parquet file to take examples from")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the findings there too")
    parser.add_argument(
        "--skip", action="append", default=[], choices=CHECK_NAMES, help="leave a check out; repeatable"
    )
    parser.add_argument(
        "--trust_remote_code", action="store_true", help="run code from the folder; models of this package need none"
    )
    parser.set_defaults(run=_run_doctor)


def _run_doctor(arguments: argparse.Namespace) -> int:
    if arguments.data is None and arguments.overrides:
        raise ValueError(
            f"{', '.join(arguments.overrides)} belongs to DATA, got no such file. Name one, or leave it out."
        )
    data = None
    if arguments.data is not None:
        data = evaluation_recipe(None, arguments.model, [arguments.data], arguments.overrides).data
    report = examine(arguments.model, data, skip=arguments.skip, trust_remote_code=arguments.trust_remote_code)
    _print_line(str(report))
    if arguments.json is not None:
        write_json(arguments.json, report.to_dict())
    return EXIT_DONE if report.is_trusted else EXIT_WRONG


def _add_compare(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    parser = commands.add_parser(
        "compare",
        help="say whether one of two systems is significantly better on the same test data",
        description=(
            "Paired bootstrap (Koehn 2004) over what `evaluate` wrote for two models: the difference of their "
            "figures, the interval that holds 95 % of resampled differences, and a p-value."
        ),
    )
    parser.add_argument("first", type=Path, metavar="PREDICTIONS_A", help="predictions.jsonl, or a folder with it")
    parser.add_argument("second", type=Path, metavar="PREDICTIONS_B", help="the same of the other system")
    parser.add_argument(
        "--metric", action="append", choices=PAIRED_METRICS, help="repeatable (default: bleu and chrf)"
    )
    parser.add_argument("--samples", type=int, default=1000, help="test sets that are drawn (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=12345, help="of the draw, at least 1 (default: %(default)s)")
    parser.add_argument("--bpe_joiner", help="mark at the end of a piece that goes on, such as @@")
    parser.add_argument("--language", help="zh, ja or ko, for the tokenization of BLEU")
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the figures there too")
    parser.set_defaults(run=_run_compare)


def _run_compare(arguments: argparse.Namespace) -> None:
    found = compare_predictions(
        arguments.first,
        arguments.second,
        arguments.metric or ("bleu", "chrf"),
        num_samples=arguments.samples,
        seed=arguments.seed,
        language=arguments.language,
        bpe_joiner=arguments.bpe_joiner,
    )
    for comparison in found:
        _print_line(str(comparison))
    if arguments.json is not None:
        write_json(arguments.json, [asdict(comparison) for comparison in found])


def _print_line(text: str) -> None:
    print(text, flush=True)
