"""Options of a recipe as fields with a sentence, and the rules that several sections share."""

import math
from dataclasses import asdict, field
from typing import Any


def option(default: Any, text: str) -> Any:
    """A field with its description; lists and dicts are copied for every instance."""
    if isinstance(default, (list, dict)):
        return field(default_factory=lambda: type(default)(default), metadata={"help": text})
    return field(default=default, metadata={"help": text})


def check_finite(section: str, options: Any) -> None:
    """Raises a `ValueError` if an option of a section, a dataclass, is infinite or not a number."""
    for name, value in asdict(options).items():
        if isinstance(value, float) and not math.isfinite(value):
            raise ValueError(f"`{section}.{name}` must be a finite number, got {value}.")


def check_choice(name: str, value: Any, choices: tuple[str, ...]) -> None:
    """Raises a `ValueError` if an option is none of its choices."""
    if value not in choices:
        raise ValueError(f"`{name}` must be one of {', '.join(choices)}, got {value!r}.")


def check_at_least(name: str, value: float, least: float) -> None:
    """Raises a `ValueError` if an option is below its least value."""
    if value < least:
        raise ValueError(f"`{name}` must be at least {least}, got {value}.")


def check_share(name: str, value: float) -> None:
    """Raises a `ValueError` if an option is not above 0 and below 1."""
    if not 0.0 < value < 1.0:
        raise ValueError(f"`{name}` must be above 0 and below 1, got {value}.")
