"""Noise of batches: what may change, how often, and that nothing but the number decides."""

from typing import Any

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_custom_decoder.data.pair_encoding import PairTokenizers
from hf_custom_decoder.training.recipe_reading import recipe_from_dict
from hf_custom_decoder.training.token_noise import TokenNoise, build_noise
from tests.factories import tiny_batch, tiny_seq2seq

END, TAG, HIDDEN = 2, 4, 3


def noise(**changes: Any) -> TokenNoise:
    options: dict[str, Any] = {"source_drop": 0.0, "source_shuffle": 0, "target_hide": 0.0}
    fixed = {"special_ids": {0, 1, END, TAG}, "pad_token_id": 0, "hidden_id": HIDDEN, "seed": 5}
    return TokenNoise(**options | fixed | changes)


def numbered(rows: int, length: int) -> dict[str, torch.Tensor]:
    """Sources that begin with a tag, count up from 10 and end with the end token; the last row is short."""
    ids = torch.arange(10, 10 + length).repeat(rows, 1)
    ids[:, 0], ids[:, -1] = TAG, END
    mask = torch.ones_like(ids)
    ids[-1, 3:], mask[-1, 3:] = 0, 0
    ids[-1, 2] = END
    return {"input_ids": ids, "attention_mask": mask, "labels": ids[:, :4].clone()}


def sources(batch: dict[str, torch.Tensor]) -> list[list[int]]:
    lengths = batch["attention_mask"].sum(1).tolist()
    assert batch["input_ids"].shape[1] == max(lengths)
    assert (batch["input_ids"][batch["attention_mask"] == 0] == 0).all()
    return [row[:length].tolist() for row, length in zip(batch["input_ids"], lengths, strict=True)]


def test_dropped_tokens() -> None:
    batch = numbered(200, 52)
    noisy = noise(source_drop=0.3)(batch, 0)
    found = sources(noisy)
    for row in found:
        assert row[0] == TAG
        assert row[-1] == END
        assert row[1:-1] == sorted(set(row[1:-1]))
    assert found[-1] == [TAG, 11, END]  # its only token stays
    kept = np.mean([len(row) - 2 for row in found[:-1]]) / 50
    assert abs(kept - 0.7) < 0.02
    assert torch.equal(noisy["labels"], batch["labels"])


def test_one_token_stays() -> None:
    assert all(len(row) > 2 for row in sources(noise(source_drop=0.97)(numbered(50, 6), 0)))


def test_moved_tokens() -> None:
    moves = []
    for row in sources(noise(source_shuffle=3)(numbered(200, 52), 0))[:-1]:
        assert sorted(row[1:-1]) == list(range(11, 61))
        assert (row[0], row[-1]) == (TAG, END)
        moves += [abs(place + 11 - token) for place, token in enumerate(row[1:-1])]
    assert max(moves) == 3
    assert 0.7 < np.mean(moves) < 1.5


def test_hidden_decoder_inputs() -> None:
    model = tiny_seq2seq()
    batch = tiny_batch(3, 7, 6)
    batch["labels"][0, :] = torch.arange(10, 16)
    plain = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    hits = torch.zeros(plain.shape)
    for number in range(300):
        noisy = noise(target_hide=0.25, hidden_id=49)(batch, number, model)
        assert torch.equal(noisy["labels"], batch["labels"])
        assert torch.equal(noisy["input_ids"], batch["input_ids"])
        changed = noisy["decoder_input_ids"] != plain
        assert (noisy["decoder_input_ids"][changed] == 49).all()
        hits += changed
    assert (hits[:, 0] == 0).all()
    real = batch["labels"][:, :-1] != -100
    assert (hits[:, 1:][~real] == 0).all()
    assert abs(hits[:, 1:][real].mean() / 300 - 0.25) < 0.04


def test_the_number_decides_alone() -> None:
    chosen = noise(source_drop=0.3, source_shuffle=2)
    first, second = chosen(numbered(5, 20), 7), chosen(numbered(5, 20), 8)
    torch.manual_seed(99)
    np.random.seed(99)
    again = noise(source_drop=0.3, source_shuffle=2)(numbered(5, 20), 7)
    assert torch.equal(first["input_ids"], again["input_ids"])
    assert sources(first) != sources(second)
    assert sources(first) != sources(noise(source_drop=0.3, source_shuffle=2, seed=6)(numbered(5, 20), 7))


def test_what_stands_for_a_hidden_token() -> None:
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[END]": 1, "[MASK]": 2, "a": 3}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", eos_token="[END]")
    training = recipe_from_dict({"training": {"max_steps": 1, "batch_size": 1, "target_hide": 0.9}}).training
    with pytest.raises(ValueError, match="`training.target_hide` needs an unknown or a mask token"):
        build_noise(training, PairTokenizers(tokenizer, tokenizer))
    tokenizer.mask_token = "[MASK]"
    built = build_noise(training, PairTokenizers(tokenizer, tokenizer))
    assert built is not None
    inputs = built(tiny_batch(), 0, tiny_seq2seq())["decoder_input_ids"]
    assert (inputs[0] == 2).sum() > 2
    training.target_hide = 0.0
    assert build_noise(training, PairTokenizers(tokenizer, tokenizer)) is None
