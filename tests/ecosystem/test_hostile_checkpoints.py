"""Checkpoints of a run that somebody has tampered with: nothing in them is run."""

import json
import os
import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file

from hf_custom_decoder.cli import main
from hf_custom_decoder.training.run_recipe import train_recipe
from hf_custom_decoder.training.whole_checkpoints import _CONTENTS_FILE, _digest, damage
from tests.ecosystem.hostile_folders import MARKER, RunsCode
from tests.tiny_recipes import tiny_recipe, write_recipe

pytest.importorskip("datasets")


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that stopped after its checkpoint of step 4."""
    from hf_custom_decoder.training.recipe_reading import recipe_from_dict

    place = tmp_path_factory.mktemp("stopped")
    calls = []
    with pytest.MonkeyPatch.context() as patch:
        from hf_custom_decoder.training.recipe_trainer import RecipeTrainer

        original = RecipeTrainer.training_step

        def counted(*args: Any, **kwargs: Any) -> Any:
            calls.append(1)
            if len(calls) == 6:
                raise RuntimeError("stopped")
            return original(*args, **kwargs)

        patch.setattr(RecipeTrainer, "training_step", counted)
        with pytest.raises(RuntimeError, match="stopped"):
            train_recipe(recipe_from_dict(tiny_recipe(place)), lambda text: None)
    return place


def malicious(name: str, *, archive: bool) -> Callable[[Path], None]:
    def change(checkpoint: Path) -> None:
        code = RunsCode(checkpoint)
        if archive:
            torch.save({"state": code}, checkpoint / name)
        else:
            (checkpoint / name).write_bytes(pickle.dumps(code))

    return change


def other_weights(checkpoint: Path) -> None:
    save_file({"model.encoder.embed_tokens.weight": torch.zeros(2, 3)}, checkpoint / "model.safetensors")


CASES: dict[str, tuple[Callable[[Path], None], str]] = {
    "optimizer": (malicious("optimizer.pt", archive=True), "holds a pickle that would run code"),
    "optimizer, old format": (malicious("optimizer.pt", archive=False), "holds a pickle that would run code"),
    "random state": (malicious("rng_state.pth", archive=True), "holds a pickle that would run code"),
    "schedule": (malicious("scheduler.pt", archive=True), "holds a pickle that would run code"),
    "weights": (malicious("model.safetensors", archive=True), "is no checkpoint of this model"),
    "shapes": (other_weights, "is no checkpoint of this model"),
}


@pytest.mark.parametrize("case", CASES)
def test_a_tampered_checkpoint(stopped: Path, tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    """The digests are made to agree: whoever writes the files can write those too."""
    change, words = CASES[case]
    recipe = write_recipe(tmp_path)
    shutil.copytree(stopped / "run.training", tmp_path / "run.training")
    noted = (tmp_path / "run.training" / "recipe.yaml").read_text()
    (tmp_path / "run.training" / "recipe.yaml").write_text(noted.replace(str(stopped), str(tmp_path)))
    checkpoint = tmp_path / "run.training" / "step-4"
    change(checkpoint)
    contents = {name: _digest(checkpoint / name) for name in json.loads((checkpoint / _CONTENTS_FILE).read_text())}
    (checkpoint / _CONTENTS_FILE).write_text(json.dumps(contents))
    assert main(["train", str(recipe)]) == 2
    assert words in capsys.readouterr().err
    assert not (checkpoint / MARKER).exists()


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ("[]", "is no object"),
        ("{" * 100_000, "no readable contents.json"),
        ('{"a":' * 100_000 + "1" + "}" * 100_000, "no readable contents.json"),
        ('{"/etc/hostname": ""}', "no file of the checkpoint"),
        ('{"../outside": ""}', "no file of the checkpoint"),
    ],
    ids=["list", "no JSON", "deep", "absolute", "outside"],
)
def test_a_list_of_contents(tmp_path: Path, content: str, words: str) -> None:
    (tmp_path / _CONTENTS_FILE).write_text(content)
    (tmp_path.parent / "outside").write_text("")
    assert words in (damage(tmp_path) or "")
    os.unlink(tmp_path.parent / "outside")
