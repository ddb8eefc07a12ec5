"""The figures of a quickstart, and the table that shows them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, TypeVar

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

Figures = TypeVar("Figures", "TrainingFigures", "DecodingFigures", ErrorRates)


@dataclass(frozen=True)
class TrainingFigures:
    """What training took.

    Attributes:
        num_parameters (`int`): Weights of the model.
        num_words (`int`): Words trained on.
        num_pairs (`int`): Their pronunciations, each a training example.
        num_steps (`int`): Optimizer steps.
        batch_size (`int`): Pairs in a step.
        num_tokens (`int`): Source and target tokens seen, end tokens included, padding not.
        seconds (`float`): Training time in seconds, over all resumed runs.
        seed (`int`): Of fresh weights and of the order of the pairs.
        hardware (`str`): Device and number of threads.
    """

    num_parameters: int
    num_words: int
    num_pairs: int
    num_steps: int
    batch_size: int
    num_tokens: int
    seconds: float
    seed: int
    hardware: str

    @property
    def tokens_per_second(self) -> float:
        """`float`: Source and target tokens a second of training time."""
        return self.num_tokens / self.seconds


@dataclass(frozen=True)
class DecodingFigures:
    """What scoring the test words took.

    Attributes:
        num_beams (`int`): Beams of the search; 1 is greedy.
        num_tokens (`int`): Phonemes of the best hypotheses, and an end token each. Other beams do not count.
        seconds (`float`): From the first word to the last, encoding included.
        hardware (`str`): Device and number of threads.
    """

    num_beams: int
    num_tokens: int
    seconds: float
    hardware: str

    @property
    def tokens_per_second(self) -> float:
        """`float`: Generated tokens a second."""
        return self.num_tokens / self.seconds


@dataclass(frozen=True)
class QuickstartResults:
    """What a run has measured.

    Attributes:
        decoder (`str`): Which of [`DECODER_RECIPES`] was trained.
        training ([`TrainingFigures`]): What training took.
        decoding ([`DecodingFigures`]): What scoring took.
        table_seconds (`float`):
            Seconds from loading the data to the finished error rates, in the run that computed them.
        groups (`dict[str, ErrorRates]`): Test error rates by length of the word, and of all words under "all".
        pronunciations (`dict[str, str]`): Of words that are in no dictionary.
    """

    decoder: str
    training: TrainingFigures
    decoding: DecodingFigures
    table_seconds: float
    groups: dict[str, ErrorRates]
    pronunciations: dict[str, str]

    @property
    def total(self) -> ErrorRates:
        """[`ErrorRates`]: Of all test words."""
        return self.groups["all"]

    def to_dict(self) -> dict[str, Any]:
        """Returns everything as plain types, with the rates beside the counts."""
        content = asdict(self)
        content["training"]["tokens_per_second"] = self.training.tokens_per_second
        content["decoding"]["tokens_per_second"] = self.decoding.tokens_per_second
        for name, rates in self.groups.items():
            content["groups"][name] |= {
                "word_error_rate": rates.word_error_rate,
                "phoneme_error_rate": rates.phoneme_error_rate,
            }
        return content

    @classmethod
    def from_dict(cls, content: dict[str, Any]) -> "QuickstartResults":
        """Reads back what `to_dict` has returned.

        Raises:
            ValueError: If figures are missing, because an earlier version has written them.
        """
        missing = [field.name for field in fields(cls) if field.name not in content]
        if missing:
            raise ValueError(
                f"`content` must hold all figures of a run, found no {', '.join(missing)}: an earlier version has "
                "written it. Train again with `--fresh`, or choose another `--output`."
            )
        return cls(
            decoder=content["decoder"],
            training=_read(TrainingFigures, content["training"]),
            decoding=_read(DecodingFigures, content["decoding"]),
            table_seconds=content["table_seconds"],
            groups={name: _read(ErrorRates, group) for name, group in content["groups"].items()},
            pronunciations=content["pronunciations"],
        )


def _read(kind: type[Figures], content: dict[str, Any]) -> Figures:
    """Builds a dataclass from a dict that may hold computed rates as well."""
    return kind(**{field.name: content[field.name] for field in fields(kind)})


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
