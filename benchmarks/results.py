"""Figures with their targets, on the screen and in `RESULTS.md`."""

import datetime
import importlib.metadata
import platform
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch

from hf_custom_decoder.atomic_files import write_text

from .interleaved import Race, Spread

RESULTS = Path(__file__).parent / "RESULTS.md"

TITLE = """# Results

Speed and memory of our models beside others. Every section is written by the command that stands in it and only by
it. How the figures are made: each pair of contestants runs in one process, A B A B, with the same data, weights or
sizes, dtype, threads and search settings; a ratio is the median over the rounds of the ratio of two times of the same
round, in brackets its quartiles; CPU figures are CPU time of the process on one thread. Only real tokens count, never
padding. Weights are random. Ratios above 1 mean that ours is faster.
"""


@dataclass(frozen=True)
class Figure:
    """
    One line of a table.

    Args:
        name (`str`): What was measured.
        ratio (`float`): Ours against the reference: of speeds, or of bytes for memory.
        lower, upper (`float`): Quartiles of the ratio; the ratio itself where there is no spread.
        ours, reference (`float`): The median figures themselves, in `unit`.
        reference_name (`str`): Whom ours is compared with.
        unit (`str`): Of `ours` and `reference`, e.g. `"tokens/s"`.
        target (`float`, *optional*): What the ratio should reach.
        at_most (`bool`): The target is an upper bound.
        note (`str`): What else must be known.
    """

    name: str
    ratio: float
    lower: float
    upper: float
    ours: float
    reference: float
    reference_name: str = "BART"
    unit: str = "tokens/s"
    target: float | None = None
    at_most: bool = False
    note: str = ""

    @property
    def verdict(self) -> str:
        """`"PASS"`, `"SHORT"`, or nothing where there is no target."""
        if self.target is None:
            return ""
        reached = self.ratio <= self.target if self.at_most else self.ratio >= self.target
        return "PASS" if reached else "SHORT"

    @property
    def target_text(self) -> str:
        """The target with its direction, or nothing."""
        return "" if self.target is None else f"{'≤' if self.at_most else '≥'} {self.target:.2f}"

    @property
    def ratio_text(self) -> str:
        """The ratio with its quartiles."""
        if self.lower == self.upper:
            return f"{self.ratio:.2f}"
        return f"{self.ratio:.2f} [{self.lower:.2f}, {self.upper:.2f}]"

    def line(self) -> str:
        """For the screen."""
        target = f"  target {self.target_text}  {self.verdict}" if self.target is not None else ""
        return (
            f"{self.name} vs {self.reference_name}: {self.ratio_text}{target}  "
            f"({number(self.ours)} vs {number(self.reference)} {self.unit}){'  ' + self.note if self.note else ''}"
        )

    def as_json(self) -> dict[str, Any]:
        """For a state file; `Figure(**...)` reads it back."""
        return asdict(self)


def number(value: float) -> str:
    """Text of a speed or a size: whole from 100 on, three digits below."""
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"


def speed_figure(
    name: str,
    result: Race,
    ours: str,
    reference: str,
    *,
    unit: str = "tokens/s",
    target: float | None = None,
    note: str = "",
) -> Figure:
    """The speed of contestant `ours` against contestant `reference`."""
    spread: Spread = result.speedup(ours, reference)
    return Figure(
        name=name,
        ratio=spread.median,
        lower=spread.lower,
        upper=spread.upper,
        ours=result.tokens_per_second(ours),
        reference=result.tokens_per_second(reference),
        reference_name=reference,
        unit=unit,
        target=target,
        note=note,
    )


def table(figures: Iterable[Figure]) -> str:
    """A Markdown table of figures."""
    rows = ["| what | beside | ours | other | unit | ratio [quartiles] | target | verdict | note |", "|---" * 9 + "|"]
    for figure in figures:
        cells = [
            figure.name,
            figure.reference_name,
            number(figure.ours),
            number(figure.reference),
            figure.unit,
            figure.ratio_text,
            figure.target_text,
            figure.verdict,
            figure.note,
        ]
        rows.append("| " + " | ".join(cells) + " |")
    return "\n".join(rows) + "\n"


def cpu_name() -> str:
    """Model name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
        return next(line.split(":", 1)[1].strip() for line in lines if line.startswith("model name"))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def circumstances(command: str, *, seed: int, equal: str) -> str:
    """What must be known beside any figure: hardware, versions, date, command, seed and what was equal."""
    hardware = f"{cpu_name()}, {torch.get_num_threads()} thread(s)"
    versions = ", ".join(f"{name} {importlib.metadata.version(name)}" for name in ("torch", "transformers"))
    return (
        f"- Command: `{command}`, seed {seed}\n"
        f"- Hardware: {hardware}; Python {platform.python_version()}, {versions}\n"
        f"- Date: {datetime.date.today().isoformat()}\n"
        f"- Equal on both sides: {equal}\n"
    )


def write_section(name: str, heading: str, body: str, path: Path = RESULTS) -> None:
    """
    Replace one section of the results, or add it at the end; all others stay as they are.

    Args:
        name (`str`): Of the section, in the comments that enclose it.
        heading (`str`): Its title.
        body (`str`): Markdown.
        path (`Path`): The file; made where it is missing.
    """
    text = path.read_text(encoding="utf-8") if path.exists() else TITLE
    first, last = f"<!-- {name} -->\n", f"<!-- end of {name} -->\n"
    section = f"{first}## {heading}\n\n{body.strip()}\n{last}"
    if first in text and last in text:
        before, rest = text.split(first, 1)
        text = before + section + rest.split(last, 1)[1]
    else:
        text = text.rstrip("\n") + "\n\n" + section
    write_text(path, text)
