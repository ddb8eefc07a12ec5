"""What another's source costs, measured in training, and who hears of a model that does not use it."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_custom_decoder.data.pair_collator import PairCollator
from hf_custom_decoder.training import source_gain
from hf_custom_decoder.training.recipe_reading import read_recipe
from hf_custom_decoder.training.run_recipe import train_recipe
from hf_custom_decoder.training.source_gain import NUM_ROWS, SourceGain, is_unused
from tests.factories import VOCAB_SIZE, tiny_seq2seq
from tests.tiny_recipes import write_recipe

pytest.importorskip("datasets")

COLLATE = PairCollator(pad_token_id=0)


def random_pairs(num_pairs: int) -> list[dict[str, Any]]:
    generator = torch.Generator().manual_seed(0)

    def ids() -> list[int]:
        length = int(torch.randint(1, 6, (), generator=generator))
        return [*torch.randint(3, VOCAB_SIZE, (length,), generator=generator).tolist(), 2]

    return [{"input_ids": ids(), "labels": ids()} for _ in range(num_pairs)]


def loss_of(model: Any, source: list[int], labels: list[int]) -> float:
    """Of all tokens of one pair, in nats."""
    with torch.no_grad():
        found = model(input_ids=torch.tensor([source]), labels=torch.tensor([labels])).loss
    return float(found) * len(labels)


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_gain_is_the_difference_of_mean_losses(batch_size: int) -> None:
    model, pairs = tiny_seq2seq().train(), random_pairs(7)
    found = SourceGain(pairs, COLLATE, batch_size)(model)
    assert model.training
    model.eval()
    difference = sum(
        loss_of(model, pairs[idx - 1]["input_ids"], pair["labels"]) - loss_of(model, pair["input_ids"], pair["labels"])
        for idx, pair in enumerate(pairs)
    )
    assert found == pytest.approx(difference / sum(len(pair["labels"]) for pair in pairs), abs=1e-6)
    assert abs(difference) > 1e-3


def test_rows_are_spread_and_sources_differ() -> None:
    """Neighbours often share their source, as where several references follow each other."""
    pairs = [pair for pair in random_pairs(100) for _ in range(3)]
    looked_at = []

    def collate(rows: list[dict[str, Any]]) -> dict[str, torch.Tensor]:
        looked_at.append([tuple(row["input_ids"]) for row in rows])
        return COLLATE(rows)

    SourceGain(pairs, collate, 1000)
    own, swapped = looked_at
    assert len(set(own)) == len(own) == NUM_ROWS
    assert set(own) == set(swapped)
    assert all(one != other for one, other in zip(own, swapped, strict=True))
    assert pairs.index(next(pair for pair in pairs if tuple(pair["input_ids"]) == own[-1])) > 250


@pytest.mark.parametrize("num_pairs", [0, 1, 5])
def test_a_single_source_has_no_gain(num_pairs: int) -> None:
    pairs = [{"input_ids": [2], "labels": pair["labels"]} for pair in random_pairs(num_pairs)]
    assert SourceGain(pairs, COLLATE, 2)(tiny_seq2seq()) is None


def test_a_decoder_that_reads_nothing() -> None:
    model, pairs = tiny_seq2seq(), random_pairs(40)
    measure = SourceGain(pairs, COLLATE, 8)
    assert measure(model) != pytest.approx(0.0, abs=1e-4)
    for name, parameter in model.named_parameters():
        if ".encoder_attn.out_proj." in name:
            torch.nn.init.zeros_(parameter)
    assert measure(model) == pytest.approx(0.0, abs=1e-6)
    assert is_unused(measure(model))


def test_gains_that_are_too_small() -> None:
    assert [is_unused(gain) for gain in (None, 2.0, 0.011, 0.009, -1.0, float("nan"))] == [
        False,
        False,
        False,
        True,
        True,
        True,
    ]


@pytest.mark.parametrize("least", [-1e9, 1e9])
def test_training_tells(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, least: float) -> None:
    """Once while it trains, after the first tenth of the steps, and at the end; the log has all measurements."""
    monkeypatch.setattr(source_gain, "LEAST_GAIN", least)
    heard: list[str] = []
    path = write_recipe(tmp_path, training__max_steps=22, training__save_steps=2, training__ema_decay=0.5)
    folder = train_recipe(read_recipe(path), heard.append)
    log = json.loads((folder / "training_log.json").read_text())
    measured = [entry for entry in log if "eval_loss" in entry]
    assert len(measured) == 11
    assert all(isinstance(entry["eval_source_gain"], float) for entry in measured)
    results = json.loads((folder / "training_results.json").read_text())
    assert results["validation"]["source_gain"] == pytest.approx(measured[-1]["eval_source_gain"], abs=1e-5)
    told = [text.split(" the model")[0] for text in heard if "does not use its source" in text]
    assert told == (["After 4 steps", "At its end"] if least > 0 else [])
