"""Where a run keeps its state, and how its result appears in one piece."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

import yaml

from ..atomic_files import write_text
from .recipe_options import Recipe
from .recipe_reading import recipe_to_yaml
from .work_folder import WorkFolder

RECIPE_FILE = "recipe.yaml"
RESULTS_FILE = "training_results.json"

_FREE_SECTIONS = ("output", "evaluation", "card")
_FREE_OPTIONS = {
    "data": ("test", "cache_dir", "merge_references"),
    "generation": ("num_return_sequences", "do_sample", "temperature"),
    "training": ("log_steps", "keep_checkpoints", "report_to"),
}


class RecipeFolder(WorkFolder):
    """The folder that a run shall leave, and the one beside it (`NAME.training`) where it works until then.

    Args:
        recipe ([`Recipe`]): Its `output` is the folder to leave.
        fresh (`bool`, *optional*, defaults to `False`): Train again, whatever earlier runs have left.

    Raises:
        ValueError: If a folder holds something other than a run, or the run there had other settings.
    """

    def __init__(self, recipe: Recipe, *, fresh: bool = False) -> None:
        super().__init__(
            Path(recipe.output), results_file=RESULTS_FILE, settings_file=RECIPE_FILE, kind="run", fresh=fresh
        )
        self.tokenizer = self.work / "tokenizer"
        self.best = self.work / "best"
        self.finished = self.work / "finished"
        stored = self.output / RECIPE_FILE if self.is_finished else self.settings_file
        if stored.is_file() and not fresh and (self.is_finished or self._has_begun()):
            _compare(yaml.safe_load(stored.read_text(encoding="utf-8")), recipe, stored.parent)

    def start(self, recipe: Recipe) -> None:
        """Makes the working folder and notes the recipe there; call it in one process.

        What a run left there before its first checkpoint is used only if its recipe was the same.
        """
        text = recipe_to_yaml(recipe)
        is_same = self.settings_file.is_file() and self.settings_file.read_text("utf-8") == text
        if self._fresh or not (is_same or self._has_begun()):
            self.clear()
        write_text(self.settings_file, text)

    def _has_begun(self) -> bool:
        return any(self.work.glob("step-*"))


def _compare(stored: dict[str, Any], recipe: Recipe, folder: Path) -> None:
    """Raises a `ValueError` for the first setting of a begun run that is another now."""
    defaults = asdict(Recipe())  # for options that are younger than the stored recipe
    for section, options in asdict(recipe).items():
        if section in _FREE_SECTIONS:
            continue
        known = stored.get(section) or {}
        if section == "tasks" and list(known) != list(options):
            raise ValueError(
                f"`tasks` must be the same, in the same order, when a run is continued: the one in {folder} has "
                f"{', '.join(known) or 'none'}, got {', '.join(options) or 'none'}. Use the earlier ones, `--fresh`, "
                "or another `--output`."
            )
        for name, value in options.items():
            decides_what_is_trained_on = name == "test" and recipe.cleaning.overlap is not None
            if name in _FREE_OPTIONS.get(section, ()) and not decides_what_is_trained_on:
                continue
            before = known.get(name, defaults[section].get(name))
            if before != value:
                raise ValueError(
                    f"`{section}.{name}` must be the same when a run is continued: the one in {folder} has "
                    f"{before!r}, got {value!r}. Use the earlier value, `--fresh`, or another `--output`."
                )
