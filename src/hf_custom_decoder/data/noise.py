"""Self-supervised objectives: from a window of tokens to a source and a target.

Every function takes the token ids of a window, without special tokens at its ends, and a generator that alone decides
what is drawn. Letters: N tokens of text, M of them hidden, in S spans.
"""

from collections.abc import Sequence

import numpy as np

Ids = list[int]


def span_counts(num_tokens: int, rate: float, mean_length: float) -> tuple[int, int]:
    """Returns how many tokens are hidden, and in how many spans: as T5's code counts them, from the length alone.

    Args:
        num_tokens (`int`): N, at least 2.
        rate (`float`): Share of the tokens to hide.
        mean_length (`float`): Mean length of a span in tokens.
    """
    hidden = min(max(round(num_tokens * rate), 1), num_tokens - 1)
    spans = max(round(hidden / mean_length), 1)
    return hidden, min(spans, num_tokens - hidden + 1)


def corrupt_spans(
    ids: Sequence[int],
    generator: np.random.Generator,
    *,
    rate: float,
    mean_length: float,
    sentinel_ids: Sequence[int],
) -> tuple[Ids, Ids]:
    """Span corruption (Raffel et al. 2020, section 3.1.4): spans are hidden behind sentinels, the target spells them.

    The target is the first sentinel, the first span, the second sentinel, and so on, closed by one sentinel more. All
    ways to lay M hidden tokens into S spans, with a token between two, are equally likely. It differs from T5's code,
    which begins with a kept token and ends with a hidden one, so that it always hides the end of a short text.

    Returns:
        `tuple[list[int], list[int]]`: N - M + S tokens of source, M + S + 1 of target.
    """
    hidden, spans = span_counts(len(ids), rate, mean_length)
    lengths = _positive_parts(hidden, spans, generator)
    # A token must stay between spans, at both ends none need be: S + 1 parts, the outer ones of which may be empty.
    gaps = _positive_parts(len(ids) - hidden + 2, spans + 1, generator)
    gaps[0] -= 1
    gaps[-1] -= 1
    source: Ids = []
    target: Ids = []
    start = 0
    for sentinel, gap, length in zip(sentinel_ids, gaps, lengths, strict=False):
        source += [*ids[start : start + gap], sentinel]
        target += [sentinel, *ids[start + gap : start + gap + length]]
        start += gap + length
    return [*source, *ids[start:]], [*target, sentinel_ids[spans]]


def infilling_extra(num_tokens: int, rate: float) -> int:
    """Returns how many empty spans [`infill`] puts in at most: one, and one more for four hidden tokens."""
    return 1 + round(num_tokens * rate) // 4


def infill(
    ids: Sequence[int],
    generator: np.random.Generator,
    *,
    rate: float,
    mean_length: float,
    mask_id: int,
) -> Ids:
    """Text infilling (Lewis et al. 2020, section 2.2): every span becomes one mask, an empty span puts a mask in.

    Lengths are drawn from a Poisson distribution until `rate` of the tokens are hidden; the last one is cut to fit,
    and empty ones beyond [`infilling_extra`] are drawn again, so that the length is bounded. All orders of kept tokens
    and spans are equally likely; unlike BART's code, spans may begin within a word.

    Returns:
        `list[int]`: At most N + `infilling_extra` tokens.
    """
    hidden = min(max(round(len(ids) * rate), 1), len(ids))
    most_empty = infilling_extra(len(ids), rate)
    lengths: list[int] = []
    while (missing := hidden - sum(lengths)) > 0:
        length = min(int(generator.poisson(mean_length)), missing)
        if length or lengths.count(0) < most_empty:
            lengths.append(length)
    kept = len(ids) - hidden
    places = set(generator.choice(kept + len(lengths), size=len(lengths), replace=False).tolist())
    remaining = iter(lengths)
    source: Ids = []
    start = 0
    for place in range(kept + len(lengths)):
        if place in places:
            source.append(mask_id)
            start += next(remaining)
        else:
            source.append(ids[start])
            start += 1
    return source


def permute_sentences(ids: Sequence[int], generator: np.random.Generator, *, last_ids: frozenset[int]) -> Ids:
    """Sentence permutation (Lewis et al. 2020, section 2.2): the sentences in an order that is drawn.

    Args:
        ids (`Sequence[int]`): The window.
        generator (`np.random.Generator`): Draws the order.
        last_ids (`frozenset[int]`): Tokens that end a sentence; what follows the last of them is one too.
    """
    sentences: list[Ids] = [[]]
    for idx in ids:
        sentences[-1].append(idx)
        if idx in last_ids:
            sentences.append([])
    whole = [sentence for sentence in sentences if sentence]
    return [idx for place in generator.permutation(len(whole)) for idx in whole[place]]


def split_prefix(ids: Sequence[int], generator: np.random.Generator) -> tuple[Ids, Ids]:
    """Prefix language modelling (Raffel et al. 2020, section 3.3.1): the window is cut in two at a drawn place.

    Returns:
        `tuple[list[int], list[int]]`: The first part, at least one token, and the rest, at least one too.
    """
    place = int(generator.integers(1, len(ids)))
    return list(ids[:place]), list(ids[place:])


def _positive_parts(total: int, num_parts: int, generator: np.random.Generator) -> list[int]:
    """Cuts a number into parts of at least one; all ways are equally likely."""
    cuts = np.sort(generator.choice(total - 1, size=num_parts - 1, replace=False)) + 1
    parts: list[int] = np.diff(np.concatenate(([0], cuts, [total]))).tolist()
    return parts
