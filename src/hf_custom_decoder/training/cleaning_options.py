"""What a recipe may say about pairs that are left out before training."""

from dataclasses import dataclass, fields

from .option_rules import check_at_least, check_choice, option

OVERLAPS = ("pair", "source", "target", "either")


@dataclass
class CleaningOptions:
    """Training pairs that are left out, with a report (cleaning.json); without any rule nothing is looked at."""

    duplicates: bool = option(False, "Leave out pairs that came before: equal source and equal target.")
    overlap: str | None = option(
        None, f"Leave out pairs of which this is in validation or test data: one of {', '.join(OVERLAPS)}."
    )
    max_length_ratio: float | None = option(None, "Most characters of the longer side for one of the shorter.")
    max_characters: int | None = option(None, "Most characters of a side.")
    max_words: int | None = option(None, "Most words of a side, as blanks separate them.")
    source_script: list[str] | None = option(
        None, "Unicode scripts of the source's letters, such as latin, cyrillic or han; several for mixed writing."
    )
    target_script: list[str] | None = option(None, "Unicode scripts of the target's letters.")
    script_share: float = option(0.5, "Least share of the letters that must be of these scripts, 0 to 1.")
    control_characters: bool = option(
        False, "Leave out pairs with control, private or unassigned characters, or the replacement character U+FFFD."
    )
    samples: int = option(5, "Rows of the report for each rule, the first ones.")

    def __post_init__(self) -> None:
        if self.overlap is not None:
            check_choice("cleaning.overlap", self.overlap, OVERLAPS)
        for name in ("max_length_ratio", "max_characters", "max_words"):
            if getattr(self, name) is not None:
                check_at_least(f"cleaning.{name}", getattr(self, name), 1)
        check_at_least("cleaning.samples", self.samples, 0)
        if not 0.0 < self.script_share <= 1.0:
            raise ValueError(f"`cleaning.script_share` must be above 0 and at most 1, got {self.script_share}.")

    @property
    def is_on(self) -> bool:
        """`bool`: Whether any rule is set."""
        settings = ("script_share", "samples")
        return any(getattr(self, rule.name) not in (None, False) for rule in fields(self) if rule.name not in settings)
