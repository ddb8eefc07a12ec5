"""Figures of single texts, and the sums from which a metric of many is made."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from .error_rates import nearest_reference
from .text_metrics import MAIN_SCORES, reference_streams, sacrebleu_metric, score_texts

PAIRED_METRICS = tuple(name for name in MAIN_SCORES if name != "diversity")
"""Metrics that compare each output with its references."""
_SACREBLEU_METRICS = ("bleu", "bleu_tokenized", "chrf")

Statistics = npt.NDArray[np.float64]


@dataclass(frozen=True)
class MetricStatistics:
    """What a metric of a corpus is computed from.

    Attributes:
        rows (`np.ndarray` of shape `(N, K)`): Numbers of each text; those of a corpus are their sums.
        figure (`Callable`): From such sums `(K,)` to the figure.
        greater_is_better (`bool`): Which way is better.
        settings (`str`): The signature of sacrebleu, where it counts.
    """

    rows: Statistics
    figure: Callable[[Statistics], float]
    greater_is_better: bool
    settings: str = ""


def sentence_scores(
    metrics: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    language: str | None = None,
) -> list[dict[str, float]]:
    """Scores every text on its own.

    BLEU of one sentence leaves out n-grams that are longer than it and smooths the others (sacreBLEU's defaults, with
    `effective_order`); it is not comparable with the figure of a corpus. All others are what [`score_texts`] gives for
    the one text. Diversity has no figure of one text.

    Args:
        metrics (`Sequence[str]`): Names as in a recipe.
        hypotheses (`Sequence[str]`): What was produced.
        references (`Sequence[Sequence[str]]`): What is right, at least one text an entry.
        language (`str`, *optional*): As [`score_texts`] takes it.

    Returns:
        `list[dict[str, float]]`: Figures by name, one dict a text.
    """
    chosen = [name for name in metrics if name in PAIRED_METRICS]
    bleu = {name: sacrebleu_metric(name, language, effective_order=True) for name in chosen if name.startswith("bleu")}
    rows = []
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        row: dict[str, float] = {}
        for name in chosen:
            if name in bleu:
                row[name] = float(bleu[name].sentence_score(hypothesis, list(texts)).score)
            else:
                found = score_texts([name], [hypothesis], [texts], language=language)
                row |= {score_name: score.value for score_name, score in found.items()}
        rows.append(row)
    return rows


def metric_statistics(
    metric: str, hypotheses: Sequence[str], references: Sequence[Sequence[str]], *, language: str | None = None
) -> MetricStatistics:
    """The sums behind a metric's main figure.

    Args:
        metric (`str`): Name as in a recipe, one of `PAIRED_METRICS`.
        hypotheses (`Sequence[str]`): What was produced.
        references (`Sequence[Sequence[str]]`): What is right, at least one text an entry.
        language (`str`, *optional*): As [`score_texts`] takes it.

    Returns:
        [`MetricStatistics`]: Of all texts.
    """
    if metric in _SACREBLEU_METRICS:
        counter = sacrebleu_metric(metric, language)
        rows = counter._extract_corpus_statistics(list(hypotheses), reference_streams(references))
        return MetricStatistics(
            np.array(rows, dtype=np.float64),
            lambda sums: float(counter._compute_score_from_stats(sums.tolist()).score),
            True,
            str(counter.get_signature()),
        )
    if metric == "error_rates":
        counts = []
        for hypothesis, texts in zip(hypotheses, references, strict=True):
            distance, nearest = nearest_reference(hypothesis.split(), [text.split() for text in texts])
            counts.append([distance, len(nearest)])
        return MetricStatistics(np.array(counts, dtype=np.float64), _percent, False)
    name = MAIN_SCORES[metric]
    scored = sentence_scores([metric], hypotheses, references, language=language)
    return MetricStatistics(np.array([[row[name] / 100.0, 1.0] for row in scored]), _percent, True)


def _percent(sums: Any) -> float:
    return float(100.0 * sums[0] / max(sums[1], 1.0))
