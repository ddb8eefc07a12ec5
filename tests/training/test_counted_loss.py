"""Stock models, accumulated: the gradient and the logged loss of one large batch."""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from transformers import (
    AutoTokenizer,
    BartConfig,
    BartForConditionalGeneration,
    PreTrainedModel,
    T5Config,
    T5ForConditionalGeneration,
)

from hf_custom_decoder.training.counted_loss import divides_by_items
from hf_custom_decoder.training.recipe_reading import recipe_from_dict
from hf_custom_decoder.training.run_recipe import train_recipe
from hf_custom_decoder.training.run_tokenizer import train_recipe_tokenizer
from tests.factories import tiny_batch, tiny_seq2seq
from tests.tiny_recipes import tiny_recipe
from tests.training.test_run_recipe import LAUNCHERS

pytest.importorskip("datasets")


def bart(**ids: Any) -> PreTrainedModel:
    sides = ("encoder", "decoder")
    sizes = {f"{side}_{name}": size for side in sides for name, size in (("attention_heads", 2), ("ffn_dim", 32))}
    layers = {f"{side}_layers": 1 for side in sides}
    config = BartConfig(d_model=16, max_position_embeddings=64, dropout=0.0, **sizes, **layers, **ids)
    return BartForConditionalGeneration(config)


def t5(**ids: Any) -> PreTrainedModel:
    config = T5Config(d_model=16, d_kv=8, d_ff=32, num_layers=1, num_heads=2, dropout_rate=0.0, **ids)
    return T5ForConditionalGeneration(config)


def logged(folder: Path, content: dict[str, Any], accumulation: int, **changes: Any) -> list[tuple[float, float]]:
    """Loss and gradient norm of each step."""
    training = {
        "max_steps": 2,
        "batch_size": 16 // accumulation,
        "accumulation": accumulation,
        "learning_rate": 1e-3,
        "warmup": 0,
        "clip_norm": 0.0,
        "log_steps": 1,
        "device": "cpu",
        **changes,
    }
    recipe = recipe_from_dict({**content, "training": training, "output": str(folder / f"by {accumulation}")})
    found = json.loads((train_recipe(recipe, lambda text: None) / "training_log.json").read_text())
    return [(entry["loss"], entry["grad_norm"]) for entry in found if "loss" in entry]


def stock_recipe(folder: Path, build: Any, **changes: Any) -> dict[str, Any]:
    """A recipe that goes on from a stock model of fresh weights, and its tokenizer."""
    content = tiny_recipe(folder, data__max_rows=16, data__validation=None, **changes)
    stock = train_recipe_tokenizer(recipe_from_dict(content), lambda text: None, folder / "stock")
    tokenizer = AutoTokenizer.from_pretrained(stock)
    torch.manual_seed(0)
    ids = {name: getattr(tokenizer, name) for name in ("pad_token_id", "bos_token_id", "eos_token_id")}
    build(vocab_size=len(tokenizer), decoder_start_token_id=tokenizer.pad_token_id, **ids).save_pretrained(stock)
    return content | {"model": {"pretrained": str(stock)}, "tokenizer": {}}


@pytest.mark.parametrize("changes", [{}, {"r_drop": 2.0}, {"teacher": "stock"}], ids=["plain", "r_drop", "teacher"])
@pytest.mark.parametrize("build", [bart, t5])
def test_accumulated_batches_are_one_large_batch(build: Any, changes: dict[str, Any], tmp_path: Path) -> None:
    content = stock_recipe(tmp_path, build)
    if "teacher" in changes:
        changes = {"teacher": content["model"]["pretrained"]}
    whole = logged(tmp_path, content, 1, **changes)
    for found, expected in zip(logged(tmp_path, content, 4, **changes), whole, strict=True):
        assert found == pytest.approx(expected, rel=1e-4)


def test_batches_of_two_processes_are_one_large_batch(tmp_path: Path) -> None:
    content = stock_recipe(tmp_path, bart)
    content["training"] |= {"max_steps": 2, "max_tokens": None, "batch_size": 8, "clip_norm": 0.0, "log_steps": 1}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    train = ["-m", "hf_custom_decoder", "train", str(tmp_path / "recipe.yaml")]
    launched = subprocess.run([sys.executable, *LAUNCHERS["torchrun"], *train], capture_output=True, check=False)
    assert launched.returncode == 0, launched.stderr.decode()[-3000:]
    alone = recipe_from_dict(content)
    alone.output, alone.training.batch_size = str(tmp_path / "alone"), 16
    train_recipe(alone, lambda text: None)
    both, one = (json.loads((tmp_path / name / "training_log.json").read_text()) for name in ("run", "alone"))
    for name in ("loss", "grad_norm"):
        expected = [entry[name] for entry in one if name in entry]
        assert [entry[name] for entry in both if name in entry] == pytest.approx(expected, rel=1e-4)


def test_models_are_told_apart() -> None:
    """Ours divide; the others are asked."""
    batch = tiny_batch()
    assert divides_by_items(tiny_seq2seq(), batch)
    size = int(max(batch["input_ids"].max(), batch["labels"].max())) + 1
    assert not divides_by_items(bart(vocab_size=size, pad_token_id=0), batch)

    class Dividing(torch.nn.Module):
        def forward(self, num_items_in_batch: Any, **batch: Any) -> dict[str, torch.Tensor]:
            return {"loss": torch.tensor(8.0) / num_items_in_batch}

    assert divides_by_items(Dividing(), batch)

    class Strict(torch.nn.Module):
        def forward(self, input_ids: Any, attention_mask: Any, labels: Any) -> dict[str, torch.Tensor]:
            return {"loss": torch.tensor(8.0)}

    assert not divides_by_items(Strict(), batch)
