"""Word dropout: what may be hidden, how often, and that nothing but seed and number decides."""

import numpy as np
import pytest
import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from hf_custom_decoder.data.pair_encoding import PairTokenizers
from hf_custom_decoder.training.recipe_reading import recipe_from_dict
from hf_custom_decoder.training.word_dropout import WordDropout, build_word_dropout
from tests.factories import tiny_batch, tiny_seq2seq


def test_hidden_decoder_inputs() -> None:
    model = tiny_seq2seq()
    batch = tiny_batch(3, 7, 6)
    batch["labels"][0, :] = torch.arange(10, 16)
    plain = model.prepare_decoder_input_ids_from_labels(batch["labels"])
    hits = torch.zeros(plain.shape)
    hide = WordDropout(probability=0.25, hidden_id=49, seed=5)
    for number in range(300):
        noisy = hide(batch, number, model)
        assert torch.equal(noisy["labels"], batch["labels"])
        assert torch.equal(noisy["input_ids"], batch["input_ids"])
        changed = noisy["decoder_input_ids"] != plain
        assert (noisy["decoder_input_ids"][changed] == 49).all()
        hits += changed
    assert (hits[:, 0] == 0).all()
    real = batch["labels"][:, :-1] != -100
    assert (hits[:, 1:][~real] == 0).all()
    assert abs(hits[:, 1:][real].mean() / 300 - 0.25) < 0.04


def test_seed_and_number_decide_alone() -> None:
    model, batch = tiny_seq2seq(), tiny_batch(8, 7, 20)

    def hidden(seed: int, number: int) -> torch.Tensor:
        return WordDropout(probability=0.3, hidden_id=49, seed=seed)(batch, number, model)["decoder_input_ids"]

    first = hidden(5, 7)
    torch.manual_seed(99)
    np.random.seed(99)
    assert torch.equal(hidden(5, 7), first)
    assert not torch.equal(hidden(5, 8), first)
    assert not torch.equal(hidden(6, 7), first)


def test_what_stands_for_a_hidden_token() -> None:
    words = Tokenizer(models.WordLevel({"[PAD]": 0, "[END]": 1, "[MASK]": 2, "a": 3}, unk_token="a"))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=words, pad_token="[PAD]", eos_token="[END]")
    training = recipe_from_dict({"training": {"max_steps": 1, "batch_size": 1, "target_dropout": 0.9}}).training
    with pytest.raises(ValueError, match="`training.target_dropout` needs an unknown or a mask token"):
        build_word_dropout(training, PairTokenizers(tokenizer, tokenizer))
    tokenizer.mask_token = "[MASK]"
    built = build_word_dropout(training, PairTokenizers(tokenizer, tokenizer))
    assert built is not None
    inputs = built(tiny_batch(), 0, tiny_seq2seq())["decoder_input_ids"]
    assert (inputs[0] == 2).sum() > 2
    training.target_dropout = 0.0
    assert build_word_dropout(training, PairTokenizers(tokenizer, tokenizer)) is None
