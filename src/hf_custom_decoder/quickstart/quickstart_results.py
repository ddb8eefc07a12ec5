"""The figures of a quickstart, and the table that shows them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..data.pronunciation_dictionary import Phonemes, WordEntry
from ..data.pronunciation_tokenizer import MAX_LENGTH
from ..evaluation.error_rates import ErrorRates, pronunciation_error_rates

LENGTH_GROUPS = (
    ("up to 5 letters", range(1, 6)),
    ("6 to 8 letters", range(6, 9)),
    ("9 letters and more", range(9, MAX_LENGTH)),
    ("all", range(1, MAX_LENGTH)),
)
"""Name of each row of the table, and the lengths of spelling that belong to it."""


@dataclass(frozen=True)
class TrainingFigures:
    """What training took.

    Attributes:
        num_parameters (`int`): Weights of the model.
        num_words (`int`): Words trained on.
        num_pairs (`int`): Their pronunciations, each a training example.
        num_steps (`int`): Optimizer steps.
        batch_size (`int`): Pairs in a step.
        seconds (`float`): Training time in seconds, over all resumed runs.
        seed (`int`): Of fresh weights and of the order of the pairs.
        hardware (`str`): Device and number of threads.
    """

    num_parameters: int
    num_words: int
    num_pairs: int
    num_steps: int
    batch_size: int
    seconds: float
    seed: int
    hardware: str


@dataclass(frozen=True)
class QuickstartResults:
    """What a run has measured.

    Attributes:
        training ([`TrainingFigures`]): What training took.
        num_beams (`int`): Beams of the search; 1 is greedy.
        table_seconds (`float`):
            Seconds from loading the data to the finished error rates, in the run that computed them.
        groups (`dict[str, ErrorRates]`): Test error rates by length of the word, and of all words under "all".
        pronunciations (`dict[str, str]`): Of words that are in no dictionary.
    """

    training: TrainingFigures
    num_beams: int
    table_seconds: float
    groups: dict[str, ErrorRates]
    pronunciations: dict[str, str]

    @property
    def total(self) -> ErrorRates:
        """[`ErrorRates`]: Of all test words."""
        return self.groups["all"]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain types, with both rates beside the counts."""
        content = asdict(self)
        for name, rates in self.groups.items():
            content["groups"][name] |= {
                "word_error_rate": rates.word_error_rate,
                "phoneme_error_rate": rates.phoneme_error_rate,
            }
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "QuickstartResults":
        """Reads back what `to_dict` has returned."""
        counts = ("num_words", "num_wrong_words", "num_edits", "num_phonemes")
        groups = {
            name: ErrorRates(**{count: group[count] for count in counts}) for name, group in content["groups"].items()
        }
        return cls(**{**content, "groups": groups, "training": TrainingFigures(**content["training"])})


def score_by_length(entries: Sequence[WordEntry], hypotheses: Sequence[Phonemes]) -> dict[str, ErrorRates]:
    """Scores all words together ("all", the last) and by the length of their spelling; empty groups are left out."""
    groups: dict[str, ErrorRates] = {}
    for name, lengths in LENGTH_GROUPS:
        chosen = [idx for idx, entry in enumerate(entries) if len(entry.word) in lengths]
        if chosen:
            groups[name] = pronunciation_error_rates(
                [hypotheses[idx] for idx in chosen], [entries[idx].pronunciations for idx in chosen]
            )
    return groups


def format_table(results: QuickstartResults) -> str:
    """Draws the error rates as lines of plain text."""
    rows = [("held out", "words", "words wrong", "phoneme errors")]
    for name, rates in results.groups.items():
        rows.append((name, f"{rates.num_words:,}", f"{rates.word_error_rate:.1%}", f"{rates.phoneme_error_rate:.1%}"))
    widths = [max(len(row[column]) for row in rows) for column in range(4)]
    lines = [
        "  ".join([row[0].ljust(widths[0]), *(row[column].rjust(widths[column]) for column in range(1, 4))])
        for row in rows
    ]
    rule = "-" * len(lines[0])
    return "\n".join([lines[0], rule, *lines[1:-1], rule, lines[-1]])
