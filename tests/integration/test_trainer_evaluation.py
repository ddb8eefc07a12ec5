"""Evaluation and prediction by the stock trainers: losses, generated ids, metrics, texts."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import (
    AutoModelForSeq2SeqLM,
    DataCollatorForSeq2Seq,
    EvalPrediction,
    GenerationConfig,
    PreTrainedModel,
    Seq2SeqTrainer,
    Trainer,
)

from hf_custom_decoder.evaluation.predictions import decode_predictions
from tests.factories import SIZES, tiny_causal, tiny_seq2seq
from tests.integration.training_runs import (
    END,
    START,
    Example,
    label_count,
    summed_loss,
    token_examples,
    token_log_probabilities,
    training_arguments,
    word_tokenizer,
)


def evaluator(model: PreTrainedModel, examples: list[Example], folder: Path, **kwargs: Any) -> Seq2SeqTrainer:
    """A trainer that only evaluates; `compute_metrics` may be among the arguments."""
    metrics = kwargs.pop("compute_metrics", None)
    tokenizer = word_tokenizer()
    return Seq2SeqTrainer(
        model=model,
        args=training_arguments(folder, **kwargs),
        eval_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        compute_metrics=metrics,
    )


def model_that_ends() -> PreTrainedModel:
    """
    Random weights hardly ever write the end token, so two more tokens end a sequence too: predictions of 3 to 11
    tokens after the start, cut at 11.
    """
    model = tiny_seq2seq(tie_word_embeddings=False)
    model.lm_head.weight.data *= 3
    model.generation_config.eos_token_id = [END, 7, 29]
    model.generation_config.max_length = 12
    return model


def words(ids: list[int]) -> str:
    return " ".join(f"w{token_id}" for token_id in ids if token_id > 3)


@pytest.mark.parametrize("trainer_class", [Trainer, Seq2SeqTrainer])
def test_evaluation_loss_is_the_mean_over_label_tokens(tmp_path: Path, trainer_class: type[Trainer]) -> None:
    """
    One batch: the mean m of its tokens. Of batches of 4 and 2 examples with means m1 and m2, the Trainer makes
    (4 m1 + 2 m2) / 6, and the Seq2SeqTrainer, which keeps the last batch as long as the others, (m1 + m2) / 2.
    """
    model, examples = tiny_seq2seq(), token_examples(6)

    def mean(part: list[Example]) -> float:
        return summed_loss(model, part) / label_count(part)

    weights = (4 / 6, 2 / 6) if trainer_class is Trainer else (1 / 2, 1 / 2)
    expected = {6: mean(examples), 4: weights[0] * mean(examples[:4]) + weights[1] * mean(examples[4:])}
    for batch_size, loss in expected.items():
        trainer = trainer_class(
            model=model,
            args=training_arguments(tmp_path, per_device_eval_batch_size=batch_size),
            eval_dataset=examples,
            data_collator=DataCollatorForSeq2Seq(word_tokenizer()),
        )
        assert trainer.evaluate()["eval_loss"] == pytest.approx(loss, rel=1e-5)


def test_prediction_without_generation_returns_complete_logits(tmp_path: Path) -> None:
    """Logits of every label position, -100 beside them; a dropout that is off, a model that was in training mode."""
    model, examples = tiny_seq2seq(decoder={"dropout": 0.5}).train(), token_examples(5)
    output = evaluator(model, examples, tmp_path, per_device_eval_batch_size=2).predict(examples)
    logits = output.predictions[0]  # as with BART, the encoder's states follow
    assert logits.shape == (5, max(len(e["labels"]) for e in examples), model.config.vocab_size)
    for row, example in zip(logits, examples, strict=True):
        length = len(example["labels"])
        expected = token_log_probabilities(model, example)
        found = torch.from_numpy(row[:length]).double().log_softmax(-1)
        torch.testing.assert_close(found, expected, rtol=1e-5, atol=1e-5)
    assert output.metrics["test_loss"] > 0


def test_language_model_is_evaluated(tmp_path: Path) -> None:
    """`eval_loss` is there (the Trainer leaves it out where an argument like a label is missing) and by hand."""
    model = tiny_causal()
    rows = [[START, 5, 6, END], [START, 9, 8, END]]
    with torch.no_grad():
        found = model(torch.tensor(rows)).logits[:, :-1].double().log_softmax(-1)
    truth = -found.gather(-1, torch.tensor(rows)[:, 1:, None]).mean().item()
    trainer = Trainer(
        model=model,
        args=training_arguments(tmp_path),
        eval_dataset=[{"input_ids": row, "labels": row} for row in rows],
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(truth, rel=1e-5)


@pytest.mark.parametrize("num_beams", [1, 3])
def test_predicted_ids_are_those_of_generate_and_decode(tmp_path: Path, num_beams: int) -> None:
    """
    Batches are padded to their longest source, their predictions to a common length with -100 between batches; each
    row still equals what its source alone generates, and decodes to the words of that.
    """
    model = model_that_ends()
    examples, tokenizer = token_examples(7), word_tokenizer()
    trainer = evaluator(model, examples, tmp_path, predict_with_generate=True, per_device_eval_batch_size=3)
    output = trainer.predict(examples, num_beams=num_beams)

    alone = [
        model.generate(torch.tensor([example["input_ids"]]), num_beams=num_beams)[0].tolist() for example in examples
    ]
    assert len({len(ids) for ids in alone}) > 1
    for row, ids in zip(output.predictions.tolist(), alone, strict=True):
        assert row[: len(ids)] == ids
        assert set(row[len(ids) :]) <= {0, END, -100}  # beam search fills up with the end token where padding is 0
    assert decode_predictions(tokenizer, output.predictions) == [words(ids) for ids in alone]
    assert -100 in output.label_ids
    assert decode_predictions(tokenizer, output.label_ids) == [words(example["labels"]) for example in examples]


def test_predictions_of_batches_of_unequal_length_hold_ignored_ids_and_decode(tmp_path: Path) -> None:
    """With `max_new_tokens`, nothing pads a batch to a common length but -100, which no tokenizer knows."""
    model = model_that_ends()
    model.generation_config.max_length = 1  # shorter than any prediction, so that batches keep their own lengths
    examples, tokenizer = token_examples(6), word_tokenizer()
    trainer = evaluator(model, examples, tmp_path, predict_with_generate=True, per_device_eval_batch_size=1)
    predictions = trainer.predict(examples, max_new_tokens=11).predictions
    assert -100 in predictions
    with pytest.raises((OverflowError, TypeError, ValueError)):
        tokenizer.batch_decode(predictions)
    alone = [
        model.generate(torch.tensor([example["input_ids"]]), max_new_tokens=11)[0].tolist() for example in examples
    ]
    assert decode_predictions(tokenizer, predictions) == [words(ids) for ids in alone]


def test_metrics_see_generated_ids_and_labels(tmp_path: Path) -> None:
    """The share of rows that are right, with three targets set to what the model says: 3 of 6."""
    model = model_that_ends()
    examples, tokenizer = token_examples(6), word_tokenizer()
    for example in examples[:3]:
        example["labels"] = model.generate(torch.tensor([example["input_ids"]]))[0, 1:].tolist()

    def exact(prediction: EvalPrediction) -> dict[str, float]:
        found = decode_predictions(tokenizer, prediction.predictions)
        right = decode_predictions(tokenizer, prediction.label_ids)
        return {"exact": float(np.mean([one == other for one, other in zip(found, right, strict=True)]))}

    trainer = evaluator(
        model, examples, tmp_path, predict_with_generate=True, per_device_eval_batch_size=4, compute_metrics=exact
    )
    metrics = trainer.evaluate()
    assert metrics["eval_exact"] == 0.5
    assert metrics["eval_loss"] > 0


def test_nothing_is_cut_at_20_tokens(tmp_path: Path) -> None:
    """
    A model that never ends writes until `max_position_embeddings` = 64 tokens, start token included: fresh, through
    the Trainer, reloaded, and with a generation config of the caller.
    """
    model = tiny_seq2seq(decoder={"lm_head_bias": True})
    model.lm_head.bias.data[END] = -1e4
    limit, source = SIZES["max_position_embeddings"], torch.tensor([[5, 6, 7, END]])
    assert model.generate(source).shape == (1, limit)
    assert model.generate(source, generation_config=GenerationConfig(num_beams=2, eos_token_id=END)).shape == (
        1,
        limit,
    )
    assert model.generate(source, max_new_tokens=30).shape == (1, 31)
    assert model.generate(source, max_length=10).shape == (1, 10)
    trainer = evaluator(model, token_examples(2), tmp_path, predict_with_generate=True)
    assert trainer.predict(token_examples(2)).predictions.shape == (2, limit)

    model.save_pretrained(tmp_path / "model")
    assert AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").generate(source).shape == (1, limit)
    assert AutoModelForSeq2SeqLM.from_config(model.config).generation_config.max_length == limit

    causal = tiny_causal(lm_head_bias=True)
    causal.lm_head.bias.data[END] = -1e4
    assert causal.generate(torch.tensor([[START, 5, 6]])).shape == (1, limit)
