"""Where a run keeps its state, and how its result appears in one piece."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..atomic_files import write_text
from .recipe_options import Recipe
from .recipe_reading import recipe_to_yaml

RECIPE_FILE = "recipe.yaml"
RESULTS_FILE = "training_results.json"

_FREE_SECTIONS = ("output", "evaluation", "card")
_FREE_OPTIONS = {
    "data": ("test", "cache_dir", "merge_references"),
    "generation": ("num_return_sequences", "do_sample", "temperature"),
    "training": ("log_steps", "keep_checkpoints", "report_to"),
}


class RecipeFolder:
    """The folder that a run shall leave, and the one beside it (`NAME.training`) where it works until then.

    Args:
        recipe ([`Recipe`]): Its `output` is the folder to leave.

    Raises:
        ValueError: If the folder holds something other than the result of a run, or the unfinished run there had
            other settings.
    """

    def __init__(self, recipe: Recipe) -> None:
        self.output = Path(recipe.output).resolve()
        self.work = self.output.with_name(f"{self.output.name}.training")
        self.tokenizer = self.work / "tokenizer"
        self.best = self.work / "best"
        self.is_finished = (self.output / RESULTS_FILE).is_file() and (self.output / "config.json").is_file()
        if self.output.exists() and not self.is_finished and any(self.output.iterdir()):
            raise ValueError(
                f"`output` must be a new folder or the result of an earlier run, but {self.output} holds other files. "
                "Choose another folder."
            )
        stored = self.output / RECIPE_FILE if self.is_finished else self.work / RECIPE_FILE
        if stored.is_file() and (self.is_finished or any(self.work.glob("step-*"))):
            _compare(yaml.safe_load(stored.read_text(encoding="utf-8")), recipe, stored.parent)

    def start(self, recipe: Recipe) -> None:
        """Makes the working folder and notes the recipe there; call it in one process.

        What a run left there before its first checkpoint is used only if its recipe was the same.
        """
        text = recipe_to_yaml(recipe)
        noted = self.work / RECIPE_FILE
        has_begun = any(self.work.glob("step-*"))
        if self.work.exists() and not has_begun and not (noted.is_file() and noted.read_text("utf-8") == text):
            shutil.rmtree(self.work)
        self.work.mkdir(parents=True, exist_ok=True)
        write_text(noted, text)

    @staticmethod
    def forget_output(recipe: Recipe) -> None:
        """Removes what earlier runs of this package have left: a finished folder, and a working folder."""
        output = Path(recipe.output).resolve()
        if (output / RESULTS_FILE).is_file():
            shutil.rmtree(output)
        shutil.rmtree(output.with_name(f"{output.name}.training"), ignore_errors=True)

    @contextmanager
    def whole(self, folder: Path) -> Iterator[Path]:
        """Gives a folder to write to, and moves it to `folder` when the block ends well."""
        partial = self.work / f"{folder.name}.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)

    def close(self) -> None:
        """Removes the working folder of a finished run."""
        shutil.rmtree(self.work, ignore_errors=True)


def _compare(stored: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    """Raises a `ValueError` for the first setting of a begun run that is another now."""
    for section, options in asdict(recipe).items():
        if section in _FREE_SECTIONS:
            continue
        for name, value in options.items():
            if name in _FREE_OPTIONS.get(section, ()):
                continue
            before = (stored.get(section) or {}).get(name)
            if before != value:
                raise ValueError(
                    f"`{section}.{name}` must be the same when a run is continued: the one in {folder} has "
                    f"{before!r}, got {value!r}. Use the earlier value, `--fresh`, or another `--output`."
                )
