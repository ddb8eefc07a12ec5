"""What the checks found, as a screen of text and as JSON."""

import textwrap
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from enum import StrEnum
from typing import Any

_WIDTH = 119  # columns of the screen


class Verdict(StrEnum):
    """What a check says of a model."""

    RIGHT = "right"
    NOTE = "note"
    """Right numbers, but dearer than need be or easily misused."""
    WRONG = "wrong"
    NOT_APPLICABLE = "not applicable"


@dataclass(frozen=True)
class Finding:
    """What one check found.

    Attributes:
        name (`str`): Of the check.
        verdict ([`Verdict`]): What it says.
        text (`str`): What was found and, where something is to be done, what.
    """

    name: str
    verdict: Verdict
    text: str


@dataclass(frozen=True)
class DoctorReport:
    """All findings about one model.

    Attributes:
        model (`str`): Folder or name.
        model_class (`str`): Class of the model.
        num_parameters (`int`): Trained or not, tied ones once.
        conditions (`str`): Weights, arithmetic and examples of the checks.
        versions (`dict[str, str]`): Of torch and transformers.
        seconds (`float`): Time that all checks took.
        findings (`Sequence[Finding]`): In the order in which the checks ran.
    """

    model: str
    model_class: str
    num_parameters: int
    conditions: str
    versions: dict[str, str]
    seconds: float
    findings: Sequence[Finding]

    @property
    def is_trusted(self) -> bool:
        """`bool`: Whether no check says wrong."""
        return all(finding.verdict is not Verdict.WRONG for finding in self.findings)

    def verdicts(self) -> dict[str, Verdict]:
        """`dict[str, Verdict]`: By name of the check."""
        return {finding.name: finding.verdict for finding in self.findings}

    def to_dict(self) -> dict[str, Any]:
        """`dict`: Everything, as JSON holds it."""
        return {"is_trusted": self.is_trusted, **asdict(self)}

    def __str__(self) -> str:
        marks = {Verdict.RIGHT: "right", Verdict.NOTE: "note", Verdict.WRONG: "WRONG", Verdict.NOT_APPLICABLE: "n/a"}
        lines = [
            f"{self.model}: {self.model_class}, {self.num_parameters:,} parameters",
            f"{self.conditions}; {', '.join(f'{name} {version}' for name, version in self.versions.items())}",
            "",
        ]
        width = max((len(finding.name) for finding in self.findings), default=0)
        for finding in self.findings:
            head = f"{marks[finding.verdict]:5}  {finding.name:{width}}  "
            lines += textwrap.wrap(
                finding.text, _WIDTH, initial_indent=head, subsequent_indent=" " * len(head), break_on_hyphens=False
            )
        counts = [
            f"{sum(finding.verdict is verdict for finding in self.findings)} {verdict.value}" for verdict in Verdict
        ]
        lines += ["", f"{', '.join(counts)}; {self.seconds:.0f} seconds"]
        return "\n".join(lines)
