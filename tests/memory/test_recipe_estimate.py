"""The command `memory`: the batch and the vocabulary that it counts, what it prints, and what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
from transformers import BertConfig, BertModel

from hf_custom_decoder.cli import main
from hf_custom_decoder.data.pair_encoding import PairTokenizers
from hf_custom_decoder.data.tokenizer_training import train_tokenizer
from hf_custom_decoder.memory import MemoryEstimate, estimate_memory
from hf_custom_decoder.training.recipe_model import build_recipe_model
from hf_custom_decoder.training.recipe_reading import recipe_from_dict
from tests.fresh_python import ROOT
from tests.tiny_pronunciation import save_tiny_model

SIDE = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}


def content(**training: Any) -> dict[str, Any]:
    """A recipe whose data is nowhere."""
    return {
        "data": {"train": "nowhere.jsonl", "max_source_length": 12, "max_target_length": 8},
        "tokenizer": {"kind": "word", "vocab_size": 40},
        "model": {"encoder": dict(SIDE), "decoder": dict(SIDE)},
        "training": {"max_steps": 1, **(training or {"max_tokens": 96})},
    }


def estimate(changes: dict[str, Any] | None = None, **arguments: Any) -> MemoryEstimate:
    return estimate_memory(recipe_from_dict({**content(), **(changes or {})}), **arguments)


@pytest.mark.parametrize(
    ("training", "expected"),
    [
        ({"max_tokens": 96}, (4, 12, 8)),  # 4 * 20 tokens; a fifth pair would be 100
        ({"max_tokens": 10}, (1, 6, 4)),
        ({"batch_size": 7}, (7, 12, 8)),
        ({"batch_size": 7, "r_drop": 5.0}, (14, 12, 8)),
    ],
)
def test_the_largest_batch(training: dict[str, Any], expected: tuple[int, int, int]) -> None:
    found = estimate(content(**training))
    assert (found.num_pairs, found.source_length, found.target_length) == expected
    assert found.num_tokens == expected[0] * (expected[1] + expected[2])


def test_the_vocabulary_is_that_of_the_options() -> None:
    apart = {"tokenizer": {"joint": False, "vocab_size": 40, "target_vocab_size": 70}}
    assert estimate(apart).num_parameters == estimate().num_parameters + 30 * 16


def test_a_pretrained_model_is_only_its_config(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path)
    for weights in folder.glob("*.safetensors"):
        weights.unlink()
    assert estimate({"model": {"pretrained": str(folder)}}).num_parameters > 0


def test_a_pretrained_encoder_is_only_its_config(tmp_path: Path) -> None:
    """No weights are there; with them the model has as many parameters."""
    tokenizer = train_tokenizer(["a b c"], kind="word", vocab_size=9, max_length=99, min_frequency=1)
    tokenizer.save_pretrained(tmp_path)
    BertConfig(vocab_size=40, max_position_embeddings=99, **SIDE).save_pretrained(tmp_path)
    changes = {"model": {"pretrained_encoder": str(tmp_path), "decoder": {**SIDE, "hidden_size": 24}}}
    found = estimate(changes).num_parameters
    BertModel(BertConfig.from_pretrained(tmp_path)).save_pretrained(tmp_path)
    recipe = recipe_from_dict({**content(), **changes})
    assert found == build_recipe_model(recipe, PairTokenizers(tokenizer, tokenizer)).num_parameters()


def test_frozen_weights_need_no_gradient() -> None:
    frozen = estimate(content(max_tokens=96, freeze={"encoder": "always"}))
    assert frozen.states.gradients < estimate().states.gradients
    assert frozen.states.parameters == estimate().states.parameters


def test_precision_and_sharding() -> None:
    mixed = content(max_tokens=96, precision="bf16")
    alone, sharded = estimate(mixed), estimate(mixed, num_gpus=4, sharding="zero3")
    assert alone.step.weight_copies > 0
    assert sharded.step.weight_copies == 0
    assert sharded.states.optimizer < alone.states.optimizer
    assert estimate(mixed, num_gpus=4, sharding="fsdp").step.activations < alone.step.activations
    again = estimate(mixed, num_gpus=4, sharding="fsdp", gradient_checkpointing=True)
    assert again.step.activations < estimate(mixed, num_gpus=4, sharding="fsdp").step.activations
    half = estimate(dtype="bfloat16")
    assert half.states.gradients * 2 == estimate().states.gradients


def test_the_table_and_the_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe, figures = tmp_path / "recipe.yaml", tmp_path / "figures.json"
    recipe.write_text(json.dumps(content()))  # JSON is YAML
    command = ["memory", str(recipe), "--gpus", "2", "--sharding", "fsdp", "--json", str(figures)]
    assert main([*command, "--max_tokens", "40", "--gradient_checkpointing"]) == 0
    printed, found = capsys.readouterr().out, json.loads(figures.read_text())
    assert "2 GPUs, sharding fsdp, float32 weights, float32 arithmetic, gradient checkpointing" in printed
    assert "2 pairs of 12 + 8 tokens, 40 in all" in printed
    assert "Not counted:" in printed
    parts = [*found["states"].values(), *(found["step"][one] for one in ("activations", "weight_copies", "working"))]
    assert found["total"] == sum(parts)
    assert found["num_tokens"] == 40


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--gpus", "0"], "`--gpus` must be at least 1, got 0"),
        (["--sharding", "zero5"], "invalid choice: 'zero5'"),
        (["--dtype", "int8"], "invalid choice: 'int8'"),
        (["--max_tokes", "3"], "`max_tokes` is no option of a recipe. Did you mean `training.max_tokens`?"),
        (["--tokenizer.name", "nowhere"], "`tokenizer.name` must be a folder with a tokenizer"),
    ],
)
def test_wrong_input(arguments: list[str], message: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(json.dumps(content()))
    assert main(["memory", str(recipe), *arguments]) == 2
    assert message in capsys.readouterr().err


def test_an_unknown_dtype() -> None:
    with pytest.raises(ValueError, match="`--dtype` must be one of float32, bfloat16, got 'int8'"):
        estimate(dtype="int8")


def test_the_page_shows_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    """A billion parameters, on whatever machine this is."""
    page = (ROOT / "docs" / "scaling.md").read_text(encoding="utf-8")
    shown = page.partition("--gpus 64\n")[2].partition("\n```")[0]
    assert main(["memory", str(ROOT / "examples" / "scaling" / "one_billion.yaml"), "--gpus", "64"]) == 0
    assert capsys.readouterr().out.partition("\n\nNot counted")[0] == shown
