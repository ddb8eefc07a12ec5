"""Whether one system is better than another, or the difference is one of the test set's accidents."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from .sentence_scores import PAIRED_METRICS, metric_statistics
from .text_metrics import MAIN_SCORES, check_metric_packages, join_bpe

PREDICTIONS_FILE = "predictions.jsonl"


@dataclass(frozen=True)
class Comparison:
    """Two systems on the same entries by one metric.

    Attributes:
        metric (`str`): Name of the figure.
        first (`float`): Of the first system.
        second (`float`): Of the second.
        difference (`float`): The second less the first.
        interval (`tuple[float, float]`): Holds 95 % of the differences of resampled test sets.
        p_value (`float`): Estimated probability of a difference at least as large, either way, between systems that
            are equally good; 1 where there is none.
        num_entries (`int`): Entries of the test set.
        greater_is_better (`bool`): Which way is better.
        settings (`str`): How it was computed.
    """

    metric: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p_value: float
    num_entries: int
    greater_is_better: bool
    settings: str

    def __str__(self) -> str:
        low, high = self.interval
        if self.difference == 0.0 or self.p_value >= 0.05:
            verdict = "no significant difference"
        else:
            verdict = f"the {'second' if (self.difference > 0) == self.greater_is_better else 'first'} is better"
        return (
            f"{self.metric}: {self.first:.2f} and {self.second:.2f}, difference {self.difference:+.2f} "
            f"[{low:+.2f}, {high:+.2f}], p = {self.p_value:.4f}: {verdict} "
            f"({self.num_entries} entries; {self.settings})"
        )


def compare_outputs(
    metric: str,
    first: Sequence[str],
    second: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    num_samples: int = 1000,
    seed: int = 12345,
    language: str | None = None,
) -> Comparison:
    """Paired bootstrap resampling (Koehn 2004, section 4): entries are drawn with replacement, the same of both.

    The p-value is two-sided: the share of resampled differences that lie at least as far from their mean, either way,
    as the difference found lies from 0; one is added to both counts, so that it is never 0. Draws and figures of BLEU
    and chrF are those of sacreBLEU's `PairedTest`, whose p-value is another: it subtracts the mean of the differences'
    sizes and so calls equal systems different too often.

    Args:
        metric (`str`): Name as in a recipe; its main figure is compared.
        first, second (`Sequence[str]`): Outputs of both systems.
        references (`Sequence[Sequence[str]]`): What is right, at least one text an entry.
        num_samples (`int`, *optional*, defaults to 1000): Test sets that are drawn.
        seed (`int`, *optional*, defaults to 12345): Of the draw, at least 1.
        language (`str`, *optional*): "zh", "ja" or "ko" for sacreBLEU's tokenizer; left out for the others.

    Returns:
        [`Comparison`]: The same for the same arguments.

    Raises:
        ImportError: If a package is missing.
        ValueError: If metric or language is unknown, a count or the seed is below 1, or the lists differ in length.
    """
    if metric not in PAIRED_METRICS:
        raise ValueError(f"`metric` must be one of {', '.join(PAIRED_METRICS)}, got {metric!r}.")
    for name, value in (("num_samples", num_samples), ("seed", seed)):
        if value < 1:
            raise ValueError(f"`{name}` must be at least 1, got {value}.")
    if not first or not len(first) == len(second) == len(references):
        raise ValueError(
            f"Both systems must have an output for each entry, got {len(first)} and {len(second)} outputs for "
            f"{len(references)} entries."
        )
    check_metric_packages([metric], language=language)
    sides = [metric_statistics(metric, texts, references, language=language) for texts in (first, second)]
    scores = [side.figure(side.rows.sum(axis=0)) for side in sides]
    draws = np.random.default_rng(seed).choice(len(first), size=(num_samples, len(first)), replace=True)
    resampled = [np.array([side.figure(side.rows[draw].sum(axis=0)) for draw in draws]) for side in sides]
    differences = resampled[1] - resampled[0]
    difference = scores[1] - scores[0]
    settings = [f"paired bootstrap, {num_samples} samples, seed {seed}", sides[0].settings]
    return Comparison(
        metric=MAIN_SCORES[metric],
        first=scores[0],
        second=scores[1],
        difference=difference,
        interval=(float(np.quantile(differences, 0.025)), float(np.quantile(differences, 0.975))),
        p_value=_p_value(differences, difference),
        num_entries=len(first),
        greater_is_better=sides[0].greater_is_better,
        settings=", ".join(filter(None, settings)),
    )


def read_predictions(path: str | Path, *, bpe_joiner: str | None = None) -> list[dict[str, Any]]:
    """Reads what `evaluate` wrote.

    Args:
        path (`str` or `Path`): `predictions.jsonl`, or a folder with it or with `evaluation/predictions.jsonl`.
        bpe_joiner (`str`, *optional*): Mark at the end of a piece that goes on, taken out of outputs and references.

    Returns:
        `list[dict[str, Any]]`: With `source`, `prediction` and `references`.

    Raises:
        FileNotFoundError: If there is no such file.
        ValueError: If a line is no prediction.
    """
    path = Path(path)
    places = [path, path / PREDICTIONS_FILE, path / "evaluation" / PREDICTIONS_FILE]
    file = next((place for place in places if place.is_file()), None)
    if file is None:
        raise FileNotFoundError(
            f"Predictions must be a {PREDICTIONS_FILE} that `evaluate` wrote, found none at {path}."
        )
    rows = []
    for number, line in enumerate(file.read_text(encoding="utf-8").removesuffix("\n").split("\n"), start=1):
        try:
            row = json.loads(line)
            row = {name: row[name] for name in ("source", "prediction", "references")}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(
                f"{file}, line {number}: must be an object with source, prediction and references, got {line!r:.80}."
            ) from error
        if bpe_joiner is not None:
            row["prediction"] = join_bpe(row["prediction"], bpe_joiner)
            row["references"] = [join_bpe(text, bpe_joiner) for text in row["references"]]
        rows.append(row)
    return rows


def compare_predictions(
    first: str | Path,
    second: str | Path,
    metrics: Sequence[str] = ("bleu", "chrf"),
    *,
    num_samples: int = 1000,
    seed: int = 12345,
    language: str | None = None,
    bpe_joiner: str | None = None,
) -> list[Comparison]:
    """Compares what two systems wrote for the same test data; arguments as in [`compare_outputs`].

    Raises:
        FileNotFoundError: If there are no predictions.
        ValueError: If sources or references differ, or a metric is unknown.
    """
    sides = [read_predictions(path, bpe_joiner=bpe_joiner) for path in (first, second)]
    if len(sides[0]) != len(sides[1]):
        raise ValueError(f"Both must be predictions of the same data, got {len(sides[0])} and {len(sides[1])} lines.")
    for number, (one, other) in enumerate(zip(*sides, strict=True), start=1):
        for name in ("source", "references"):
            if one[name] != other[name]:
                raise ValueError(
                    f"Both must be predictions of the same data, but line {number} has other {name}: "
                    f"{repr(one[name])[:60]} and {repr(other[name])[:60]}."
                )
    outputs = [[row["prediction"] for row in side] for side in sides]
    references = [row["references"] for row in sides[0]]
    options: dict[str, Any] = {"num_samples": num_samples, "seed": seed, "language": language}
    return [compare_outputs(metric, outputs[0], outputs[1], references, **options) for metric in metrics]


def _p_value(differences: npt.NDArray[np.float64], found: float) -> float:
    """Two-sided: how many resampled differences lie as far from their mean as the one found from 0."""
    num_larger = np.sum(np.abs(differences - differences.mean()) >= abs(found))
    return float((num_larger + 1) / (len(differences) + 1))
