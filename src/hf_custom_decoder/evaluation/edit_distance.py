"""Levenshtein distance between two sequences of tokens."""

from collections.abc import Hashable, Sequence


def edit_distance(hypothesis: Sequence[Hashable], reference: Sequence[Hashable]) -> int:
    """Counts the fewest insertions, deletions and substitutions that turn one sequence into the other.

    Args:
        hypothesis (`Sequence[Hashable]`): What was produced: phonemes, words, characters.
        reference (`Sequence[Hashable]`): What is right. A string counts as a sequence of characters.

    Returns:
        `int`: The distance in tokens, 0 for equal sequences and at most the length of the longer one.
    """
    # distances[j] is the distance between the part of `hypothesis` read so far and the first j tokens of `reference`.
    distances = list(range(len(reference) + 1))
    for num_read, produced in enumerate(hypothesis, start=1):
        diagonal = distances[0]
        distances[0] = num_read
        for j, right in enumerate(reference, start=1):
            substituted = diagonal + (produced != right)
            diagonal = distances[j]
            distances[j] = min(substituted, diagonal + 1, distances[j - 1] + 1)
    return distances[-1]
