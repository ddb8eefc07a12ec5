"""Figures of an evaluation in the metadata of a model card, whose other lines stay as they are."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from ..atomic_files import write_text

_HEAD = re.compile(r"\A---[ \t]*\r?\n(.*?)^---[ \t]*\r?$", re.DOTALL | re.MULTILINE)
_KEY = "model-index"
_BLOCK = re.compile(rf"^{_KEY}:.*?(?=^[^\s-]|\Z)", re.DOTALL | re.MULTILINE)


@dataclass(frozen=True)
class CardResult:
    """One figure for the card's `model-index`.

    Attributes:
        task (`str`): Pipeline tag of the Hub.
        dataset_type (`str`): Name of the data on the Hub, or "local".
        dataset_name (`str`): Name for readers.
        dataset_split (`str`): What it was measured on.
        metric_type (`str`): Name of the metric on the Hub.
        metric_name (`str`): Name for readers.
        value (`float`): The figure.
        settings (`str`): How it was computed.
    """

    task: str
    dataset_type: str
    dataset_name: str
    dataset_split: str
    metric_type: str
    metric_name: str
    value: float
    settings: str


def update_card(path: str | Path, results: Sequence[CardResult], *, model_name: str) -> bool:
    """Puts figures into the `model-index` of a card; the same figures of before are replaced, all else stays.

    Args:
        path (`str` or `Path`): The card, README.md.
        results (`Sequence[CardResult]`): The figures.
        model_name (`str`): For a card that has no results yet.

    Returns:
        `bool`: Whether the file was written; False where it says all this already.

    Raises:
        FileNotFoundError: If there is no card.
        ValueError: If its metadata are no YAML, or its `model-index` has not the form that the Hub reads.
    """
    path = Path(path)
    if not path.is_file():
        raise FileNotFoundError(f"`path` must be a model card, found none at {path}.")
    text = path.read_bytes().decode("utf-8")
    head = _HEAD.match(text)
    block = head.group(1) if head else ""
    try:
        metadata = yaml.safe_load(block) or {}
        index = metadata.get(_KEY) or [{"name": model_name, "results": []}]
        known: list[dict[str, Any]] = index[0].setdefault("results", [])
        for result in results:
            _put(known, result)
    except (yaml.YAMLError, AttributeError, KeyError, TypeError, IndexError) as error:
        reason = " ".join(str(error).split())[:120]
        raise ValueError(f"The metadata at the head of {path} cannot be read ({reason}). Correct them.") from error
    before = yaml.safe_load(block) or {}
    if before.get(_KEY) == index:
        return False
    dumped = yaml.safe_dump({_KEY: index}, sort_keys=False, allow_unicode=True)
    if _BLOCK.search(block):
        block = _BLOCK.sub(lambda match: dumped, block, count=1)
    else:
        block = f"{block}{dumped}"
    if yaml.safe_load(block) != {**before, _KEY: index}:
        raise ValueError(
            f"The `{_KEY}` at the head of {path} cannot be told from what follows it. Put it last, without comments."
        )
    rest = text[head.end() :] if head else f"\n\n{text}"
    write_text(path, f"---\n{block}---{rest}")
    return True


def _put(known: list[dict[str, Any]], result: CardResult) -> None:
    """Replaces a figure in a list of results, or adds it."""
    data = {"name": result.dataset_name, "type": result.dataset_type, "split": result.dataset_split}
    entry = next(
        (
            one
            for one in known
            if one["task"]["type"] == result.task
            and all(one["dataset"].get(name) == value for name, value in data.items())
        ),
        None,
    )
    if entry is None:
        entry = {"task": {"type": result.task, "name": result.task}, "dataset": data, "metrics": []}
        known.append(entry)
    metric = {
        "type": result.metric_type,
        "value": round(result.value, 4),
        "name": result.metric_name,
        "args": {"settings": result.settings},
    }
    for place, one in enumerate(entry["metrics"]):
        if (one["type"], one.get("name")) == (result.metric_type, result.metric_name):
            entry["metrics"][place] = metric
            return
    entry["metrics"].append(metric)
