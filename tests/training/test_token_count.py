"""Tokens are counted as the model sees them, padding left out."""

from pathlib import Path

import pytest
import torch
from transformers import TrainerControl, TrainerState, TrainingArguments

from hf_custom_decoder.data.pronunciation_examples import encode_entries
from hf_custom_decoder.training.pronunciation_recipe import build_pronunciation_trainer
from hf_custom_decoder.training.token_count import TokenCount
from hf_custom_decoder.training.training_budget import TrainingBudget
from tests.tiny_pronunciation import ENTRIES, tiny_model, tiny_tokenizer


def test_one_pass_counts_every_token_once(tmp_path: Path) -> None:
    tokenizer = tiny_tokenizer()
    model = tiny_model(tokenizer).train()
    tokens = TokenCount()
    examples = encode_entries(tokenizer, ENTRIES)
    trainer = build_pronunciation_trainer(
        model,
        tokenizer,
        examples,
        TrainingBudget(steps=1),  # one batch takes all words, of unequal length
        peak_learning_rate=1e-3,
        output_dir=tmp_path,
        seed=0,
        callbacks=[tokens],
    )
    trainer.train()
    expected = sum(len(example["input_ids"]) + len(example["labels"]) for example in examples)
    assert tokens.num_tokens == expected
    # Nothing counts after training.
    ids = torch.tensor([[4, 5]])
    model.train()
    model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=ids)
    assert tokens.num_tokens == expected


def test_evaluation_does_not_count(tmp_path: Path) -> None:
    model = tiny_model(tiny_tokenizer())
    tokens = TokenCount()
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    tokens.on_train_begin(arguments, TrainerState(), TrainerControl(), model=model)
    batch = {
        "input_ids": torch.tensor([[4, 5, 0]]),
        "attention_mask": torch.tensor([[1, 1, 0]]),
        "labels": torch.tensor([[4, -100]]),
    }
    model.eval()(**batch)
    assert tokens.num_tokens == 0
    model.train()(**batch)
    assert tokens.num_tokens == 3


def test_model_is_needed(tmp_path: Path) -> None:
    arguments = TrainingArguments(output_dir=str(tmp_path), use_cpu=True)
    with pytest.raises(ValueError, match="`model` must be the one that is trained"):
        TokenCount().on_train_begin(arguments, TrainerState(), TrainerControl())
