"""What the scripts of this folder have in common: the file they write and the figures they keep."""

import json
import sys
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

REFERENCES = Path(__file__).parent.parent / "references"

NUM_LARGEST = 5
"""Scores kept of each step, besides the mean of all."""


def summary(scores: Iterable[float]) -> list[Any]:
    """`[ids of the largest scores, these scores, mean of all scores]`, five decimals: a step in one short line."""
    values = [float(score) for score in scores]
    largest = sorted(range(len(values)), key=lambda token_id: -values[token_id])[:NUM_LARGEST]
    return [largest, [round(values[token_id], 5) for token_id in largest], round(sum(values) / len(values), 5)]


def write_references(
    name: str, package: str, tools: Iterable[str], install: str, **parts: Mapping[str, Any] | str
) -> None:
    """
    Write `references/NAME.json`.

    Args:
        name (`str`): Of the file and of the script.
        package (`str`): Whose outputs they are, as the registry spells it.
        tools (`Iterable[str]`): Packages whose versions the outputs may depend on.
        install (`str`): How the environment was made.
        parts: Texts, and mappings that are written one entry a line.
    """
    head = {
        "package": package,
        "version": version(package),
        "install": install,
        "command": f"python -m tests.conversion.make_references.{name}",
        "made_with": {"python": sys.version.split()[0], **{tool: version(tool) for tool in tools}},
    }
    lines = [f"{_json(key)}: {_json(value)}" for key, value in head.items()]
    for key, part in parts.items():
        if isinstance(part, str):
            lines.append(f"{_json(key)}: {_json(part)}")
        else:
            entries = ",\n".join(f"{_json(one)}:{_json(value)}" for one, value in part.items())
            lines.append(f"{_json(key)}: {{\n{entries}\n}}")
    path = REFERENCES / f"{name}.json"
    path.parent.mkdir(exist_ok=True)
    path.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
    print(f"{path.name}: {path.stat().st_size / 1000:.1f} kB")  # noqa: T201


def _json(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))
