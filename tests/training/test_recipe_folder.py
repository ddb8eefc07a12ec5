"""Which settings may change while a run goes on."""

from dataclasses import asdict, replace
from pathlib import Path

import pytest
import yaml

from hf_custom_decoder.training.cleaning_options import CleaningOptions
from hf_custom_decoder.training.pretraining_options import TaskOptions
from hf_custom_decoder.training.recipe_folder import RECIPE_FILE, RecipeFolder
from hf_custom_decoder.training.recipe_options import DataOptions, GenerationOptions, Recipe
from hf_custom_decoder.training.recipe_reading import recipe_to_yaml


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


def begun(tmp_path: Path, recipe: Recipe) -> None:
    work = tmp_path / "run.training"
    (work / "step-1").mkdir(parents=True)
    (work / RECIPE_FILE).write_text(recipe_to_yaml(recipe))


def test_tasks_stay_the_same_ones_in_the_same_order(tmp_path: Path) -> None:
    tasks = {name: TaskOptions(objective="causal_lm", text=["en"], train="a.txt") for name in ("one", "two")}
    recipe = Recipe(output=str(tmp_path / "run"), tasks=tasks)
    begun(tmp_path, recipe)
    RecipeFolder(recipe)
    for other in (
        {"one": tasks["one"]},
        {"two": tasks["two"], "one": tasks["one"]},
        {},
        {**tasks, "three": tasks["two"]},
    ):
        with pytest.raises(ValueError, match=r"`tasks` must be the same, in the same order.*has one, two, got"):
            RecipeFolder(replace(recipe, tasks=other))


def test_test_data_that_the_training_data_depend_on_stay(tmp_path: Path) -> None:
    recipe = Recipe(output=str(tmp_path / "run"), data=DataOptions(test="a.jsonl"))
    other = replace(recipe, data=DataOptions(test="b.jsonl"))
    begun(tmp_path, recipe)
    RecipeFolder(other)
    cleaning = CleaningOptions(overlap="either")
    begun(tmp_path / "cleaned", replace(recipe, cleaning=cleaning))
    with pytest.raises(ValueError, match=r"`data.test` must be the same"):
        RecipeFolder(replace(other, cleaning=cleaning, output=str(tmp_path / "cleaned" / "run")))
