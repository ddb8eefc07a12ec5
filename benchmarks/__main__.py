"""`python -m benchmarks`: parses and calls."""

import argparse
import time

import torch
from transformers.utils import logging

from .ctranslate2_speed import EQUAL as EQUAL_CTRANSLATE2
from .device_mode import EQUAL as EQUAL_ON_DEVICE
from .device_mode import PLANS, check_device, device_facts, device_measurements, device_name
from .device_results import DeviceFigure, device_table
from .full_mode import NOT_EQUAL, NOT_MEASURED, full_measurements, missing_peers
from .interleaved import MIN_ROUNDS
from .measurements import EQUAL
from .plots import PLOTS, new_picture, plot_ratios
from .results import RESULTS, Figure, circumstances, table, write_section
from .resumable_state import STATE_FOLDER, ResumableState, run_all
from .short_mode import short_measurements
from .sizes import BASE, TINY, TRIAL_BASE, TRIAL_TINY


def write_with_plot(name: str, heading: str, body: str, figures: list[Figure]) -> None:
    """Write a section of the results and draw its ratios."""
    picture = PLOTS / f"{name}.png"
    plot_ratios(picture, figures, title=heading)
    write_section(name, heading, f"{body}\n![{heading}: ratios](plots/{picture.name})\n")
    print(f"Written to {RESULTS} and {picture}")


def run_short(seed: int, rounds: int, write: bool) -> None:
    """Print every figure of the short mode; with `write` put them into the results."""
    start, figures = time.monotonic(), []
    for _, measurement in short_measurements(seed, rounds):
        for figure in measurement():
            print(figure.line(), flush=True)
            figures.append(figure)
    print(f"{time.monotonic() - start:.0f} s, {time.process_time():.0f} s of CPU time")
    if write:
        facts = circumstances("python -m benchmarks --write", seed=seed, equal=EQUAL)
        body = f"{facts}- Size {TINY.describe()}\n\n{table(figures)}"
        write_with_plot("short", "BART, size tiny, one CPU thread", body, figures)


def run_full(seed: int, rounds: int, write: bool, restart: bool, *, trial: bool = False, only: str = "") -> None:
    """
    As `run_short` for the full mode, which keeps what is finished and goes on from there.

    Args:
        trial (`bool`): Very small models, to see that everything runs.
        only (`str`): Measurements with this in their name.
    """
    path = STATE_FOLDER / ("trial.json" if trial else "full.json")
    if restart:
        path.unlink(missing_ok=True)
    missing = missing_peers()
    for line in NOT_MEASURED + missing:
        print(f"Not measured: {line}", flush=True)
    state = ResumableState(path, {"seed": seed, "rounds": rounds, "missing": missing}, Figure)
    sizes = (TRIAL_TINY, TRIAL_BASE) if trial else (TINY, BASE)
    measurements = [one for one in full_measurements(seed, rounds, *sizes) if only in one[0]]
    figures = run_all(measurements, state, lambda line: print(line, flush=True))
    if write:
        facts = circumstances("python -m benchmarks --full --write", seed=seed, equal=EQUAL)
        absent = "".join(f"- Not measured: {line}\n" for line in NOT_MEASURED + missing)
        other = f"- {NOT_EQUAL}\n" + ("" if "CTranslate2" in absent else f"- {EQUAL_CTRANSLATE2}\n")
        described = f"- Size {TINY.describe()}\n- Size {BASE.describe()}\n"
        body = f"{facts}{other}{described}{absent}\n{table(figures)}"
        write_with_plot("full", "All sizes and other models, one CPU thread", body, figures)


def run_device(device: str, seed: int, rounds: int, write: bool, restart: bool, *, only: str = "") -> None:
    """As `run_full` for training and decoding on a device."""
    plan, path = PLANS[device], STATE_FOLDER / f"{device}.json"
    if restart:
        path.unlink(missing_ok=True)
    settings = {"seed": seed, "rounds": rounds, "device": device_name(device)}
    state = ResumableState(path, settings, DeviceFigure)
    measurements = [one for one in device_measurements(plan, seed, rounds) if only in one[0]]
    figures = run_all(measurements, state, lambda line: print(line, flush=True))
    if write:
        facts = circumstances(f"python -m benchmarks --device {device} --write", seed=seed, equal=EQUAL_ON_DEVICE)
        write_section(
            device, "Training and decoding on a GPU", f"{facts}{device_facts(plan)}\n{device_table(figures)}"
        )
        print(f"Written to {RESULTS}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory beside BART.")
    parser.add_argument("--full", action="store_true", help="size base and other models too; hours, can be stopped")
    parser.add_argument(
        "--device",
        choices=list(PLANS),
        help="training and decoding on a card; cpu tries the same with very small models",
    )
    parser.add_argument("--restart", action="store_true", help="with --full or --device: measure everything anew")
    parser.add_argument(
        "--trial", action="store_true", help="with --full: very small models, to see that all of it runs"
    )
    parser.add_argument(
        "--only", default="", metavar="TEXT", help="with --full or --device: measurements with TEXT in their name"
    )
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/RESULTS.md")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help="pairs for each figure (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    if options.full and options.device:
        parser.error("--full and --device are two runs: pass one of them.")
    if options.trial and not options.full or options.only and not (options.full or options.device):
        parser.error("--trial goes with --full, --only with --full or --device.")
    if options.write and (options.trial or options.only or options.device == "cpu"):
        parser.error("--write is for all figures of the real sizes: leave out --trial, --only and --device cpu.")
    if options.write and not options.device:
        try:
            new_picture(1, 1)
        except ImportError as error:
            parser.error(str(error))
    if options.device:
        try:
            check_device(options.device)
        except ValueError as error:
            parser.error(str(error))
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    torch.set_num_threads(1)
    if options.device:
        run_device(options.device, options.seed, options.rounds, options.write, options.restart, only=options.only)
    elif options.full:
        run_full(options.seed, options.rounds, options.write, options.restart, trial=options.trial, only=options.only)
    else:
        run_short(options.seed, options.rounds, options.write)


if __name__ == "__main__":
    main()
