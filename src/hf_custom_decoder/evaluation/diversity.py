"""How varied texts are, from their words alone."""

from collections.abc import Sequence


def distinct_share(texts: Sequence[Sequence[str]], size: int) -> float:
    """Distinct-n of Li et al. 2016, section 5.1: different n-grams of all texts over the number of their n-grams.

    Args:
        texts (`Sequence[Sequence[str]]`): Tokens of every text.
        size (`int`): n, in tokens.

    Returns:
        `float`: From 0 to 1; 0 where no text has so many tokens.
    """
    grams = [gram for text in texts for gram in ngrams(text, size)]
    return len(set(grams)) / len(grams) if grams else 0.0


def repeated_share(texts: Sequence[Sequence[str]], size: int) -> float:
    """Seq-rep-n of Welleck et al. 2020, section 6: the share of a text's n-grams that stood in it before, averaged.

    Args:
        texts (`Sequence[Sequence[str]]`): Tokens of every text; those with fewer than `size` count as 0.
        size (`int`): n, in tokens.

    Returns:
        `float`: From 0 (nothing is repeated) to below 1.
    """
    shares = []
    for text in texts:
        grams = ngrams(text, size)
        shares.append(1.0 - len(set(grams)) / len(grams) if grams else 0.0)
    return sum(shares) / len(shares) if shares else 0.0


def ngrams(tokens: Sequence[str], size: int) -> list[tuple[str, ...]]:
    """All runs of `size` tokens, in order."""
    return [tuple(tokens[start : start + size]) for start in range(len(tokens) - size + 1)]
