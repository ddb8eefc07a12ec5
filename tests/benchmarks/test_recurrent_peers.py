"""The plain recurrent model is the one it says it is, and the clocks of single tokens count right."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.batches import source_batch, training_batches
from benchmarks.decoding_speed import Decoding
from benchmarks.interleaved import UnequalWorkError, race
from benchmarks.peers_recurrent import PlainGreedy, build_plain, build_recurrent, check_equal_parameters
from benchmarks.plots import plot_curves
from benchmarks.recurrent import curve
from benchmarks.sizes import TINY
from benchmarks.token_times import state_bytes, token_seconds

SMALL = replace(TINY, width=16, layers=2, vocab=50)


@pytest.mark.parametrize("cell_type", ["gru", "lstm"])
@pytest.mark.parametrize("attention_type", ["dot", "general"])
def test_both_models_have_equally_many_weights(cell_type: str, attention_type: str) -> None:
    plain = build_plain(SMALL, cell_type, attention_type, seed=0)
    check_equal_parameters(build_recurrent(SMALL, cell_type, attention_type, seed=0), plain)


def test_unequally_many_weights_are_refused() -> None:
    with pytest.raises(UnequalWorkError, match="equally many weights"):
        check_equal_parameters(build_recurrent(SMALL, "gru", "dot", seed=0), build_plain(SMALL, "lstm", "dot", seed=0))


@pytest.mark.parametrize("cell_type", ["gru", "lstm"])
def test_plain_loss_has_a_gradient_for_every_weight_and_ignores_padding(cell_type: str) -> None:
    plain = build_plain(SMALL, cell_type, "general", seed=0)
    batch = training_batches(grouped=False, vocab_size=50, seed=0, count=1, batch_size=4)[0]
    plain.loss(batch).backward()
    assert all(parameter.grad is not None and parameter.grad.any() for parameter in plain.parameters())
    longer = {**batch, "labels": torch.nn.functional.pad(batch["labels"], (0, 3), value=-100)}
    plain.eval()
    torch.testing.assert_close(plain.loss(longer), plain.loss(batch))


def test_plain_loss_is_the_mean_over_labels() -> None:
    plain = build_plain(SMALL, "gru", "dot", seed=0).eval()
    batch = {
        "input_ids": torch.tensor([[5, 6]]),
        "attention_mask": torch.ones(1, 2),
        "labels": torch.tensor([[7, 8, -100]]),
    }
    logits, _ = plain.decode(torch.tensor([[1, 7]]), *plain.encode(batch["input_ids"])[::-1], batch["attention_mask"])
    expected = -logits.log_softmax(dim=-1)[0, [0, 1], [7, 8]].mean()
    torch.testing.assert_close(plain.loss(batch), expected)


def test_plain_steps_compute_what_a_whole_sequence_does() -> None:
    plain = build_plain(SMALL, "gru", "dot", seed=0).eval()
    source, states = plain.encode(torch.tensor([[5, 6, 7]]))
    mask, ids = torch.ones(1, 3), torch.tensor([[1, 9, 8]])
    whole, _ = plain.decode(ids, states, source, mask)
    for position in range(3):
        step, states = plain.decode(ids[:, position : position + 1], states, source, mask)
        torch.testing.assert_close(step[:, 0], whole[:, position])


def test_loop_and_generate_write_equally_many_tokens() -> None:
    source = source_batch([4, 2], 50, seed=0)
    runs = {
        "plain": PlainGreedy(build_plain(SMALL, "gru", "dot", seed=0), source, new_tokens=6),
        "ours": Decoding(build_recurrent(SMALL, "gru", "dot", seed=0), source, new_tokens=6),
    }
    assert race(runs).tokens == 12


def test_one_time_between_tokens_and_state_of_a_gru() -> None:
    run = Decoding(build_recurrent(SMALL, "gru", "dot", seed=0), source_batch([4], 50, seed=0), new_tokens=5)
    ticks = iter(range(100))
    assert token_seconds(run, lambda: float(next(ticks))) == [1.0] * 4
    assert state_bytes(run) == 2 * 16 * 4  # two layers, one state of width 16 each, float32


def test_curve_takes_medians_of_buckets() -> None:
    assert curve([[0.001, 0.003, 0.005], [0.001, 0.003, 0.005]], bucket=2) == ([1.0, 3.0], [2.0, 5.0])


def test_plot_is_a_picture(tmp_path: Path) -> None:
    plot_curves(tmp_path / "a.png", {"one": ([1.0, 2.0], [1.0, 3.0])}, title="t", x_label="x", y_label="y")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")


def test_plot_without_matplotlib_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match="pip install matplotlib"):
        plot_curves(tmp_path / "a.png", {}, title="t", x_label="x", y_label="y")
