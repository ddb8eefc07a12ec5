"""Lines of text files in UTF-8, plain or compressed."""

import bz2
import gzip
import lzma
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

_MAGIC: dict[bytes, Any] = {b"\x1f\x8b": gzip.open, b"BZh": bz2.open, b"\xfd7zXZ": lzma.open}
UNREADABLE = (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError)
"""What broken compressed files raise."""


def open_bytes(file: Path) -> Any:
    """Opens a file for its bytes, unpacked if it ends in `.gz` or begins as gzip, bzip2 or xz files do."""
    if file.suffix == ".gz":
        return gzip.open(file, "rb")
    with file.open("rb") as stream:
        start = stream.read(5)
    opened = next((opened for magic, opened in _MAGIC.items() if start.startswith(magic)), open)
    return opened(file, "rb")


def read_lines(file: Path) -> Iterator[str]:
    """Yields the lines of a file without line ends, nor the byte order mark at the start.

    Only a line feed, or carriage return and line feed, ends a line.

    Raises:
        OSError: If the file cannot be opened.
        ValueError: If the file is not UTF-8, or cannot be unpacked; both name the file.
    """
    try:
        with open_bytes(file) as stream:
            yield from decode_lines(stream, str(file))
    except UNREADABLE as error:
        raise ValueError(f"{file} could not be unpacked: {error}. Is the file whole, and rightly named?") from error


def decode_lines(stream: Iterable[bytes], name: str) -> Iterator[str]:
    """Yields the lines of an open stream of bytes by the rules of [`read_lines`], without reading ahead.

    Args:
        stream (`Iterable[bytes]`): Lines with their ends, such as `sys.stdin.buffer`.
        name (`str`): What the stream is called in the message.

    Raises:
        ValueError: If it is not UTF-8; names the stream, the byte (from 0) and the line (from 1).
    """
    position = 0
    for number, line in enumerate(stream, start=1):
        try:
            yield line.decode("utf-8-sig" if position == 0 else "utf-8").rstrip("\r\n")
        except UnicodeDecodeError as error:
            start = position + len(line) - len(error.object) + error.start  # the mark is not in the object
            raise ValueError(
                f"Text must be UTF-8, but byte {start:,} of {name} is {error.object[error.start]:#04x}, in line "
                f"{number:,}. Convert it, such as with `iconv -t utf-8`."
            ) from error
        position += len(line)
