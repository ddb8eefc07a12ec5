"""`python -m benchmarks`: parses and calls."""

import argparse
import time

import torch
from transformers.utils import logging

from .full_mode import NOT_EQUAL, NOT_MEASURED, full_measurements
from .interleaved import MIN_ROUNDS
from .measurements import EQUAL
from .peers_torch import has_x_transformers
from .results import RESULTS, circumstances, table, write_section
from .resumable_state import STATE_FOLDER, ResumableState, run_all
from .short_mode import short_measurements
from .sizes import BASE, TINY


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
        write_section("short", "BART, size tiny, one CPU thread", body)
        print(f"Written to {RESULTS}")


def run_full(seed: int, rounds: int, write: bool, restart: bool) -> None:
    """As `run_short` for the full mode, which keeps what is finished and goes on from there."""
    path = STATE_FOLDER / "full.json"
    if restart:
        path.unlink(missing_ok=True)
    not_measured = list(NOT_MEASURED)
    if not has_x_transformers():
        not_measured.append("x-transformers: it was not installed.")
    for line in not_measured:
        print(f"Not measured: {line}", flush=True)
    state = ResumableState(path, {"seed": seed, "rounds": rounds, "x-transformers": has_x_transformers()})
    measurements = list(full_measurements(seed, rounds))
    figures = run_all(measurements, state, lambda line: print(line, flush=True))
    if write:
        facts = circumstances("python -m benchmarks --full --write", seed=seed, equal=EQUAL)
        missing = "".join(f"- Not measured: {line}\n" for line in not_measured)
        sizes = f"- {NOT_EQUAL}\n- Size {TINY.describe()}\n- Size {BASE.describe()}\n"
        write_section(
            "full", "All sizes and other models, one CPU thread", f"{facts}{sizes}{missing}\n{table(figures)}"
        )
        print(f"Written to {RESULTS}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description="Speed and memory beside BART.")
    parser.add_argument("--full", action="store_true", help="size base and other models too; hours, can be stopped")
    parser.add_argument("--restart", action="store_true", help="with --full: measure finished figures anew")
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/RESULTS.md")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help="pairs for each figure (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    if options.full:
        run_full(options.seed, options.rounds, options.write, options.restart)
    else:
        run_short(options.seed, options.rounds, options.write)


if __name__ == "__main__":
    main()
