"""
One script on one and on two processes: equal losses, weights and evaluation; checkpoints move between them.

The files of examples/accelerate_configs are read by accelerate, and those that nobody has run say so.
"""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from accelerate.commands.config.config_args import load_config_from_file
from transformers import AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq

from tests.ecosystem.layout_worker import GENERATION, GLOBAL_BATCH, NUM_EVALUATED, model_that_ends
from tests.fresh_python import ROOT, run_python
from tests.integration.training_runs import assert_same, plain_descent, token_examples, weights_of, word_tokenizer

CONFIGS = ROOT / "examples" / "accelerate_configs"


def run(launcher: list[str], folder: Path, *arguments: str) -> dict[str, Any]:
    """What the first process of the worker found."""
    folder.mkdir()
    worker = Path(__file__).with_name("layout_worker.py")
    run_python(*launcher, worker, folder, *arguments, folder=folder, OMP_NUM_THREADS="1")
    found: dict[str, Any] = torch.load(folder / "results.pt")
    return found


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("layouts")


@pytest.fixture(scope="module")
def one(place: Path) -> dict[str, Any]:
    return run([], place / "one")


@pytest.fixture(scope="module")
def two(place: Path, one: dict[str, Any]) -> dict[str, Any]:
    """Two processes; they also go on from the checkpoint of one."""
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    return run(launcher, place / "two", str(place / "one" / "run" / "checkpoint-2"))


def test_two_processes_train_as_one(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert len(one["trained"]["losses"]) == 4
    assert two["trained"]["losses"] == pytest.approx(one["trained"]["losses"], rel=1e-5)
    assert_same(two["trained"]["weights"], one["trained"]["weights"])


def test_two_processes_evaluate_as_one(one: dict[str, Any], two: dict[str, Any]) -> None:
    """Seven examples over two processes: none is lost, and none counted twice where the last batch is not full."""
    found, expected = two["trained"]["metrics"], one["trained"]["metrics"]
    assert expected["eval_count"] == NUM_EVALUATED
    assert found["eval_count"] == NUM_EVALUATED
    assert found["eval_mean"] == expected["eval_mean"]


def test_a_checkpoint_of_one_process_goes_on_in_two(one: dict[str, Any], two: dict[str, Any]) -> None:
    assert_same(two["resumed"]["weights"], one["trained"]["weights"])


@pytest.mark.slow
def test_a_checkpoint_of_two_processes_goes_on_in_one(place: Path, one: dict[str, Any], two: dict[str, Any]) -> None:
    found = run([], place / "back", str(place / "two" / "run" / "checkpoint-2"))
    assert_same(found["resumed"]["weights"], one["trained"]["weights"])


def test_shards_train_as_a_whole_model_and_are_saved_as_one(place: Path, two: dict[str, Any]) -> None:
    model = model_that_ends().train()
    optimizer, _ = plain_descent(model, rate=0.1)
    batch = DataCollatorForSeq2Seq(word_tokenizer(), model=model)(token_examples(GLOBAL_BATCH))
    losses = []
    for _ in range(2):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert two["sharded"]["losses"] == pytest.approx(losses, rel=1e-10)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(place / "two" / "from_shards", dtype=torch.float64)
    assert_same(weights_of(loaded), weights_of(model))


def test_generation_over_shards_ends_on_unequal_lengths(place: Path, two: dict[str, Any]) -> None:
    """Each process writes what the whole model writes for its source."""
    model = AutoModelForSeq2SeqLM.from_pretrained(place / "two" / "from_shards", dtype=torch.float64)
    model.generation_config = model_that_ends().generation_config
    expected = []
    for rank in range(2):
        source = torch.tensor([token_examples(GLOBAL_BATCH)[rank]["input_ids"]])
        expected.append(model.generate(source, **GENERATION)[0].tolist())
    found = [[token for token in ids if token != 0] for ids in two["sharded"]["ids"]]
    assert found == expected
    assert len(expected[0]) != len(expected[1])


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_accelerate_reads_the_file(path: Path) -> None:
    config = load_config_from_file(str(path))
    expected = {"cpu": "MULTI_CPU", "fsdp2": "FSDP", "deepspeed_zero2": "DEEPSPEED", "deepspeed_zero3": "DEEPSPEED"}
    assert str(config.distributed_type).endswith(expected.get(path.stem, "MULTI_GPU"))


@pytest.mark.parametrize("path", sorted(CONFIGS.iterdir()), ids=lambda path: path.name)
def test_what_was_not_run_says_so(path: Path) -> None:
    head = "".join(line for line in path.read_text().splitlines()[:3] if line.startswith("#"))
    assert ("not run:" in head) == (path.stem != "cpu")


def test_sharding_names_layers_that_exist() -> None:
    wrapped = yaml.safe_load((CONFIGS / "fsdp2.yaml").read_text())["fsdp_config"]["fsdp_transformer_layer_cls_to_wrap"]
    names = {type(module).__name__ for module in model_that_ends().modules()}
    assert set(re.split(",", wrapped)) <= names
