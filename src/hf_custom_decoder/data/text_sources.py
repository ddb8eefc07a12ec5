"""Input texts from arguments, a file or a pipe."""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .text_files import read_lines


def read_sources(texts: Sequence[str], file: Path | None, pipe: Iterable[str]) -> Iterator[str]:
    """Chooses where the input comes from, and yields it text by text without reading ahead.

    Args:
        texts (`Sequence[str]`): Texts from the command line; if there are any, they are the input.
        file (`Path`, *optional*): Else a text file in UTF-8 (also `.gz`) with one text a line.
        pipe (`Iterable[str]`): Else the lines of an open stream, such as `sys.stdin`.

    Returns:
        `Iterator[str]`: The texts without line ends; blank lines of a file or pipe come through as blank texts.

    Raises:
        ValueError: If a text from the command line is blank, or both texts and a file are given; while reading, if
            nothing but blank lines came or the file is not UTF-8.
        OSError: If the file cannot be read.
    """
    if not texts:
        return _lines(pipe, "standard input") if file is None else _lines_of_file(file)
    if file is not None:
        raise ValueError(f"Give texts or `--file`, not both: got {len(texts)} texts and {file}.")
    for text in texts:
        if not text.strip():
            raise ValueError(f"Every text must hold some characters, got {text!r}. Leave out empty ones.")
    return iter(texts)


def _lines_of_file(file: Path) -> Iterator[str]:
    if not file.is_file():
        raise FileNotFoundError(f"`--file` must be a text file, found none at {file}.")

    return _lines(read_lines(file), str(file))


def _lines(stream: Iterable[str], name: str) -> Iterator[str]:
    is_empty = True
    for line in stream:
        is_empty = is_empty and not line.strip()
        yield line.rstrip("\r\n")
    if is_empty:
        raise ValueError(f"There must be some text to work on, got nothing from {name}.")
