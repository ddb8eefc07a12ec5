"""Texts out of a row: a column, a path into it, or a sentence with columns in it."""

import re
from collections.abc import Iterable, Mapping
from typing import Any

_PLACE = re.compile(r"\{([^{}]+)\}")


class ColumnText:
    """Finds a text in rows.

    Args:
        text (`str`): A column ("de"), a path into one ("translation.de", "answers.text"), or a text with any of these
            in braces ("question: {question} context: {context}").
        option (`str`): Name of the recipe's option, for messages.
    """

    def __init__(self, text: str, option: str) -> None:
        self.text = text
        self.option = option
        self.places = [place.strip() for place in _PLACE.findall(text)]
        self.paths = self.places or [text]

    def check(self, columns: Iterable[str], where: str) -> None:
        """Raises a `ValueError` if a needed column is not among `columns`."""
        columns = list(columns)
        for path in self.paths:
            if path.split(".")[0] not in columns:
                raise ValueError(
                    f"`{self.option}` names the column {path.split('.')[0]!r}, but {where} has "
                    f"{', '.join(map(repr, columns)) or 'none'}. Name one of these."
                )

    def texts(self, row: Mapping[str, Any]) -> list[str]:
        """Returns all texts of a row: one, or several where the column holds a list; None and blank ones left out.

        Raises:
            ValueError: If the path leads nowhere, or a list stands inside a sentence.
        """
        if not self.places:
            found = self._find(row, self.text)
            values = found if isinstance(found, list) else [found]
            return [str(value) for value in values if value is not None and str(value).strip()]
        filled = []
        for place in self.places:
            value = self._find(row, place)
            if isinstance(value, list):
                raise ValueError(
                    f"`{self.option}` puts {place!r} into a sentence, which must be one text there, got {value!r:.60}."
                )
            filled.append("" if value is None else str(value))
        if not any(text.strip() for text in filled):
            return []
        remaining = iter(filled)
        return [_PLACE.sub(lambda match: next(remaining), self.text)]

    def _find(self, row: Mapping[str, Any], path: str) -> Any:
        value: Any = row
        for part in path.split("."):
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(f"`{self.option}` leads to {path!r}, but a row has no {part!r} there: {row!r:.120}.")
            value = value[part]
        return value
