"""Word and phoneme error rate against several references a word."""

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

from .edit_distance import edit_distance


@dataclass(frozen=True)
class ErrorRates:
    """Counts over a set of words, and the two rates that follow from them.

    Attributes:
        num_words (`int`): Words scored.
        num_wrong_words (`int`): Words whose hypothesis equals none of their references.
        num_edits (`int`): Edit distances to the nearest references, summed over the words, in phonemes.
        num_phonemes (`int`): Lengths of these nearest references, summed over the words, in phonemes.
    """

    num_words: int
    num_wrong_words: int
    num_edits: int
    num_phonemes: int

    @property
    def word_error_rate(self) -> float:
        """`float`: Wrong words per word, from 0 to 1."""
        return self.num_wrong_words / self.num_words

    @property
    def phoneme_error_rate(self) -> float:
        """`float`: Edits per reference phoneme; 0 when all is right, above 1 when the output is mostly surplus."""
        return self.num_edits / self.num_phonemes


def nearest_reference(
    hypothesis: Sequence[Hashable], references: Sequence[Sequence[Hashable]]
) -> tuple[int, Sequence[Hashable]]:
    """Finds the reference with the smallest edit distance; the first of them when several are equally near.

    Args:
        hypothesis (`Sequence[Hashable]`): What was produced.
        references (`Sequence[Sequence[Hashable]]`): All that is right, at least one.

    Returns:
        `tuple[int, Sequence[Hashable]]`: The distance in tokens and the reference it was measured to.
    """
    distances = [edit_distance(hypothesis, reference) for reference in references]
    idx = min(range(len(references)), key=distances.__getitem__)
    return distances[idx], references[idx]


def pronunciation_error_rates(
    hypotheses: Sequence[Sequence[Hashable]], references: Sequence[Sequence[Sequence[Hashable]]]
) -> ErrorRates:
    """Scores one pronunciation a word against all that a dictionary gives for this word.

    Word error rate: the share of words whose hypothesis is not exactly one of the references.

    Phoneme error rate: for each word the edit distance to the nearest reference (insertions, deletions and
    substitutions count 1; of equally near references the first listed is taken); these distances summed over all
    words, divided by the lengths of the same nearest references summed over all words. Long words therefore weigh
    more than short ones.

    Args:
        hypotheses (`Sequence[Sequence[Hashable]]`): One sequence of phonemes a word; it may be empty.
        references (`Sequence[Sequence[Sequence[Hashable]]]`):
            For each word, in the same order, all its right pronunciations: at least one, none of them empty.

    Returns:
        [`ErrorRates`]: The counts, with both rates as properties.

    Raises:
        ValueError: If there are no words, the two lists differ in length, or a word has no or an empty reference.
    """
    if len(hypotheses) != len(references):
        raise ValueError(
            f"`hypotheses` and `references` must describe the same words, got {len(hypotheses)} and {len(references)} "
            "entries. Pass one hypothesis and one list of references for each word."
        )
    if not hypotheses:
        raise ValueError("`hypotheses` must hold at least one word, got none: error rates of nothing are undefined.")
    num_wrong_words = num_edits = num_phonemes = 0
    for idx, (hypothesis, alternatives) in enumerate(zip(hypotheses, references, strict=True)):
        if not alternatives or not all(len(reference) > 0 for reference in alternatives):
            raise ValueError(
                f"`references[{idx}]` must hold at least one pronunciation and no empty one, got {alternatives!r}. "
                "Leave out words without a known pronunciation."
            )
        distance, reference = nearest_reference(hypothesis, alternatives)
        num_wrong_words += distance > 0
        num_edits += distance
        num_phonemes += len(reference)
    return ErrorRates(
        num_words=len(hypotheses), num_wrong_words=num_wrong_words, num_edits=num_edits, num_phonemes=num_phonemes
    )
