"""`python -m benchmarks`: parses and calls."""

import argparse
import time

import torch
from transformers.utils import logging

from .interleaved import MIN_ROUNDS
from .results import RESULTS, circumstances, table, write_section
from .short_mode import EQUAL, short_measurements
from .sizes import TINY


def run_short(seed: int, rounds: int, write: bool) -> None:
    """Print every figure of the short mode; with `write` put them into the results."""
    start, figures = time.monotonic(), []
    for measurement in short_measurements(seed, rounds):
        for figure in measurement():
            print(figure.line(), flush=True)
            figures.append(figure)
    print(f"{time.monotonic() - start:.0f} s, {time.process_time():.0f} s of CPU time")
    if write:
        facts = circumstances("python -m benchmarks --write", seed=seed, equal=EQUAL)
        write_section(
            "short", "BART, size tiny, one CPU thread", f"{facts}- Size {TINY.describe()}\n\n{table(figures)}"
        )
        print(f"Written to {RESULTS}")


def main(arguments: list[str] | None = None) -> None:
    """Entry point."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--write", action="store_true", help="put the figures into benchmarks/RESULTS.md")
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS, help="pairs for each figure (default %(default)s)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args(arguments)
    logging.set_verbosity_error()
    torch.set_num_threads(1)
    run_short(options.seed, options.rounds, options.write)


if __name__ == "__main__":
    main()
