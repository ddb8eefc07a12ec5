"""`train` with an adapter in place of the model, and what `evaluate`, `generate` and `push` do with its folder."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, TorchAoConfig
from transformers.utils import is_torchao_available

from hf_custom_decoder.cli import main
from hf_custom_decoder.hub.model_folder import load_model_folder
from hf_custom_decoder.hub.push import check_folder
from hf_custom_decoder.training.adapter_options import AdapterOptions
from hf_custom_decoder.training.checkpoint_safety import safely_from
from hf_custom_decoder.training.recipe_adapter import add_adapter
from hf_custom_decoder.training.recipe_reading import read_recipe, recipe_from_dict
from hf_custom_decoder.training.run_recipe import train_recipe
from tests.tiny_recipes import tiny_recipe, write_recipe
from tests.training.test_run_recipe import KILL, KILLED_WITHIN_A_STEP

pytest.importorskip("datasets")

WEIGHTS = "adapter_model.safetensors"


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of a few steps, Transformer on both sides."""
    folder = tmp_path_factory.mktemp("base")
    train_recipe(recipe_from_dict(tiny_recipe(folder, training__max_steps=4)), lambda text: None)
    return folder / "run"


def adapter_recipe(folder: Path, base: Path, **changes: Any) -> Path:
    changes = {"adapter__method": "lora", "adapter__r": 3, "training__learning_rate": 0.05, **changes}
    return write_recipe(folder, model={}, model__pretrained=str(base), **changes)


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


@torch.no_grad()
def logits_of(model: Any, tokenizer: Any) -> torch.Tensor:
    batch = tokenizer(["rote Katze läuft", "alte Tür"], padding=True, return_tensors="pt")
    return model(**batch, decoder_input_ids=torch.tensor([[1, 5, 6, 7], [1, 8, 9, 10]])).logits


@pytest.mark.parametrize("method", [{}, {"adapter__dora": True}, {"adapter__rslora": True}], ids=str)
def test_an_adapter_is_trained_and_used(
    tmp_path: Path, base: Path, method: dict[str, Any], capsys: pytest.CaptureFixture[str]
) -> None:
    """The folder holds the adapter alone; it is merged for decoding, and loads by peft too."""
    recipe = adapter_recipe(tmp_path, base, adapter__alpha=6, generation__num_beams=3, **method)
    before = load_file(base / "model.safetensors")
    assert main(["train", str(recipe)]) == 0
    folder = tmp_path / "run"
    assert {WEIGHTS, "adapter_config.json", "generation_config.json", "recipe.yaml", "tokenizer.json"} <= files_of(
        folder
    )
    assert not {"config.json", "model.safetensors"} & files_of(folder)
    weights = load_file(folder / WEIGHTS)
    num_trained = sum(one.numel() for one in weights.values())
    assert f"{num_trained:,} of them are trained" in capsys.readouterr().out
    assert all(torch.equal(one, before[name]) for name, one in load_file(base / "model.safetensors").items())

    plain, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(base), AutoTokenizer.from_pretrained(folder)
    without = logits_of(plain, tokenizer)
    by_peft = PeftModel.from_pretrained(plain, folder).eval()
    config = by_peft.peft_config["default"]
    assert (config.r, config.lora_alpha, config.use_dora) == (3, 6, "adapter__dora" in method)
    scale = 6 / (3**0.5 if "adapter__rslora" in method else 3)
    assert {layer.scaling["default"] for layer in by_peft.modules() if hasattr(layer, "lora_A")} == {scale}
    expected = logits_of(by_peft, tokenizer)
    assert not torch.allclose(expected, without, atol=1e-2)
    model, tokenizer = load_model_folder(folder)
    assert not any("lora" in name for name, _ in model.named_modules())
    torch.testing.assert_close(logits_of(model, tokenizer), expected, rtol=1e-4, atol=1e-4)
    assert (model.generation_config.num_beams, model.generation_config.max_new_tokens) == (3, 10)
    log = json.loads((folder / "training_log.json").read_text())
    measured = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert measured[-1] < measured[0]

    assert main(["train", str(recipe)]) == 0
    assert "is finished" in capsys.readouterr().out
    assert main(["generate", "--model", str(folder), "Katze läuft"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    model.save_pretrained(tmp_path / "merged")
    tokenizer.save_pretrained(tmp_path / "merged")
    found = {}
    for name, place in (("adapter", folder), ("merged", tmp_path / "merged"), ("base", base)):
        assert main(["evaluate", str(recipe), "--model", str(place), "--metrics", "perplexity"]) == 0
        scores = json.loads((place / "evaluation" / "results.json").read_text())["scores"]
        found[name] = scores["perplexity"]["value"]
    assert found["adapter"] == pytest.approx(found["merged"], rel=1e-6)
    assert found["adapter"] != pytest.approx(found["base"], rel=1e-4)
    assert read_recipe(folder / "recipe.yaml").adapter.r == 3


def test_the_adapter_can_be_pushed_when_its_base_is_on_the_hub(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = recipe_from_dict(
        tiny_recipe(tmp_path, model={}, model__pretrained=str(base), adapter__method="lora", training__max_steps=2)
    )
    folder = train_recipe(recipe, lambda text: None)
    monkeypatch.chdir(folder)
    code = (folder / "README.md").read_text().partition("```python\n")[2].partition("```")[0]
    exec(code, {})  # what the card tells readers to do
    assert capsys.readouterr().out.startswith("['")
    assert f"names the model that the adapter stands on as '{base}'" in str(check_folder(folder))
    for path in folder.iterdir():
        if path.suffix in (".json", ".md", ".yaml"):
            text = path.read_text().replace(str(base), "someone/base")
            path.write_text(text.replace(str(tmp_path), "somewhere"))
    report = check_folder(folder)
    assert report.is_ready, str(report)
    card = (folder / "README.md").read_text()
    assert "base_model: someone/base" in card
    assert "library_name: peft" in card
    assert "PeftModel.from_pretrained(base, folder)" in card


@pytest.mark.parametrize(
    "options",
    [{"training__ema_decay": 0.9}, {"training__average_last": 2, "training__accumulation": 2}],
    ids=["moving average", "mean of checkpoints"],
)
def test_a_killed_run_ends_with_the_same_adapter(tmp_path: Path, base: Path, options: dict[str, Any]) -> None:
    recipe = adapter_recipe(tmp_path, base, adapter__dropout=0.1, **options)
    killed = subprocess.run(
        [sys.executable, "-c", KILLED_WITHIN_A_STEP + KILL, "train", str(recipe)],
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert killed.returncode == -signal.SIGKILL, killed.stderr.decode()[-2000:]
    checkpoints = list((tmp_path / "run.training").glob("step-*"))
    assert len(checkpoints) == 1
    assert {WEIGHTS, "optimizer.pt"} <= files_of(checkpoints[0])
    assert main(["train", str(recipe)]) == 0
    assert main(["train", str(recipe), "--output", str(tmp_path / "whole")]) == 0
    resumed, whole = (load_file(tmp_path / name / WEIGHTS) for name in ("run", "whole"))
    assert resumed.keys() == whole.keys()
    assert all(torch.equal(resumed[name], whole[name]) for name in whole)
    assert any(one.any() for name, one in whole.items() if "lora_B" in name)


def test_two_processes_equal_one_that_accumulates(tmp_path: Path) -> None:
    side = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "dropout": 0.0}
    (tmp_path / "first").mkdir()
    sides = {"encoder": side, "decoder": dict(side)}
    first = tiny_recipe(tmp_path / "first", model=sides, training__max_steps=2)
    base = train_recipe(recipe_from_dict(first), lambda text: None)
    # with the usual epsilon AdamW blows the rounding of tiny gradients up to whole steps
    recipe = adapter_recipe(tmp_path, base, adapter__dora=True, training__adam_epsilon=0.01)
    launched = subprocess.run(
        [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node=2", "--standalone"]
        + ["-m", "hf_custom_decoder", "train", str(recipe)],
        env=os.environ,
        capture_output=True,
        check=False,
    )
    assert launched.returncode == 0, launched.stderr.decode()[-3000:]
    assert main(["train", str(recipe), "--accumulation", "2", "--output", str(tmp_path / "alone")]) == 0
    both, alone = (load_file(tmp_path / name / WEIGHTS) for name in ("run", "alone"))
    assert both.keys() == alone.keys()
    for name, weight in alone.items():
        torch.testing.assert_close(both[name], weight, rtol=1e-5, atol=1e-6)
    assert any(one.any() for name, one in alone.items() if "lora_B" in name)


def test_the_best_adapter_is_kept(tmp_path: Path, base: Path) -> None:
    """At a learning rate that spoils it, the first measurement is the best, and its weights are what is left."""
    options = {"training__patience": 1, "training__learning_rate": 3.0, "training__save_steps": 2}
    recipe = adapter_recipe(tmp_path, base, **options)
    assert main(["train", str(recipe)]) == 0
    folder = tmp_path / "run"
    log = json.loads((folder / "training_log.json").read_text())
    measured = [entry["eval_loss"] for entry in log if "eval_loss" in entry]
    assert len(measured) > measured.index(min(measured)) + 1
    results = json.loads((folder / "training_results.json").read_text())
    assert results["validation"]["loss"] == pytest.approx(min(measured), rel=1e-3)


def test_an_adapter_on_a_recurrent_model(tmp_path: Path) -> None:
    """Also named targets, and the metrics of generated texts while training."""
    side = {"hidden_size": 16, "num_hidden_layers": 1, "cell_type": "gru"}
    sides = {
        "encoder": {"model_type": "custom_recurrent_encoder", **side},
        "decoder": {"model_type": "custom_recurrent_decoder", "attention_type": "dot", **side},
    }
    (tmp_path / "first").mkdir()
    base = train_recipe(
        recipe_from_dict(tiny_recipe(tmp_path / "first", model=sides, training__max_steps=2)), lambda text: None
    )
    options = {"adapter__target_modules": ["cell.input_proj"], "training__metric": "exact_match"}
    recipe = adapter_recipe(tmp_path, base, **options)
    assert main(["train", str(recipe)]) == 0
    weights = load_file(tmp_path / "run" / WEIGHTS)
    assert all("cell.input_proj.lora_" in name for name in weights)
    assert any(".decoder." in name for name in weights)
    assert main(["generate", "--model", str(tmp_path / "run"), "Katze läuft"]) == 0


@pytest.mark.skipif(not is_torchao_available(), reason="torchao is not installed")
def test_an_adapter_over_8_bit_weights(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A folder of 8-bit weights is a base as any other; the adapter stays beside weights that merging would round."""
    from torchao.quantization import Int8WeightOnlyConfig

    small = tmp_path / "small"
    quantization = TorchAoConfig(Int8WeightOnlyConfig())
    AutoModelForSeq2SeqLM.from_pretrained(base, quantization_config=quantization).save_pretrained(small)
    AutoTokenizer.from_pretrained(base).save_pretrained(small)
    recipe = adapter_recipe(tmp_path, small)
    assert main(["train", str(recipe)]) == 0
    folder = tmp_path / "run"
    model, tokenizer = load_model_folder(folder)
    assert any(".lora_A." in name for name, _ in model.named_modules())
    plain = AutoModelForSeq2SeqLM.from_pretrained(small)
    without = logits_of(plain, tokenizer)
    expected = logits_of(PeftModel.from_pretrained(plain, folder).eval(), tokenizer)
    assert torch.equal(logits_of(model, tokenizer), expected)
    assert not torch.allclose(expected, without, atol=1e-2)
    capsys.readouterr()
    assert main(["generate", "--model", str(folder), "Katze läuft"]) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_a_spoilt_checkpoint_is_refused(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = adapter_recipe(tmp_path, base)
    assert main(["train", str(recipe)]) == 0
    folder = tmp_path / "run"
    weights = load_file(folder / WEIGHTS)
    name = sorted(weights)[0]
    save_file({**weights, name: weights[name][:1].clone()}, folder / WEIGHTS)
    assert main(["generate", "--model", str(folder), "Katze"]) == 2
    assert "does not fit" in capsys.readouterr().err
    save_file({one: weights[one] for one in weights if one != name}, folder / WEIGHTS)
    assert main(["generate", "--model", str(folder), "Katze"]) == 2
    assert "must be those of the adapter, missing" in capsys.readouterr().err
    (folder / WEIGHTS).unlink()
    assert main(["generate", "--model", str(folder), "Katze"]) == 2
    assert f"must hold {WEIGHTS}" in capsys.readouterr().err


def test_a_checkpoint_of_another_adapter_is_refused(tmp_path: Path, base: Path) -> None:
    models = [
        add_adapter(AutoModelForSeq2SeqLM.from_pretrained(base), AdapterOptions(method="lora", r=r)) for r in (2, 3)
    ]
    models[0].save_pretrained(tmp_path)
    with safely_from(tmp_path, models[0]):
        pass
    with (
        pytest.raises(ValueError, match=r"is no checkpoint of this model .* has the shape"),
        safely_from(tmp_path, models[1]),
    ):
        pytest.fail("it was read")


def test_a_lost_base_is_named(tmp_path: Path, base: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = adapter_recipe(tmp_path, base, training__max_steps=1)
    assert main(["train", str(recipe)]) == 0
    folder = tmp_path / "run"
    path = folder / "adapter_config.json"
    path.write_text(path.read_text().replace(str(base), "nowhere/base"))
    assert main(["generate", "--model", str(folder), "Katze"]) == 2
    assert "holds an adapter of 'nowhere/base', which could not be read" in capsys.readouterr().err
    path.write_text(path.read_text().replace('"nowhere/base"', "null"))
    assert main(["generate", "--model", str(folder), "Katze"]) == 2
    assert "must name the model that the adapter stands on" in capsys.readouterr().err
    content = tiny_recipe(tmp_path, model={}, model__pretrained=str(folder), output=str(tmp_path / "next"))
    with pytest.raises(ValueError, match=r"`model\.pretrained` must be a whole model, but .* holds an adapter"):
        train_recipe(recipe_from_dict(content), lambda text: None)


def test_without_peft(
    tmp_path: Path, base: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = adapter_recipe(tmp_path, base, training__max_steps=1)
    assert main(["train", str(recipe)]) == 0
    monkeypatch.setattr("hf_custom_decoder.training.recipe_adapter.is_peft_available", lambda: False)
    assert main(["generate", "--model", str(tmp_path / "run"), "Katze"]) == 2
    assert 'needs peft. Install it with pip install "hf_custom_decoder[peft]"' in capsys.readouterr().err
    assert main(["train", str(recipe), "--output", str(tmp_path / "other")]) == 2
    assert "`adapter.method` needs peft" in capsys.readouterr().err
    assert main(["generate", "--model", str(base), "Katze"]) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"adapter__method": "prefix"}, "`adapter.method` must be one of lora, got 'prefix'"),
        ({"adapter__r": 4}, "`adapter.r` belongs to an adapter, got no `adapter.method`"),
        ({"adapter__method": "lora", "adapter__r": 0}, "`adapter.r` must be at least 1, got 0"),
        ({"adapter__method": "lora", "adapter__alpha": 0}, "`adapter.alpha` must be at least 1, got 0"),
        ({"adapter__method": "lora", "adapter__dropout": 1.0}, "`adapter.dropout` must be from 0 to below 1, got 1.0"),
        ({"adapter__method": "lora"}, "needs a trained model to stand on, got no `model.pretrained`"),
        (
            {"adapter__method": "lora", "model": {"pretrained": "x"}, "training__freeze": {"encoder": 3}},
            "`training.freeze` is about the model's own weights",
        ),
        (
            {"adapter__method": "lora", "model": {"pretrained": "x"}, "training__layer_decay": 0.9},
            "`training.layer_decay` is about the model's own weights",
        ),
        ({"adapter__rank": 3}, "`adapter.rank` is no option of a recipe"),
    ],
    ids=lambda value: None if isinstance(value, dict) else value[:30],
)
def test_refused(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=re.escape(message)):
        recipe_from_dict(tiny_recipe(tmp_path, **changes))


def test_targets_that_are_none(tmp_path: Path, base: Path) -> None:
    options = {"adapter__method": "lora", "model": {"pretrained": str(base)}}
    for targets, message in ((["nothing"], "'nothing'"), (["lm_head"], "weight is tied, got 'lm_head'")):
        content = tiny_recipe(tmp_path, **options, adapter__target_modules=targets)
        with pytest.raises(ValueError, match=message):
            train_recipe(recipe_from_dict(content), lambda text: None)
