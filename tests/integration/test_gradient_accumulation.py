"""
Gradient accumulation is one big batch: the stock encoder-decoder models ignore `num_items_in_batch`.

The Trainer counts the label tokens of all micro-batches of a step, N = n_1 + ... + n_k, and adds up what the model
returns for each of them. So the model has to return `sum_i / N`, where `sum_i` is the summed loss of micro-batch i:

    sum_1 / N + ... + sum_k / N = (sum_1 + ... + sum_k) / N = mean loss of a token in one big batch.

A model that returns the mean `sum_i / n_i` and ignores N makes it about k times too big, and weighs a token in a short
micro-batch more than one in a long one.
"""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import (
    BartConfig,
    BartForConditionalGeneration,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    Seq2SeqTrainer,
)

from hf_custom_decoder import RecurrentDecoderConfig, RecurrentDecoderForCausalLM
from tests.combinations import RECURRENT_SIZES, build_pair
from tests.factories import SIZES, VOCAB_SIZE, spread_weights, tiny_causal, tiny_seq2seq
from tests.integration.training_runs import (
    assert_same,
    gradients_of,
    label_count,
    logged_losses,
    plain_descent,
    summed_loss,
    token_examples,
    training_arguments,
    weights_of,
    word_tokenizer,
)


def tiny_bart() -> BartForConditionalGeneration:
    """A stock model of the same sizes."""
    torch.manual_seed(0)
    config = BartConfig(
        vocab_size=VOCAB_SIZE,
        d_model=SIZES["hidden_size"],
        encoder_layers=1,
        decoder_layers=1,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=64,
        dropout=0.0,
        init_std=0.3,
        pad_token_id=0,
        bos_token_id=1,
        eos_token_id=2,
        decoder_start_token_id=1,
        forced_eos_token_id=None,
    )
    return BartForConditionalGeneration(config)


def recurrent_causal() -> RecurrentDecoderForCausalLM:
    torch.manual_seed(0)
    model = RecurrentDecoderForCausalLM(RecurrentDecoderConfig(**RECURRENT_SIZES, cell_type="gru")).eval()
    spread_weights(model)
    return model


def run(model: PreTrainedModel, examples: list[dict[str, Any]], folder: Path, **kwargs: Any) -> Seq2SeqTrainer:
    """A run of the stock trainer in float64 by plain descent."""
    model.double().train()
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(folder, **kwargs),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        optimizers=plain_descent(model),
    )
    trainer.train()
    return trainer


@pytest.mark.parametrize(
    "kind",
    [
        "default",
        "post_norm_final",
        "rotary_gqa_qk_norm",
        "sliding_last_alibi",
        ("transformer", "hybrid_rotary"),
        ("gru_2", "gru_everything"),
        ("lstm_1", "lstm_dot"),
    ],
    ids=str,
)
@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_micro_batches_of_unequal_size_add_up_to_one_batch(kind: str | tuple[str, str], smoothing: float) -> None:
    """5 examples as one batch, and as micro-batches of 1, 3 and 1 examples that share N."""
    build = tiny_seq2seq if isinstance(kind, str) else partial(build_pair, kind[0])
    model = build(kind if isinstance(kind, str) else kind[1], label_smoothing=smoothing).double().train()
    collator = DataCollatorForSeq2Seq(word_tokenizer())
    examples = token_examples(5)
    count = label_count(examples)

    whole = model(**collator(examples)).loss  # the mean over N tokens: no `num_items_in_batch` for one batch
    whole.backward()
    expected = gradients_of(model)
    assert whole.item() == pytest.approx(summed_loss(model, examples, smoothing) / count, abs=1e-10)

    model.zero_grad()
    total = 0.0
    for part in (examples[:1], examples[1:4], examples[4:]):
        loss = model(**collator(part), num_items_in_batch=torch.tensor(count)).loss
        assert loss.item() == pytest.approx(summed_loss(model, part, smoothing) / count, abs=1e-10)
        loss.backward()
        total += loss.item()
    assert total == pytest.approx(whole.item(), abs=1e-10)
    assert_same(gradients_of(model), expected)


def test_count_of_items_may_be_a_number() -> None:
    """A Python number divides as a tensor does, and twice the number halves the loss."""
    model = tiny_seq2seq().double().train()
    batch = DataCollatorForSeq2Seq(word_tokenizer())(token_examples(2))
    losses = [model(**batch, num_items_in_batch=count).loss.item() for count in (7, torch.tensor(7), 14)]
    assert losses[0] == pytest.approx(losses[1], abs=1e-12)
    assert losses[0] == pytest.approx(2 * losses[2], abs=1e-12)


@pytest.mark.parametrize(
    ("config", "arguments"),
    [({}, {}), ({"label_smoothing": 0.1}, {}), ({}, {"label_smoothing_factor": 0.1})],
    ids=["plain", "smoothing in the config", "smoothing by the trainer"],
)
def test_trainer_with_8_accumulation_steps_equals_a_batch_of_8_times_the_size(
    tmp_path: Path, config: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """
    20 examples make 3 steps of 8, 8 and 4 micro-batches of one example; the last step is shorter. Weights after plain
    descent are equal only if gradients were, step for step. (The Trainer adds up losses in float32.)
    """
    examples, smoothing = token_examples(20), 0.1 if config or arguments else 0.0
    model = tiny_seq2seq(**config).double()
    truth = summed_loss(model, examples[:8], smoothing) / label_count(examples[:8])

    one = tiny_seq2seq(**config)
    big = run(one, examples, tmp_path, per_device_train_batch_size=8, **arguments)
    other = tiny_seq2seq(**config)
    accumulated = run(
        other, examples, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=8, **arguments
    )

    assert len(logged_losses(accumulated)) == 3
    assert logged_losses(big)[0] == pytest.approx(truth, rel=1e-6)
    assert logged_losses(accumulated) == pytest.approx(logged_losses(big), rel=1e-6)
    assert_same(weights_of(other), weights_of(one))
    moved = {name: float((value - weights_of(model)[name]).abs().max()) for name, value in weights_of(one).items()}
    of_keys = {name for name in moved if name.endswith(".k_proj.bias")}
    assert len(of_keys) == 6
    # A bias of keys adds the same to all scores of a query: only rounding moves it, or nothing.
    assert all((way < 1e-12) == (name in of_keys) for name, way in moved.items()), moved


@pytest.mark.parametrize("build", [tiny_causal, recurrent_causal])
def test_language_model_accumulates_in_the_same_way(tmp_path: Path, build: Callable[[], PreTrainedModel]) -> None:
    """
    A causal model predicts `labels[:, 1:]`: n tokens have n - 1 targets, and the Trainer counts N so. The first
    example of 3 tokens has 2 targets, and so on.
    """
    rows = [example["labels"] for example in token_examples(16, seed=1) if len(example["labels"]) > 1][:8]
    examples = [{"input_ids": row, "attention_mask": [1] * len(row), "labels": row} for row in rows]
    model = build().double()
    total = 0.0
    for row in rows:
        with torch.no_grad():
            log_probabilities = model(torch.tensor([row])).logits[0].log_softmax(-1)
        total -= float(sum(log_probabilities[position, token] for position, token in enumerate(row[1:])))
    truth = total / sum(len(row) - 1 for row in rows)

    one, other = build(), build()
    big = run(one, examples, tmp_path, per_device_train_batch_size=8)
    accumulated = run(other, examples, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert logged_losses(big) == pytest.approx([truth], rel=1e-6)
    assert logged_losses(accumulated) == pytest.approx([truth], rel=1e-6)
    assert_same(weights_of(other), weights_of(one))


@pytest.mark.xfail(
    strict=False, reason="BART ignores num_items_in_batch: 8 steps make the logged loss 8 times too big"
)
def test_stock_bart_accumulates_in_the_same_way(tmp_path: Path) -> None:
    """The same arithmetic on the stock model; upstream may mend it."""
    examples = token_examples(8)
    model = tiny_bart().double()
    truth = summed_loss(model, examples) / label_count(examples)
    trainer = run(tiny_bart(), examples, tmp_path, per_device_train_batch_size=1, gradient_accumulation_steps=8)
    assert logged_losses(trainer) == pytest.approx([truth], rel=1e-3)
