"""Which settings may change while a run goes on."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from hf_custom_decoder.training.recipe_folder import RECIPE_FILE, RecipeFolder
from hf_custom_decoder.training.recipe_options import GenerationOptions, Recipe


def test_how_outputs_are_measured_is_free(tmp_path: Path) -> None:
    """Also where the begun run was of a version that did not know the options."""
    recipe = Recipe(output=str(tmp_path / "run"))
    stored = asdict(recipe)
    for name in ("num_return_sequences", "do_sample", "temperature"):
        del stored["generation"][name]
    work = tmp_path / "run.training"
    (work / "step-1").mkdir(parents=True)
    (work / RECIPE_FILE).write_text(yaml.safe_dump(stored))
    RecipeFolder(recipe)
    RecipeFolder(replace(recipe, generation=GenerationOptions(num_return_sequences=4)))
    with pytest.raises(ValueError, match=r"`generation.num_beams` must be the same"):
        RecipeFolder(replace(recipe, generation=GenerationOptions(num_beams=2)))
