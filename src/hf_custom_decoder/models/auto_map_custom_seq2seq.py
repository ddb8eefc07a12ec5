"""What a saved checkpoint says about the code that travels with it."""

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
        super().save_pretrained(*args, **kwargs)  # type: ignore[misc]
