"""A disk that is full: one clear error, whatever library was writing."""

import errno
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NUMBERS = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
_TORCH = ("inline_container", "PytorchStreamWriter")
"""What torch.save says for any failed write."""


def is_failed_write(error: BaseException) -> bool:
    """Tells whether an error says that a file could not grow: of Python, of safetensors or of torch."""
    if isinstance(error, OSError):
        return error.errno in _NUMBERS
    text = str(error)
    by_number = any(f"os error {number})" in text for number in _NUMBERS)  # as Rust writes it
    return by_number or (isinstance(error, RuntimeError) and any(mark in text for mark in _TORCH))


@contextmanager
def naming_a_full_disk(folder: Path, kept: Callable[[], str]) -> Iterator[None]:
    """Turns a failed write inside the block into an `OSError` that says what is kept.

    Args:
        folder (`Path`): Where the block writes.
        kept (`Callable[[], str]`): Makes room by removing what is torn, and says in a sentence what is left.
    """
    try:
        yield
    except Exception as error:
        if not is_failed_write(error):
            raise
        reason = str(error).strip().splitlines()[0]
        raise OSError(
            f"{folder} could not be written ({reason}): the disk or the quota is full. {kept()} Make room, and start "
            "the same command again (without --fresh)."
        ) from error
