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
        """Returns all texts of a row: one, or several where the column holds a list; without None, NaN and blank ones.

        Raises:
            ValueError: If the path leads nowhere or to something that is no text, or a list stands inside a sentence.
        """
        if not self.places:
            found = self._find(row, self.text)
            values = found if isinstance(found, list) else [found]
            texts = [self._text(value, self.text) for value in values]
            return [text for text in texts if text.strip()]
        filled = []
        for place in self.places:
            value = self._find(row, place)
            if isinstance(value, list):
                raise ValueError(
                    f"`{self.option}` puts {place!r} into a sentence, which must be one text there, got {value!r:.60}."
                )
            filled.append(self._text(value, place))
        if not any(text.strip() for text in filled):
            return []
        remaining = iter(filled)
        return [_PLACE.sub(lambda match: next(remaining), self.text)]

    def _find(self, row: Mapping[str, Any], path: str) -> Any:
        value: Any = row
        for part in path.split("."):
            if value is None:
                return None
            if not isinstance(value, Mapping) or part not in value:
                raise ValueError(f"`{self.option}` leads to {path!r}, but a row has no {part!r} there: {row!r:.120}.")
            value = value[part]
        return value

    def _text(self, value: Any, path: str) -> str:
        """A value as a text, numbers as they are written; None and NaN, which stand for nothing, are blank."""
        if value is None or value != value:
            return ""
        if isinstance(value, Mapping):
            first = next(iter(value), "text")
            raise ValueError(
                f"`{self.option}` leads to {path!r}, which must be a text or a list of texts, got the fields "
                f"{', '.join(map(repr, value)) or 'none'}. Name one of them, such as '{path}.{first}'."
            )
        if isinstance(value, (list, tuple, bytes)):
            kind = "bytes" if isinstance(value, bytes) else "a list in a list"
            raise ValueError(
                f"`{self.option}` leads to {path!r}, which must be a text or a list of texts, got {kind}: "
                f"{value!r:.60}."
            )
        return str(value)
