"""
Sentence lengths as they are in text: a log-normal distribution, short in the main with a long tail.

Parameters, chosen before anything was timed: mean `MEAN` tokens, deviation `SIGMA` of the logarithm, cut to
`[SHORTEST, LONGEST]`. A target is as long as its source times a log-normal factor of deviation `TARGET_SIGMA`.
"""

import math
import random

MEAN = 25.0
SIGMA = 0.7
TARGET_SIGMA = 0.2
SHORTEST, LONGEST = 2, 128


def clip(length: float) -> int:
    """The nearest whole number of tokens within the limits."""
    return min(max(round(length), SHORTEST), LONGEST)


def sentence_lengths(count: int, seed: int, sigma: float = SIGMA) -> list[int]:
    """`count` lengths in tokens, log-normal with mean `MEAN` before they are cut; the same for the same seed."""
    generator = random.Random(seed)
    median_logarithm = math.log(MEAN) - sigma**2 / 2
    return [clip(generator.lognormvariate(median_logarithm, sigma)) for _ in range(count)]


def length_pairs(count: int, seed: int, sigma: float = SIGMA) -> list[tuple[int, int]]:
    """`count` pairs of source and target length in tokens."""
    generator = random.Random(seed + 1)
    sources = sentence_lengths(count, seed, sigma)
    return [(length, clip(length * generator.lognormvariate(0.0, TARGET_SIGMA))) for length in sources]
