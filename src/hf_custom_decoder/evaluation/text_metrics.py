"""Metrics of generated texts, each as others compute it."""

import re
import string
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from .diversity import distinct_share, repeated_share
from .error_rates import nearest_reference


@dataclass(frozen=True)
class Score:
    """One figure.

    Attributes:
        value (`float`): The figure; percentages go from 0 to 100.
        settings (`str`): How it was computed, such as the signature of sacrebleu.
        greater_is_better (`bool`): Which way is better.
    """

    value: float
    settings: str
    greater_is_better: bool = True


MAIN_SCORES = {
    "bleu": "bleu",
    "bleu_tokenized": "bleu_tokenized",
    "chrf": "chrf",
    "rouge": "rougeL",
    "exact_match": "exact_match",
    "token_f1": "token_f1",
    "error_rates": "token_error_rate",
    "diversity": "distinct_2",
}
"""The figure by which a metric of several is compared."""

_PACKAGES = {"bleu": "sacrebleu", "bleu_tokenized": "sacrebleu", "chrf": "sacrebleu", "rouge": "rouge_score"}
_BLEU_TOKENIZERS = {"zh": "zh", "ja": "ja-mecab", "ko": "ko-mecab"}


def check_metric_packages(metrics: Sequence[str], *, language: str | None = None) -> None:
    """Asks for what metrics need, before any work is done.

    Args:
        metrics (`Sequence[str]`): Which of them.
        language (`str`, *optional*): As [`score_texts`] takes it.

    Raises:
        ImportError: If a package is missing; it names the remedy.
        ValueError: If the language has no tokenizer of its own.
    """
    from importlib.util import find_spec

    missing = sorted({_PACKAGES[name] for name in metrics if name in _PACKAGES and find_spec(_PACKAGES[name]) is None})
    if missing:
        raise ImportError(
            f"The metrics {', '.join(metrics)} need {' and '.join(missing)}. Install what is missing with "
            'pip install "hf_custom_decoder[evaluate]"'
        )
    if language is not None and language not in _BLEU_TOKENIZERS:
        raise ValueError(
            f"`language` must be one of {', '.join(_BLEU_TOKENIZERS)}, got {language!r}. Leave it out: all others "
            "share one tokenizer."
        )
    if language is not None and "bleu" in metrics:
        try:
            sacrebleu_metric("bleu", language)
        except (AssertionError, RuntimeError) as error:  # no MeCab, or one with another dictionary
            raise ImportError(
                f"BLEU of the language {language} needs MeCab and its dictionary. Install what is missing with "
                f'pip install "sacrebleu[{language}]"'
            ) from error


def score_texts(
    metrics: Sequence[str],
    hypotheses: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    language: str | None = None,
) -> dict[str, Score]:
    """Scores one text an entry against one or several references.

    - "bleu": sacreBLEU (Post 2018) on raw text. "bleu_tokenized": BLEU of what blanks separate, no smoothing, as
      multi-bleu.perl gives it on tokenised files. "chrf": chrF2.
    - "rouge": F1 of ROUGE-1, -2, -L and -Lsum with stemming, for each entry the best over its references.
    - "exact_match", "token_f1": of SQuAD (Rajpurkar et al. 2016): lower case, no punctuation and articles; the best
      over the references.
    - "error_rates": `wrong_outputs`, the share of texts that equal no reference, and `token_error_rate`, edits a
      token of the nearest references; tokens are what blanks separate. Of pronunciations they are the word and the
      phoneme error rate.
    - "diversity": different words and pairs of words over their number (Li et al. 2016), and the share of 4-grams that
      stood in the same text before (Welleck et al. 2020).

    Args:
        metrics (`Sequence[str]`): Which of them.
        hypotheses (`Sequence[str]`): What was produced.
        references (`Sequence[Sequence[str]]`): What is right, at least one text an entry.
        language (`str`, *optional*): "zh", "ja" or "ko" for sacreBLEU's tokenizer; left out for the others, which
            share one.

    Returns:
        `dict[str, Score]`: All figures by name.

    Raises:
        ImportError: If a package is missing.
        ValueError: If there is nothing to score, the lists differ in length, an entry has no reference, or the
            language has no tokenizer of its own.
    """
    if not hypotheses or len(hypotheses) != len(references):
        raise ValueError(
            "There must be outputs to score, and a list of references for each, got "
            f"{len(hypotheses)} and {len(references)}."
        )
    for idx, texts in enumerate(references):
        if not texts:
            raise ValueError(f"`references[{idx}]` must hold at least one text, got none. Leave such entries out.")
    check_metric_packages(metrics, language=language)
    scores: dict[str, Score] = {}
    for name in metrics:
        if name not in _METRICS:
            raise ValueError(f"`metrics` must be among {', '.join(_METRICS)}, got {name!r}.")
        scores |= _METRICS[name](hypotheses, references, language)
    return scores


def join_bpe(text: str, joiner: str) -> str:
    """Takes out the marks of pieces that go on: with the joiner "@@", "lo@@ w er@@" becomes "low er"."""
    mark = re.escape(joiner)
    return re.sub(f"{mark} |{mark}$", "", text)


def normalize_answer(text: str) -> str:
    """Lower case, no punctuation, no English articles, single blanks: as SQuAD's script compares answers."""
    text = "".join(character for character in text.lower() if character not in set(string.punctuation))
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", text).split())


def sacrebleu_metric(name: str, language: str | None, **settings: Any) -> Any:
    """sacreBLEU's object for "bleu", "bleu_tokenized" or "chrf", as all figures of this package are computed."""
    from sacrebleu.metrics.bleu import BLEU
    from sacrebleu.metrics.chrf import CHRF

    if name == "chrf":
        return CHRF(**settings)
    if name == "bleu_tokenized":
        return BLEU(tokenize="none", force=True, **{"smooth_method": "none", **settings})
    return BLEU(tokenize=_BLEU_TOKENIZERS.get(language or "", "13a"), **settings)


def reference_streams(references: Sequence[Sequence[str]]) -> list[list[str | None]]:
    """References as sacrebleu takes them, as streams; entries with fewer of them have None there."""
    most = max(map(len, references))
    return [[texts[idx] if idx < len(texts) else None for texts in references] for idx in range(most)]


def _bleu(hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str | None) -> dict[str, Score]:
    return {"bleu": _corpus_score(sacrebleu_metric("bleu", language), hypotheses, references)}


def _bleu_tokenized(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str | None
) -> dict[str, Score]:
    return {"bleu_tokenized": _corpus_score(sacrebleu_metric("bleu_tokenized", language), hypotheses, references)}


def _chrf(hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str | None) -> dict[str, Score]:
    return {"chrf": _corpus_score(sacrebleu_metric("chrf", language), hypotheses, references)}


def _corpus_score(metric: Any, hypotheses: Sequence[str], references: Sequence[Sequence[str]]) -> Score:
    value = metric.corpus_score(list(hypotheses), reference_streams(references)).score
    return Score(float(value), str(metric.get_signature()))


def _rouge(hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str | None) -> dict[str, Score]:
    from importlib.metadata import version

    from rouge_score.rouge_scorer import RougeScorer

    names = ["rouge1", "rouge2", "rougeL", "rougeLsum"]
    scorer = RougeScorer(names, use_stemmer=True)
    totals = dict.fromkeys(names, 0.0)
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        scored = [scorer.score(text, hypothesis) for text in texts]
        for name in names:
            totals[name] += max(one[name].fmeasure for one in scored)
    settings = f"rouge-score {version('rouge-score')}, F1, stemmed, best reference"
    return {name: Score(100.0 * total / len(hypotheses), settings) for name, total in totals.items()}


def _exact_match(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str | None
) -> dict[str, Score]:
    def matches(hypothesis: str, reference: str) -> float:
        return float(normalize_answer(hypothesis) == normalize_answer(reference))

    return {"exact_match": Score(_best_mean(matches, hypotheses, references), "SQuAD, best reference")}


def _token_f1(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str | None
) -> dict[str, Score]:
    def overlap(hypothesis: str, reference: str) -> float:
        produced, right = normalize_answer(hypothesis).split(), normalize_answer(reference).split()
        if not produced or not right:
            return float(produced == right)
        common = sum((Counter(produced) & Counter(right)).values())
        return 2.0 * common / (len(produced) + len(right))

    return {"token_f1": Score(_best_mean(overlap, hypotheses, references), "SQuAD, best reference")}


def _best_mean(
    compare: Callable[[str, str], float], hypotheses: Sequence[str], references: Sequence[Sequence[str]]
) -> float:
    best = [max(compare(text, one) for one in texts) for text, texts in zip(hypotheses, references, strict=True)]
    return 100.0 * sum(best) / len(best)


def _error_rates(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str | None
) -> dict[str, Score]:
    num_wrong = num_edits = num_tokens = 0
    for hypothesis, texts in zip(hypotheses, references, strict=True):
        distance, nearest = nearest_reference(hypothesis.split(), [text.split() for text in texts])
        num_wrong += distance > 0
        num_edits += distance
        num_tokens += len(nearest)
    settings = "tokens split at blanks, nearest reference"
    return {
        "wrong_outputs": Score(100.0 * num_wrong / len(hypotheses), settings, greater_is_better=False),
        "token_error_rate": Score(100.0 * num_edits / max(num_tokens, 1), settings, greater_is_better=False),
    }


def _diversity(
    hypotheses: Sequence[str], references: Sequence[Sequence[str]], language: str | None
) -> dict[str, Score]:
    texts = [text.split() for text in hypotheses]
    return {
        "distinct_1": Score(100.0 * distinct_share(texts, 1), "words, over all outputs"),
        "distinct_2": Score(100.0 * distinct_share(texts, 2), "pairs of words, over all outputs"),
        "repetition_4": Score(
            100.0 * repeated_share(texts, 4), "4-grams of words, mean over outputs", greater_is_better=False
        ),
    }


_METRICS: dict[str, Callable[[Sequence[str], Sequence[Sequence[str]], str | None], dict[str, Score]]] = {
    "bleu": _bleu,
    "bleu_tokenized": _bleu_tokenized,
    "chrf": _chrf,
    "rouge": _rouge,
    "exact_match": _exact_match,
    "token_f1": _token_f1,
    "error_rates": _error_rates,
    "diversity": _diversity,
}
