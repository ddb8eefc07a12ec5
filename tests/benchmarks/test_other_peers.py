"""The other models and the list of measurements, at a very small size."""

import importlib.util
from dataclasses import replace
from functools import partial
from typing import Any

import pytest
import torch

from benchmarks import full_mode, measurements
from benchmarks.batches import real_tokens, source_batch, training_batches
from benchmarks.decoding_speed import Decoding
from benchmarks.full_mode import OTHERS, full_measurements
from benchmarks.interleaved import race
from benchmarks.peers_torch import (
    TorchGreedy,
    XGreedy,
    build_torch,
    build_x_transformers,
    decoder_input,
    has_x_transformers,
    x_transformers_loss,
)
from benchmarks.peers_transformers import build_bart, build_ours
from benchmarks.short_mode import short_measurements
from benchmarks.sizes import TINY
from benchmarks.training_speed import TrainingPass

SMALL = replace(TINY, width=16, ffn=32, layers=1, heads=2, vocab=50)


@pytest.fixture
def batches() -> list[dict[str, torch.Tensor]]:
    return training_batches(grouped=False, vocab_size=50, seed=0, count=1, batch_size=4)


@pytest.mark.parametrize("name", list(OTHERS))
def test_models_of_transformers_train_and_write(name: str, batches: list[dict[str, torch.Tensor]]) -> None:
    model = OTHERS[name](SMALL, 0)
    assert TrainingPass(model, batches)() == real_tokens(batches)
    source = source_batch([4, 2], 50, seed=0)
    assert race({"other": Decoding(model, source, new_tokens=5, beams=2)}).tokens == 10


def test_torch_transformer_trains_and_writes(batches: list[dict[str, torch.Tensor]]) -> None:
    model = build_torch(SMALL, 0)
    assert TrainingPass(model, batches, loss=model.loss)() == real_tokens(batches)
    assert TorchGreedy(model, source_batch([4, 2], 50, seed=0), new_tokens=5)() == 10


def test_torch_transformer_sees_no_later_target() -> None:
    model = build_torch(SMALL, 0).eval()
    source = source_batch([3], 50, seed=0)
    ids = torch.tensor([[1, 5, 6, 7]])
    changed = torch.tensor([[1, 5, 6, 9]])
    states = [model.decode(one, model.encode(source), source) for one in (ids, changed)]
    torch.testing.assert_close(states[0][:, :3], states[1][:, :3])
    assert not torch.allclose(states[0][:, 3], states[1][:, 3])


def test_decoder_input_is_the_labels_one_later() -> None:
    assert decoder_input(torch.tensor([[7, 8, 9], [7, -100, -100]])).tolist() == [[1, 7, 8], [1, 7, 0]]


def test_x_transformers_is_left_out_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_mode, "has_x_transformers", lambda: False)
    figures = full_mode.measure_loops(SMALL, batch_size=1, seed=0, rounds=5)
    assert [figure.reference_name for figure in figures] == ["nn.Transformer"]
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not has_x_transformers()


def test_x_transformers_trains_and_writes(batches: list[dict[str, torch.Tensor]]) -> None:
    if not has_x_transformers():
        pytest.skip("x-transformers is not installed")
    model = build_x_transformers(SMALL, 0)
    assert TrainingPass(model, batches, loss=partial(x_transformers_loss, model))() == real_tokens(batches)
    assert XGreedy(model, source_batch([4, 2], 50, seed=0), new_tokens=5)() == 10


def test_training_figures_name_ratio_logits_and_memory() -> None:
    figures = measurements.measure_training(SMALL, grouped=True, seed=0, rounds=5, target=1.1, count=1)
    assert [(figure.unit, figure.target, figure.at_most) for figure in figures] == [
        ("tokens/s", 1.1, False),
        ("tokens/s", None, False),
        ("MiB", 0.7, True),
    ]


def test_memory_figure_divides_ours_by_barts(monkeypatch: pytest.MonkeyPatch, batches: Any) -> None:
    bart = build_bart(SMALL, 0)
    ours = build_ours(bart)
    monkeypatch.setattr(measurements, "saved_bytes", lambda model, _: 2**20 * (3 if model is ours else 4))
    figure = measurements.memory_figure("x", bart, ours, batches, measurements.MEMORY_TARGETS["tiny"])
    assert (figure.ratio, figure.ours, figure.reference, figure.verdict) == (0.75, 3.0, 4.0, "SHORT")
    assert measurements.memory_figure("x", bart, ours, batches, None).verdict == ""


def test_every_measurement_has_a_name_of_its_own() -> None:
    for listed in (short_measurements, full_measurements):
        names = [name for name, _ in listed(seed=0, rounds=5)]
        assert len(set(names)) == len(names)
