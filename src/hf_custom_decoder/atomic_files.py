"""Files that appear complete or not at all."""

import json
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def temporary_name(path: str | Path) -> Iterator[Path]:
    """Gives a name in the same folder to write to, and moves the file into place when the block ends well.

    If the block raises, the temporary file is removed and whatever stood at `path` before stays.

    Args:
        path (`str` or `Path`): Where the file shall be; missing folders above it are made.

    Yields:
        `Path`: The temporary name.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    os.close(handle)
    temporary = Path(name)
    try:
        yield temporary
        # mkstemp makes files private; a finished one gets the rights that any new file gets.
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o666 & ~mask)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_text(path: str | Path, text: str) -> None:
    """Writes a text file in UTF-8, complete or not at all."""
    with temporary_name(path) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: str | Path, content: Any) -> None:
    """Writes a JSON file with indentation, complete or not at all."""
    write_text(path, json.dumps(content, indent=2) + "\n")
