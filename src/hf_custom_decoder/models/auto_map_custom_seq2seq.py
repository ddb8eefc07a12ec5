"""What a saved checkpoint says about the code that travels with it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class FullAutoMapMixin:
    """
    Writes every Auto class that can load the checkpoint into `auto_map`, not the saved one alone: the code of all of
    them travels in the same files.
    """

    full_auto_map: dict[str, str]

    def save_pretrained(self, *args: Any, **kwargs: Any) -> None:
        """As in transformers; the config's `auto_map` also names the other classes of this config."""
        self.config.auto_map = {**(getattr(self.config, "auto_map", None) or {}), **self.full_auto_map}  # type: ignore[attr-defined]
        with _as_written(self):
            super().save_pretrained(*args, **kwargs)  # type: ignore[misc]


@contextmanager
def _as_written(model: Any) -> Iterator[None]:
    """
    Gives a model its class as somebody wrote it. `fully_shard` (FSDP2) has put one of torch's own making in its place,
    whose file is torch's: transformers would let that travel instead of the model's.
    """
    shown = type(model)
    written = next(one for one in shown.__mro__ if not one.__module__.startswith("torch."))
    if written is shown:
        yield
        return
    model.__class__ = written
    try:
        yield
    finally:
        model.__class__ = shown
