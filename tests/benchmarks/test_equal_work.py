"""The contestants of the benchmarks at a very small size: equal weights, forced lengths, real tokens, saved bytes."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from benchmarks.batches import padding_share, real_tokens, source_batch, training_batches
from benchmarks.decoding_speed import Decoding, check_equal_search, equal_output_share
from benchmarks.interleaved import UnequalWorkError, race
from benchmarks.lengths import LONGEST, MEAN, SHORTEST, length_pairs, sentence_lengths
from benchmarks.measurements import IN_INFERENCE_MODE, measure_decoding
from benchmarks.memory import saved_bytes
from benchmarks.peers_transformers import build_bart, build_ours
from benchmarks.sizes import TINY
from benchmarks.training_speed import TrainingPass, check_equal_loss

SMALL = replace(TINY, width=16, ffn=32, layers=1, heads=2, vocab=50)


def test_lengths_have_the_stated_mean_limits_and_tail() -> None:
    lengths = sentence_lengths(20_000, seed=0)
    assert sum(lengths) / len(lengths) == pytest.approx(MEAN, rel=0.03)
    assert (min(lengths), max(lengths)) == (SHORTEST, LONGEST)
    assert sorted(lengths)[len(lengths) // 2] < MEAN - 3  # the tail is on the right
    assert sentence_lengths(20, seed=0) == lengths[:20] != sentence_lengths(20, seed=1)
    assert all(SHORTEST <= target <= LONGEST for _, target in length_pairs(1000, seed=0))


def test_real_tokens_leave_out_padding() -> None:
    batch = {
        "input_ids": torch.tensor([[5, 6, 7], [5, 0, 0]]),
        "attention_mask": torch.tensor([[1, 1, 1], [1, 0, 0]]),
        "labels": torch.tensor([[5, 6], [7, -100]]),
    }
    assert real_tokens([batch]) == 4 + 3
    assert padding_share([batch]) == pytest.approx(3 / 10)


def test_grouped_batches_hold_less_padding() -> None:
    shares = [padding_share(training_batches(grouped=grouped, vocab_size=50, seed=0)) for grouped in (False, True)]
    assert shares[0] > 0.5 > 0.2 > shares[1]


def test_our_model_is_the_same_function_as_bart() -> None:
    bart = build_bart(SMALL, seed=0)
    batch = training_batches(grouped=False, vocab_size=50, seed=0, count=1, batch_size=4)[0]
    check_equal_loss(bart, build_ours(bart), batch)
    with pytest.raises(UnequalWorkError, match="same loss"):
        check_equal_loss(bart, build_ours(build_bart(SMALL, seed=1)), batch, tolerance=1e-7)


def test_training_pass_trains_and_counts() -> None:
    batches = training_batches(grouped=False, vocab_size=50, seed=0, count=2, batch_size=4)
    model = build_ours(build_bart(SMALL, seed=0))
    before = model.lm_head.weight.detach().clone()
    assert TrainingPass(model, batches)() == real_tokens(batches)
    assert not torch.equal(model.lm_head.weight, before)


@pytest.mark.parametrize("beams", [1, 3])
def test_decoding_writes_as_many_tokens_as_asked(beams: int) -> None:
    bart = build_bart(SMALL, seed=0)
    source = source_batch([4, 2], 50, seed=0)
    runs = {
        name: Decoding(model, source, new_tokens=7, beams=beams)
        for name, model in {"BART": bart, "ours": build_ours(bart)}.items()
    }
    check_equal_search(runs["BART"], runs["ours"])
    assert equal_output_share(runs["BART"], runs["ours"]) == 1.0
    assert race(runs).tokens == 2 * 7


@pytest.mark.parametrize(("batch_size", "names"), [(1, ["BART", IN_INFERENCE_MODE]), (2, ["BART"])])
def test_one_source_is_decoded_in_inference_mode_too(batch_size: int, names: list[str]) -> None:
    figures = measure_decoding(
        SMALL, beams=1, batch_size=batch_size, source_length=4, seed=0, rounds=5, new_tokens=3, target=0.1
    )
    assert [one.reference_name for one in figures] == names
    assert [one.target for one in figures] == [0.1, None][: len(names)]
    run = Decoding(build_bart(SMALL, seed=0), source_batch([4], 50, seed=0), new_tokens=3, inference_mode=True)
    assert run.write().is_inference()


def test_decodings_of_unequal_lengths_beams_or_sources_are_refused() -> None:
    bart = build_bart(SMALL, seed=0)
    source = source_batch([4, 2], 50, seed=0)
    run = Decoding(bart, source, new_tokens=3)
    with pytest.raises(UnequalWorkError, match="same number of real tokens"):
        race({"one": run, "two": Decoding(bart, source, new_tokens=4)})
    with pytest.raises(UnequalWorkError, match="Search settings"):
        check_equal_search(run, Decoding(bart, source, new_tokens=3, beams=2))
    with pytest.raises(UnequalWorkError, match="same sources"):
        check_equal_search(run, Decoding(bart, source_batch([4, 2], 50, seed=1), new_tokens=3))


def test_decoding_that_stops_early_is_refused() -> None:
    run = Decoding(build_bart(SMALL, seed=0), source_batch([4], 50, seed=0), new_tokens=3)
    run.settings["eos_token_id"] = list(range(50))
    with pytest.raises(UnequalWorkError, match="Every row must get 3 tokens"):
        run()


def test_saved_bytes_count_each_storage_once_and_neither_weights_nor_the_batch() -> None:
    class Model(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(10))

        def forward(self, inputs: torch.Tensor) -> "Model":
            products = inputs * self.weight  # keeps both, which are not counted
            powers = (products * products).exp()  # keeps `products` twice and `powers`: 80 bytes
            self.loss = powers.sum()
            return self

    assert saved_bytes(Model(), {"inputs": torch.ones(10, requires_grad=True)}) == 80
