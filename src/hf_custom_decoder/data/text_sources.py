"""Input texts from arguments, a file or a pipe."""

import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from .text_files import decode_lines, read_lines

_BAD_BYTE = re.compile("[\ud800-\udfff]")
"""What Python makes of a byte on the command line that is not of the locale's encoding (`surrogateescape`)."""


def read_sources(texts: Sequence[str], file: Path | None, pipe: Iterable[bytes]) -> Iterator[str]:
    """Chooses where the input comes from, and yields it text by text without reading ahead.

    Args:
        texts (`Sequence[str]`): Texts from the command line; if there are any, they are the input.
        file (`Path`, *optional*): Else a text file in UTF-8 (also `.gz`) with one text a line.
        pipe (`Iterable[bytes]`): Else the lines of an open stream in UTF-8, such as `sys.stdin.buffer`.

    Returns:
        `Iterator[str]`: The texts without line ends; blank lines of a file or pipe come through as blank texts.

    Raises:
        ValueError: If a text from the command line is blank or was not UTF-8, or both texts and a file are given;
            while reading, if nothing but blank lines came or what came is not UTF-8.
        OSError: If the file cannot be read.
    """
    if not texts:
        if file is not None:
            return _lines_of_file(file)
        return _lines(decode_lines(pipe, "standard input"), "standard input")
    if file is not None:
        raise ValueError(f"Give texts or `--file`, not both: got {len(texts)} texts and {file}.")
    for text in texts:
        if not text.strip():
            raise ValueError(f"Every text must hold some characters, got {text!r}. Leave out empty ones.")
        found = _BAD_BYTE.search(text)
        if found is not None:
            raise ValueError(
                f"Every text must be UTF-8, got {text!r} with the byte {ord(found[0]) & 0xFF:#04x}. Convert it, such "
                "as with `iconv -t utf-8`."
            )
    return iter(texts)


def _lines_of_file(file: Path) -> Iterator[str]:
    if not file.is_file():
        raise FileNotFoundError(f"`--file` must be a text file, found none at {file}.")

    return _lines(read_lines(file), str(file))


def _lines(stream: Iterable[str], name: str) -> Iterator[str]:
    is_empty = True
    for line in stream:
        is_empty = is_empty and not line.strip()
        yield line
    if is_empty:
        raise ValueError(f"There must be some text to work on, got nothing from {name}.")
