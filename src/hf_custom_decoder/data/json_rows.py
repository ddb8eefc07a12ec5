"""Rows of JSON files, with every string as it stands in the file."""

import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .text_files import read_lines

JSON_COLUMN = "json"
"""Column of prepared data in which a whole row is text."""

Shape = dict[str, Any]
"""Keys of rows, each with the keys of the dicts below it."""


def json_lines(file: Path) -> Iterator[str]:
    """Yields each row of a JSON file as one line.

    The file has a row a line, or is one list of rows, one list of texts (they get the column `text`), or one dict of
    columns. Blank lines are left out.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If it is not such a file; the message names it, and the line.
    """
    is_first = True
    for number, line in enumerate(read_lines(file), start=1):
        if not line.strip():
            continue
        try:
            row = _parse(line)
        except ValueError as error:
            if is_first and isinstance(error, json.JSONDecodeError):
                yield from _rows_of_one_text(file)
                return
            raise ValueError(f"{file}, line {number:,}, could not be read as json: {error}.") from error
        if isinstance(row, list) and is_first:
            yield from _rows_of_one_text(file)
            return
        if not isinstance(row, dict):
            raise ValueError(f"{file}, line {number:,}, must be a row such as {{...}}, got {line!r:.60}.")
        is_first = False
        yield line


@dataclass(frozen=True)
class JsonRows:
    """Turns lines of [`json_lines`] into rows that all have the keys of `shape`; what a row lacks is None."""

    shape: Shape

    def __call__(self, batch: Mapping[str, list[str]]) -> Iterator[dict[str, Any]]:
        for line in batch[JSON_COLUMN]:
            yield _completed(json.loads(line), self.shape)


def shape_of(lines: Iterable[str], num_characters: int) -> Shape:
    """Returns the keys of the rows in so many characters of lines."""
    shape: Shape = {}
    for line in lines:
        _add(shape, json.loads(line))
        num_characters -= len(line)
        if num_characters < 0:
            break
    return shape


def merged(shapes: Iterable[Shape]) -> Shape:
    """Returns the keys of all shapes."""
    found: Shape = {}
    for shape in shapes:
        _add(found, shape)
    return found


def _parse(line: str) -> Any:
    content = json.loads(line)
    if "\\ud" in line or "\\uD" in line:
        json.dumps(content, ensure_ascii=False).encode()  # half of a surrogate pair is no text
    return content


def _rows_of_one_text(file: Path) -> Iterator[str]:
    try:
        content = _parse("\n".join(read_lines(file)))
    except ValueError as error:
        raise ValueError(f"{file} could not be read as json: {error}.") from error
    if isinstance(content, dict):
        content = list(_rows_of_columns(file, content))
    for row in content if isinstance(content, list) else [content]:
        if not isinstance(row, dict | str):
            raise ValueError(f"{file} could not be read as json: it must hold rows such as {{...}}, got {row!r:.60}.")
        yield json.dumps({"text": row} if isinstance(row, str) else row, ensure_ascii=False)


def _rows_of_columns(file: Path, columns: dict[str, Any]) -> Iterator[dict[str, Any]]:
    values = [list(column.values()) if isinstance(column, dict) else column for column in columns.values()]
    if not all(isinstance(column, list) and len(column) == len(values[0]) for column in values):
        raise ValueError(
            f"{file} could not be read as json: a dict must hold columns of one length, or stand in one line as a row."
        )
    for row in zip(*values, strict=True):
        yield dict(zip(columns, row, strict=True))


def _add(shape: Shape, row: Mapping[str, Any]) -> None:
    for key, value in row.items():
        below = shape.setdefault(key, {})
        if isinstance(value, dict):
            _add(below, value)


def _completed(row: dict[str, Any], shape: Shape) -> dict[str, Any]:
    for key, below in shape.items():
        value = row.setdefault(key)
        if below and isinstance(value, dict):
            _completed(value, below)
    return row
