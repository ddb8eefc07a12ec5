"""The recipe of the quickstart learns, follows its budget and is repeatable."""

import math
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import Seq2SeqTrainer, set_seed

from hf_custom_decoder.data.pronunciation_examples import encode_entries
from hf_custom_decoder.evaluation.batched_generation import generate_texts
from hf_custom_decoder.training import pronunciation_recipe
from hf_custom_decoder.training.pronunciation_decoders import DECODER_RECIPES, build_pronunciation_model
from hf_custom_decoder.training.pronunciation_recipe import WARMUP_SHARE, build_pronunciation_trainer
from hf_custom_decoder.training.training_budget import TrainingBudget
from tests.tiny_pronunciation import ENTRIES, shrink_recipes, tiny_tokenizer

PEAK_LEARNING_RATE = 2e-3


@pytest.fixture(autouse=True)
def _small_model(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_recipes(monkeypatch, 32)


@pytest.fixture(autouse=True)
def _one_thread() -> Iterator[None]:
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)  # a small model on a busy machine gets slower with every further thread
    yield
    torch.set_num_threads(num_threads)


def trained(
    steps: int,
    folder: Path,
    *,
    decoder: str = "transformer",
    peak_learning_rate: float = PEAK_LEARNING_RATE,
    seed: int = 3,
) -> Seq2SeqTrainer:
    tokenizer = tiny_tokenizer()
    set_seed(3)
    trainer = build_pronunciation_trainer(
        build_pronunciation_model(tokenizer, decoder),
        tokenizer,
        encode_entries(tokenizer, ENTRIES),
        TrainingBudget(steps=steps),
        peak_learning_rate=peak_learning_rate,
        output_dir=folder,
        seed=seed,
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize("decoder", DECODER_RECIPES)
def test_it_learns_five_words_by_heart(tmp_path: Path, decoder: str) -> None:
    trainer = trained(150, tmp_path, decoder=decoder, peak_learning_rate=1e-2)
    words = [entry.word for entry in ENTRIES]
    outputs = generate_texts(trainer.model, tiny_tokenizer(), words, num_beams=2)
    wrong = [
        (entry.word, text)
        for entry, (text,) in zip(ENTRIES, outputs, strict=True)
        if tuple(text.split()) not in entry.pronunciations
    ]
    assert not wrong


def test_trainer_is_the_stock_one_and_same_seed_gives_same_weights(tmp_path: Path) -> None:
    first, second = trained(3, tmp_path), trained(3, tmp_path)
    assert type(first) is Seq2SeqTrainer
    for left, right in zip(first.model.parameters(), second.model.parameters(), strict=True):
        torch.testing.assert_close(left, right, rtol=0, atol=0)


def test_seed_decides_the_order_of_the_words(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pronunciation_recipe, "BATCH_SIZE", 2)
    first, second = trained(3, tmp_path, seed=3), trained(3, tmp_path, seed=4)  # from the same fresh weights
    weights = zip(first.model.parameters(), second.model.parameters(), strict=True)
    assert any(not torch.equal(left, right) for left, right in weights)


def test_learning_rate_follows_the_share_of_the_budget(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pronunciation_recipe, "STEPS_A_LOG", 1)
    trainer = trained(10, tmp_path)
    rates = [entry["learning_rate"] for entry in trainer.state.log_history if "learning_rate" in entry]
    assert len(rates) == 10
    # Step n runs at the rate of the share that was done before it.
    expected = [PEAK_LEARNING_RATE * (1.0 - n / 10) / (1.0 - WARMUP_SHARE) for n in range(1, 10)]
    assert rates[0] == 0.0
    assert all(math.isclose(rate, value, rel_tol=1e-6) for rate, value in zip(rates[1:], expected, strict=True))


def test_seconds_end_the_run(tmp_path: Path) -> None:
    now = [0.0]

    def clock() -> float:
        now[0] += 0.01  # every look takes a while
        return now[0]

    tokenizer = tiny_tokenizer()
    budget = TrainingBudget(seconds=0.5, clock=clock)
    trainer = build_pronunciation_trainer(
        build_pronunciation_model(tokenizer),
        tokenizer,
        encode_entries(tokenizer, ENTRIES),
        budget,
        peak_learning_rate=PEAK_LEARNING_RATE,
        output_dir=tmp_path,
        seed=0,
    )
    trainer.train()
    assert 2 < trainer.state.global_step < 50
    assert budget.share(trainer.state.global_step) == 1.0
