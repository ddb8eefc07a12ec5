"""Minimum Bayes risk: the output that the others agree with most, in place of the likeliest one."""

from collections import Counter
from collections.abc import Callable, Sequence

from .text_metrics import sacrebleu_metric

Utility = Callable[[str, str], float]


def sentence_utility(name: str, language: str | None = None) -> Utility:
    """How well an output (first) serves where another (second) is right: "chrf" or sentence "bleu", from 0 to 100."""
    if name not in ("chrf", "bleu"):
        raise ValueError(f"`name` must be chrf or bleu, got {name!r}.")
    metric = sacrebleu_metric(name, language, **({"effective_order": True} if name == "bleu" else {}))
    return lambda output, other: float(metric.sentence_score(output, [other]).score)


def least_risk(outputs: Sequence[str], utility: Utility) -> int:
    """Finds the output of greatest mean utility, every output (itself included) taken for right once.

    Eikema & Aziz 2020, equation 6, with the outputs both as candidates and as samples; Kumar & Byrne 2004 weigh an
    n-best list by probability, here each of its members counts once. An output that was drawn twice counts twice.

    Args:
        outputs (`Sequence[str]`): Of one source, at least one.
        utility (`Utility`): From [`sentence_utility`].

    Returns:
        `int`: Its index; of equal ones the first.

    Raises:
        ValueError: If there are no outputs.
    """
    if not outputs:
        raise ValueError("`outputs` must hold at least one text, got none.")
    counts = Counter(outputs)
    gains = {
        candidate: sum(count * utility(candidate, other) for other, count in counts.items()) for candidate in counts
    }
    best = max(gains.values())
    return next(idx for idx, text in enumerate(outputs) if gains[text] == best)
