"""Figures of single texts and the sums of many, against the corpus figures."""

import random

import numpy as np
import pytest

from hf_custom_decoder.evaluation.sentence_scores import PAIRED_METRICS, metric_statistics, sentence_scores
from hf_custom_decoder.evaluation.text_metrics import MAIN_SCORES, score_texts

WORDS = "the a cat dog sat ran home fast on under mat".split()


def texts(seed: int, count: int = 12) -> list[str]:
    generator = random.Random(seed)
    return [" ".join(generator.choices(WORDS, k=generator.randint(4, 9))) for _ in range(count)]


def needs(metric: str) -> None:
    package = {"bleu": "sacrebleu", "bleu_tokenized": "sacrebleu", "chrf": "sacrebleu", "rouge": "rouge_score"}
    if metric in package:
        pytest.importorskip(package[metric])


@pytest.mark.parametrize("metric", PAIRED_METRICS)
def test_sums_give_the_figure_of_the_corpus(metric: str) -> None:
    needs(metric)
    hypotheses = [*texts(0, 10), "the cat sat on the mat under a dog", "dog"]
    references = [[one, other] for one, other in zip(texts(1), texts(2), strict=True)]
    references[3] = references[3][:1]
    references[10] = ["the cat sat on the mat under a cat"]
    references[5] = [hypotheses[5]]
    statistics = metric_statistics(metric, hypotheses, references)
    expected = score_texts([metric], hypotheses, references)[MAIN_SCORES[metric]]
    assert expected.value > 0
    assert statistics.figure(statistics.rows.sum(axis=0)) == pytest.approx(expected.value)
    assert statistics.greater_is_better is expected.greater_is_better
    half = statistics.rows[[1, 10]].sum(axis=0)
    chosen = score_texts([metric], [hypotheses[1], hypotheses[10]], [references[1], references[10]])
    assert statistics.figure(half) == pytest.approx(chosen[MAIN_SCORES[metric]].value)


def test_figures_of_one_text() -> None:
    pytest.importorskip("sacrebleu")
    rows = sentence_scores(
        ["exact_match", "error_rates", "diversity", "bleu"], ["a cat", "dog ran"], [["The cat"], ["dog sat", "x"]]
    )
    assert rows[0]["exact_match"] == 100.0
    assert rows[1]["token_error_rate"] == 50.0
    assert rows[1]["wrong_outputs"] == 100.0
    assert rows[0]["bleu"] == pytest.approx(100 * np.sqrt(0.5 * 0.5))  # one of two words, and no pair smoothed to 1/2
    assert not any(name.startswith("distinct") for row in rows for name in row)
