"""What training may be told beside the loss: whole runs, killed ones, and two processes."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.cli import main
from hf_custom_decoder.training.recipe_folder import RecipeFolder
from hf_custom_decoder.training.recipe_reading import recipe_from_dict
from hf_custom_decoder.training.recipe_trainer import RecipeTrainer
from hf_custom_decoder.training.run_recipe import train_recipe
from tests.tiny_recipes import tiny_recipe, write_recipe
from tests.training.test_run_recipe import KILL, KILLED_WITHIN_A_STEP

pytest.importorskip("datasets")

SECOND_PASS_DIFFERS = """
import sys, torch
from hf_custom_decoder.cli import main
from hf_custom_decoder.models.modeling_transformer_encoder import TransformerEncoderModel
original = TransformerEncoderModel.forward
def forward(self, *args, **kwargs):
    outputs = original(self, *args, **kwargs)
    if self.training:
        first, second = outputs.last_hidden_state.chunk(2)
        outputs.last_hidden_state = torch.cat((first, 0.5 * second))
    return outputs
TransformerEncoderModel.forward = forward
sys.exit(main(sys.argv[1:]))
"""


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("teacher")
    content = tiny_recipe(folder, training__max_steps=20, data__validation=None, training__seed=7)
    return train_recipe(recipe_from_dict(content), lambda text: None)


def craft(teacher: Path) -> dict[str, Any]:
    return {
        "tokenizer__name": str(teacher),
        "training__r_drop": 2.0,
        "training__teacher": str(teacher),
        "training__teacher_weight": 0.4,
        "training__layer_decay": 0.7,
        "training__freeze": {"encoder": 9, "decoder.layers.0.self_attn": "always"},
        "training__label_smoothing": 0.1,
        "training__ema_decay": 0.9,
        "training__source_dropout": 0.1,
        "training__source_deletion": 0.1,
        "training__source_shuffle": 2,
        "training__target_dropout": 0.2,
        "data__validation": None,
    }


def test_a_killed_run_with_everything_ends_with_the_same_weights(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, **craft(teacher))
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WITHIN_A_STEP + KILL, "train", str(recipe)],
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    assert [path.name for path in (tmp_path / "run.training").glob("step-*")] == ["step-8"]
    assert main(["train", str(recipe)]) == 0
    assert "Going on after 8 of 10 steps" in capsys.readouterr().out
    assert main(["train", str(recipe), "--output", str(tmp_path / "whole")]) == 0
    assert "are frozen for good" in capsys.readouterr().out
    resumed, whole = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)


def test_two_processes_equal_one_that_accumulates(teacher: Path, tmp_path: Path) -> None:
    script = tmp_path / "train.py"
    script.write_text(SECOND_PASS_DIFFERS)
    side = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0}
    recipe = write_recipe(
        tmp_path,
        **craft(teacher) | {"training__freeze": {"encoder": 5}},
        training__adam_epsilon=0.01,  # else AdamW blows the rounding of tiny gradients up to whole steps
        model__decoder=side,
        model__encoder=dict(side),
    )
    two = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone", str(script)]
    one = [sys.executable, str(script)]
    alone = ["--accumulation", "2", "--output", str(tmp_path / "alone")]
    for line in ([*two, "train", str(recipe)], [*one, "train", str(recipe), *alone]):
        launched = subprocess.run(line, env=os.environ, capture_output=True, check=False)
        assert launched.returncode == 0, launched.stderr.decode()[-3000:]
    both, single = (load_file(tmp_path / name / "model.safetensors") for name in ("run", "alone"))
    for name, weight in single.items():
        torch.testing.assert_close(both[name], weight, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("stopped_in_step", [0, 4, 7])
def test_the_mean_of_the_best(tmp_path: Path, stopped_in_step: int, monkeypatch: pytest.MonkeyPatch) -> None:
    changes = {"training__average_best": 2, "training__save_steps": 2, "training__keep_checkpoints": 9}
    recipe = recipe_from_dict(tiny_recipe(tmp_path, **changes, training__learning_rate=1.0))
    monkeypatch.setattr(RecipeFolder, "close", lambda folder: None)
    calls, original = [], RecipeTrainer.training_step

    def counted(*args: Any, **kwargs: Any) -> torch.Tensor:
        calls.append(0)
        if len(calls) == stopped_in_step:
            raise KeyboardInterrupt
        return original(*args, **kwargs)

    monkeypatch.setattr(RecipeTrainer, "training_step", counted)
    if stopped_in_step:
        with pytest.raises(KeyboardInterrupt):
            train_recipe(recipe, lambda text: None)
    folder = train_recipe(recipe, lambda text: None)
    log = json.loads((folder / "training_log.json").read_text())
    losses = {entry["step"]: entry["eval_loss"] for entry in log if "eval_loss" in entry}
    assert list(losses) == [2, 4, 6, 8, 10]
    first, second = sorted(losses, key=lambda step: losses[step])[:2]
    assert {first, second} != {8, 10}  # or it would be the mean of the last
    work = tmp_path / "run.training"
    assert {path.name for path in (work / "best").iterdir()} == {f"step-{first}", f"step-{second}"}
    steps = [load_file(work / f"step-{step}" / "model.safetensors") for step in (first, second)]
    final = load_file(folder / "model.safetensors")
    for name, weight in final.items():
        torch.testing.assert_close(weight, (steps[0][name] + steps[1][name]) / 2, rtol=1e-6, atol=1e-7)
    results = json.loads((folder / "training_results.json").read_text())
    assert results["final_weights"] == f"mean of the best eval_loss, steps {first}, {second}"


def test_a_teacher_may_have_a_padded_vocabulary(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """What it writes behind the last token is left out; a student with more tokens than its teacher is refused."""
    model = AutoModelForSeq2SeqLM.from_pretrained(teacher)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    model.resize_token_embeddings(len(tokenizer) + 8)
    weights = model.get_output_embeddings().weight.data
    assert len(weights) == len(tokenizer) + 8
    for one in (model, tokenizer):
        one.save_pretrained(tmp_path / "padded")
    losses = []
    for name in (teacher, tmp_path / "padded"):
        content = tiny_recipe(
            tmp_path, tokenizer__name=str(teacher), training__teacher=str(name), data__validation=None
        )
        folder = train_recipe(recipe_from_dict(content), lambda text: None, fresh=True)
        losses.append(
            [entry["loss"] for entry in json.loads((folder / "training_log.json").read_text()) if "loss" in entry]
        )
    assert losses[0] == losses[1]
    larger = write_recipe(
        tmp_path, model={"pretrained": str(tmp_path / "padded")}, tokenizer={}, training__teacher=str(teacher)
    )
    assert main(["train", str(larger), "--fresh"]) == 2
    assert "`training.teacher` must write a logit for every token" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"tokenizer__name": None, "tokenizer__vocab_size": 9},
            "must have the vocabulary of the model that it teaches",
        ),
        ({"training__teacher": "no/such/teacher"}, "`training.teacher` could not be read"),
        ({"training__freeze": {"encoder.layer": 3}}, "Near it are encoder.layers"),
        ({"training__freeze": {"*": "always"}}, "must leave something to train"),
    ],
)
def test_refused_before_training(
    teacher: Path, tmp_path: Path, changes: dict[str, Any], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", str(write_recipe(tmp_path, **craft(teacher) | changes))]) == 2
    assert message in capsys.readouterr().err
    assert not (tmp_path / "run").exists()
