"""Finished measurements in a file, so that a long run can be stopped and taken up again."""

import hashlib
import importlib.metadata
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import hf_custom_decoder
from hf_custom_decoder.atomic_files import write_json

from .results import cpu_name

STATE_FOLDER = Path(__file__).parent / "state"


def code_digest() -> str:
    """A short digest of our package and of the benchmarks: figures of different code are never put together."""
    folders = (Path(hf_custom_decoder.__file__).parent, Path(__file__).parent)
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


class AnyFigure(Protocol):
    """What a state keeps: one line on the screen, fields in a file."""

    def line(self) -> str:
        """For the screen."""

    def as_json(self) -> dict[str, Any]:
        """Arguments that make it anew."""


FigureType = TypeVar("FigureType", bound=AnyFigure)


class ResumableState(Generic[FigureType]):
    """
    Figures by the name of their measurement, written after each of them.

    Args:
        path (`Path`): A JSON file; made where it is missing.
        settings (`dict`): What the figures depend on (seed, rounds, ...); versions, processor and a
            digest of the code are added.
        figure_class (`type`): Of the figures.

    Raises:
        ValueError: The file holds figures of other settings.
    """

    def __init__(self, path: Path, settings: dict[str, Any], figure_class: Callable[..., FigureType]) -> None:
        versions = {name: importlib.metadata.version(name) for name in ("torch", "transformers")}
        self.figure_class = figure_class
        self.path, self.settings = (
            path,
            {
                **settings,
                **versions,
                "processor": cpu_name(),
                "code": code_digest(),
            },
        )
        self.entries: dict[str, list[dict[str, Any]]] = {}
        if path.exists():
            content = json.loads(path.read_text(encoding="utf-8"))
            if content["settings"] != self.settings:
                raise ValueError(
                    f"{path} holds figures of other settings: {content['settings']}, now {self.settings}. Pass "
                    "`--restart` to measure everything anew."
                )
            self.entries = content["entries"]

    def figures(self, name: str) -> list[FigureType] | None:
        """The figures of a finished measurement, or None."""
        entry = self.entries.get(name)
        return None if entry is None else [self.figure_class(**fields) for fields in entry]

    def store(self, name: str, figures: list[FigureType]) -> None:
        """Keep the figures of a measurement, on disk too."""
        self.entries[name] = [figure.as_json() for figure in figures]
        write_json(self.path, {"settings": self.settings, "entries": self.entries})


def run_all(
    measurements: Sequence[tuple[str, Callable[[], list[FigureType]]]],
    state: ResumableState[FigureType],
    show: Callable[[str], None],
    clock: Callable[[], float] = time.monotonic,
) -> list[FigureType]:
    """
    Run what is not finished yet, showing progress and the time left.

    Args:
        measurements: Names and what measures.
        state ([`ResumableState`]).
        show: Called with each line.

    Returns:
        The figures of all measurements, in order.
    """
    waiting = [name for name, _ in measurements if state.figures(name) is None]
    start = clock()
    figures: list[FigureType] = []
    for index, (name, measure) in enumerate(measurements, 1):
        kept = state.figures(name)
        if kept is None:
            done = len([one for one, _ in measurements[: index - 1] if one in waiting])
            left = (clock() - start) / done * (len(waiting) - done) / 60 if done else None
            about = "" if left is None else f", about {left:.0f} min left"
            show(f"[{index}/{len(measurements)}] {name}{about}")
            kept = measure()
            state.store(name, kept)
        for figure in kept:
            show("  " + figure.line())
        figures.extend(kept)
    return figures
