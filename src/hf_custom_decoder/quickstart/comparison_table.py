"""One table of several decoders, for the terminal and as files."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..atomic_files import write_json, write_text
from ..training.progress_bar import format_seconds
from .quickstart_results import QuickstartResults

TABLE_FILE = "comparison.md"
FIGURES_FILE = "comparison.json"

_COLUMNS = ("decoder", "words wrong", "phoneme errors", "parameters", "training tokens/s", "decoding tokens/s")


def format_comparison(runs: Sequence[QuickstartResults]) -> str:
    """Draws one line a decoder, as a Markdown table whose columns are even in plain text too."""
    rows = [
        (
            results.decoder,
            f"{results.total.word_error_rate:.1%}",
            f"{results.total.phoneme_error_rate:.1%}",
            f"{results.training.num_parameters:,}",
            f"{results.training.tokens_per_second:,.0f}",
            f"{results.decoding.tokens_per_second:,.0f}",
        )
        for results in runs
    ]
    widths = [max(len(row[column]) for row in [_COLUMNS, *rows]) for column in range(len(_COLUMNS))]
    rule = ["-" * widths[0], *("-" * (width - 1) + ":" for width in widths[1:])]
    lines = [
        [row[0].ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(row[1:], widths[1:], strict=True))]
        for row in [_COLUMNS, *rows]
    ]
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [lines[0], rule, *lines[1:]])


def describe_comparison(runs: Sequence[QuickstartResults]) -> str:
    """Says in a few sentences what the figures of the table were measured on and how."""
    first = runs[0]
    seconds = [results.training.seconds for results in runs]
    steps = [results.training.num_steps for results in runs]
    search = "greedy search" if first.decoding.num_beams == 1 else f"{first.decoding.num_beams} beams"
    hardware = sorted({figures.hardware for results in runs for figures in (results.training, results.decoding)})
    return (
        f"CMU Pronouncing Dictionary, {first.training.num_words:,} words to train on, {first.total.num_words:,} held "
        f"out; {_span(seconds, format_seconds)} minutes and {_span(steps, '{:,}'.format)} steps of "
        f"{first.training.batch_size} pairs a decoder, seed {first.training.seed}; "
        f"{search}; {' and '.join(hardware)}. Training tokens are letters, phonemes and end tokens, decoding tokens "
        "phonemes and end tokens of the best hypotheses; padding does not count."
    )


def write_comparison(folder: Path, runs: Sequence[QuickstartResults], settings: dict[str, Any]) -> None:
    """Writes the table as "comparison.md" and its figures as "comparison.json", each complete or not at all.

    Args:
        folder (`Path`): Where to.
        runs (`Sequence[QuickstartResults]`): One a decoder, at least one.
        settings (`dict[str, Any]`): What all runs have in common.
    """
    decoders = [
        {
            "decoder": results.decoder,
            "word_error_rate": results.total.word_error_rate,
            "phoneme_error_rate": results.total.phoneme_error_rate,
            "num_parameters": results.training.num_parameters,
            "num_steps": results.training.num_steps,
            "training_seconds": results.training.seconds,
            "training_tokens_per_second": results.training.tokens_per_second,
            "training_hardware": results.training.hardware,
            "decoding_tokens_per_second": results.decoding.tokens_per_second,
            "decoding_hardware": results.decoding.hardware,
            "num_beams": results.decoding.num_beams,
        }
        for results in runs
    ]
    write_json(folder / FIGURES_FILE, {"settings": settings, "decoders": decoders})
    write_text(
        folder / TABLE_FILE,
        f"# The decoders of the quickstart\n\n{format_comparison(runs)}\n\n{describe_comparison(runs)}\n",
    )


def _span(values: Sequence[Any], write: Any) -> str:
    """Writes the least and the greatest value, or the one there is."""
    low, high = write(min(values)), write(max(values))
    return str(low) if low == high else f"{low} to {high}"
