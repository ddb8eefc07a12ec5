"""
Label smoothing, by the config and by the Trainer.

With weight s of the uniform distribution over V ids, a label y costs `-(1 - s) log p(y) - s / V * sum_v log p(v)`
(Szegedy et al. 2016, section 7); `summed_loss` writes that out. The Trainer takes the labels out of the batch before
the model sees them and smooths the logits itself; without `decoder_input_ids` in the batch a stock model then has
nothing to decode from, or trains on its own source.
"""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, Seq2SeqTrainer, Trainer, default_data_collator

from tests.factories import tiny_causal, tiny_seq2seq
from tests.integration.training_runs import (
    Example,
    label_count,
    logged_losses,
    plain_descent,
    summed_loss,
    token_examples,
    training_arguments,
    word_tokenizer,
)


def equal_length_examples(count: int) -> list[Example]:
    """Examples that the default collator can stack: 5 source and 4 target tokens each."""
    long = [e for e in token_examples(300) if len(e["input_ids"]) >= 5 and len(e["labels"]) >= 4][:count]
    return [{"input_ids": e["input_ids"][:5], "attention_mask": [1] * 5, "labels": e["labels"][:4]} for e in long]


def test_trainer_smooths_with_the_collator_that_adds_decoder_inputs(tmp_path: Path) -> None:
    """Training and evaluation: both logged losses are the smoothed mean over label tokens."""
    model, examples = tiny_seq2seq(), token_examples(6)
    truth = summed_loss(model, examples, smoothing=0.3) / label_count(examples)
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(
            tmp_path, label_smoothing_factor=0.3, per_device_train_batch_size=6, per_device_eval_batch_size=6
        ),
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        optimizers=plain_descent(model, rate=0.0),
    )
    trainer.train()
    assert logged_losses(trainer) == pytest.approx([truth], rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(truth, rel=1e-5)
    assert abs(truth - summed_loss(model, examples) / label_count(examples)) > 0.01  # smoothing is visible


@pytest.mark.parametrize(
    "collator",
    [lambda: DataCollatorForSeq2Seq(word_tokenizer()), lambda: default_data_collator],
    ids=["seq2seq collator without a model", "default collator"],
)
def test_trainer_smoothing_without_decoder_inputs_is_refused_with_the_remedy(
    tmp_path: Path, collator: Callable[[], Any]
) -> None:
    model, examples = tiny_seq2seq(), equal_length_examples(4)
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(tmp_path, label_smoothing_factor=0.1),
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=collator(),
    )
    remedy = r"add.*`decoder_input_ids`.*DataCollatorForSeq2Seq\(tokenizer, model=model\).*or set `label_smoothing`"
    with pytest.raises(ValueError, match=remedy):
        trainer.train()
    with pytest.raises(ValueError, match=remedy):
        trainer.evaluate()


@pytest.mark.parametrize("collator", ["with a model", "without a model", "default"])
def test_smoothing_in_the_config_works_with_every_collator(tmp_path: Path, collator: str) -> None:
    """The training loss is smoothed; the evaluation loss, which is compared between settings, is not."""
    model, examples = tiny_seq2seq(label_smoothing=0.2), equal_length_examples(6)
    collators: dict[str, Any] = {
        "with a model": DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        "without a model": DataCollatorForSeq2Seq(word_tokenizer()),
        "default": default_data_collator,
    }
    smoothed, plain = (summed_loss(model, examples, s) / label_count(examples) for s in (0.2, 0.0))
    trainer = Trainer(
        model=model,
        args=training_arguments(tmp_path, per_device_train_batch_size=6, per_device_eval_batch_size=6),
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=collators[collator],
        optimizers=plain_descent(model, rate=0.0),
    )
    trainer.train()
    assert logged_losses(trainer) == pytest.approx([smoothed], rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(plain, rel=1e-5)


def test_trainer_shifts_the_labels_of_a_language_model(tmp_path: Path) -> None:
    """
    Position t predicts token t + 1. The Trainer shifts only classes that it knows by name; of any other it would
    compare position t with token t, which a model learns by copying its input.
    """
    model, smoothing = tiny_causal(), 0.1
    rows = [e["labels"] for e in equal_length_examples(5)]
    with torch.no_grad():
        log_probabilities = model(torch.tensor(rows)).logits.double().log_softmax(-1)  # (5, 4, V)

    def loss(predictions: torch.Tensor, labels: torch.Tensor) -> float:
        right = predictions.gather(-1, labels[..., None])[..., 0]
        return -float(((1 - smoothing) * right + smoothing * predictions.mean(-1)).mean())

    targets = torch.tensor(rows)
    truth, unshifted = loss(log_probabilities[:, :-1], targets[:, 1:]), loss(log_probabilities, targets)
    trainer = Trainer(
        model=model,
        args=training_arguments(
            tmp_path, label_smoothing_factor=smoothing, per_device_train_batch_size=5, per_device_eval_batch_size=5
        ),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
        eval_dataset=[{"input_ids": row, "labels": row} for row in rows],
        optimizers=plain_descent(model, rate=0.0),
    )
    trainer.train()
    assert logged_losses(trainer) == pytest.approx([truth], rel=1e-5)
    assert trainer.evaluate()["eval_loss"] == pytest.approx(truth, rel=1e-5)
    assert abs(truth - unshifted) > 0.01
