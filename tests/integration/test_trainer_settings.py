"""Settings of the stock trainers that scripts use every day."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from datasets import Dataset
from transformers import (
    BertConfig,
    DataCollatorForLanguageModeling,
    DataCollatorForSeq2Seq,
    PreTrainedModel,
    Seq2SeqTrainer,
    Trainer,
)

from hf_custom_decoder import CustomSeq2SeqConfig, CustomSeq2SeqForConditionalGeneration, TransformerDecoderConfig
from tests.combinations import build_pair
from tests.factories import SIZES, VOCAB_SIZE, tiny_causal, tiny_seq2seq
from tests.integration.training_runs import (
    END,
    Example,
    assert_same,
    label_count,
    logged_losses,
    plain_descent,
    summed_loss,
    token_examples,
    training_arguments,
    weights_of,
    word_tokenizer,
)

# transformers 5.23 deprecates the spelling that 5.17 and most scripts know.
GRADIENT_CHECKPOINTING = pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")


def with_bert_encoder(dropout: float = 0.0) -> CustomSeq2SeqForConditionalGeneration:
    """A BERT encoder, 24 wide, under a decoder 32 wide."""
    torch.manual_seed(0)
    encoder = BertConfig(
        vocab_size=VOCAB_SIZE,
        hidden_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        intermediate_size=32,
        max_position_embeddings=64,
        hidden_dropout_prob=dropout,
        attention_probs_dropout_prob=dropout,
    )
    decoder = TransformerDecoderConfig(**{**SIZES, "dropout": dropout})
    return CustomSeq2SeqForConditionalGeneration(CustomSeq2SeqConfig(encoder=encoder, decoder=decoder))


def trained(model: PreTrainedModel, examples: list[Example], folder: Path, **kwargs: Any) -> Seq2SeqTrainer:
    """A finished run of the stock trainer by AdamW, unless `optimizers` are given."""
    resume = kwargs.pop("resume_from_checkpoint", None)
    named = {name: kwargs.pop(name) for name in ("optimizers", "eval_dataset") if name in kwargs}
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(folder, **{"learning_rate": 1e-2, **kwargs}),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        **named,
    )
    trainer.train(resume_from_checkpoint=resume)
    return trainer


def model_with_dropout(kind: str) -> CustomSeq2SeqForConditionalGeneration:
    if kind == "bert":
        return with_bert_encoder(dropout=0.1)
    return tiny_seq2seq(kind, encoder={"dropout": 0.1}, decoder={"dropout": 0.1, "attention_dropout": 0.1})


@GRADIENT_CHECKPOINTING
@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", ["default", "rotary_gqa_qk_norm", "bert"])
def test_gradient_checkpointing_changes_nothing(tmp_path: Path, kind: str, reentrant: bool) -> None:
    """Three steps in float64 with dropout, whose draws the second forward pass repeats."""
    examples = token_examples(12)
    plain, checkpointed = model_with_dropout(kind).double(), model_with_dropout(kind).double()
    trained(plain, examples, tmp_path, per_device_train_batch_size=4, optimizers=plain_descent(plain))
    calls: list[int] = []
    checkpointed.get_decoder().layers[0].mlp.register_forward_hook(lambda *_: calls.append(1))
    trained(
        checkpointed,
        examples,
        tmp_path,
        per_device_train_batch_size=4,
        gradient_checkpointing=True,
        gradient_checkpointing_kwargs={"use_reentrant": reentrant},
        optimizers=plain_descent(checkpointed),
    )
    assert len(calls) == 2 * 3  # each layer is computed twice in each of the 3 steps
    assert_same(weights_of(checkpointed), weights_of(plain))


@pytest.mark.parametrize("build", [tiny_seq2seq, lambda: build_pair("gru_2", "gru_dot").float()], ids=["ours", "gru"])
def test_bfloat16_autocast_on_cpu(tmp_path: Path, build: Callable[[], PreTrainedModel]) -> None:
    """The loss is taken in float32 from products in bfloat16, whose 8 bits leave errors below 2 %."""
    examples = token_examples(12)
    exact = trained(build(), examples, tmp_path, per_device_train_batch_size=4)
    rounded = trained(build(), examples, tmp_path, per_device_train_batch_size=4, bf16=True)
    assert logged_losses(rounded) == pytest.approx(logged_losses(exact), rel=0.02)
    assert logged_losses(rounded) != logged_losses(exact)
    assert all(value.dtype == torch.float32 and bool(value.isfinite().all()) for value in rounded.model.parameters())


@pytest.mark.parametrize("build", [tiny_seq2seq, lambda: build_pair("gru_2", "gru_dot").float()], ids=["ours", "gru"])
def test_noise_on_the_embeddings(tmp_path: Path, build: Callable[[], PreTrainedModel]) -> None:
    """NEFTune hooks the source's embedding and counts on rows; sources are of unequal lengths."""
    examples = token_examples(8)
    plain = trained(build(), examples, tmp_path, per_device_train_batch_size=4)
    noisy = trained(build(), examples, tmp_path, per_device_train_batch_size=4, neftune_noise_alpha=5.0)
    assert logged_losses(noisy) != logged_losses(plain)
    assert logged_losses(noisy) == pytest.approx(logged_losses(plain), rel=0.5)
    assert not noisy.model.get_input_embeddings()._forward_hooks


def test_resumed_run_equals_the_uninterrupted_one(tmp_path: Path) -> None:
    """6 steps with dropout and shuffling, and 3 + 3 from the checkpoint in the middle: the same weights and losses."""
    examples = token_examples(12)
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 4,
        "num_train_epochs": 2,
        "train_sampling_strategy": "random",
        "save_strategy": "steps",
        "save_steps": 2,
    }
    whole = trained(model_with_dropout("default"), examples, tmp_path / "whole", **settings)
    torch.manual_seed(5)  # a fresh process starts elsewhere
    resumed = trained(
        model_with_dropout("default"),
        examples,
        tmp_path / "resumed",
        **settings,
        resume_from_checkpoint=str(tmp_path / "whole" / "checkpoint-2"),
    )
    assert logged_losses(resumed) == logged_losses(whole)
    assert len(logged_losses(whole)) == 6
    assert_same(weights_of(resumed.model), weights_of(whole.model), tolerance=0.0)
    reloaded = CustomSeq2SeqForConditionalGeneration.from_pretrained(tmp_path / "whole" / "checkpoint-6")
    assert_same(weights_of(reloaded), weights_of(whole.model), tolerance=0.0)


def test_best_model_is_loaded_at_the_end(tmp_path: Path) -> None:
    """Three steps down the gradient, then three up: the third model is the best, and its weights are what is left."""
    model, examples = tiny_seq2seq(), token_examples(8)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: 1.0 if step < 3 else -1.0)
    trainer = trained(
        model,
        examples,
        tmp_path,
        per_device_train_batch_size=8,
        num_train_epochs=6,
        eval_strategy="steps",
        eval_steps=1,
        save_strategy="steps",
        save_steps=1,
        save_total_limit=2,
        load_best_model_at_end=True,
        eval_dataset=examples,
        optimizers=(optimizer, schedule),
    )
    losses = [entry["eval_loss"] for entry in trainer.state.log_history if "eval_loss" in entry]
    assert len(losses) == 6
    assert losses.index(min(losses)) == 2
    assert losses[-1] > losses[2] + 0.05
    assert trainer.evaluate()["eval_loss"] == pytest.approx(losses[2], rel=1e-6)
    assert summed_loss(model, examples) / label_count(examples) == pytest.approx(losses[2], rel=1e-5)


def test_batches_grouped_by_length(tmp_path: Path) -> None:
    """Every example once, in batches that hold less padding than those in file order."""
    examples = token_examples(32)
    padded: dict[str, int] = {}
    for strategy in ("sequential", "group_by_length"):
        model = tiny_seq2seq()
        sizes: list[torch.Size] = []
        model.get_encoder().register_forward_pre_hook(
            lambda _, __, kwargs, sizes=sizes: sizes.append(kwargs["input_ids"].shape), with_kwargs=True
        )
        trained(model, examples, tmp_path, per_device_train_batch_size=4, train_sampling_strategy=strategy)
        assert sum(size[0] for size in sizes) == 32
        padded[strategy] = sum(size.numel() for size in sizes)
    real = sum(len(example["input_ids"]) for example in examples)
    assert real <= padded["group_by_length"] < padded["sequential"]


@GRADIENT_CHECKPOINTING
@pytest.mark.parametrize("kind", ["default", "bert"])
def test_frozen_encoder_stays_and_the_rest_learns(tmp_path: Path, kind: str) -> None:
    model = with_bert_encoder() if kind == "bert" else tiny_seq2seq()
    model.get_encoder().requires_grad_(False)
    before = weights_of(model)
    trained(model, token_examples(8), tmp_path, gradient_checkpointing=True)
    for name, value in weights_of(model).items():
        assert torch.equal(value, before[name]) == name.startswith("model.encoder."), name


def test_dataset_columns_of_text_are_left_out(tmp_path: Path) -> None:
    """A `datasets` table with the texts beside the ids, as `map` leaves it; both trainers drop what forward lacks."""
    tokenizer = word_tokenizer()
    table = Dataset.from_dict({"source": ["w5 w6", "w7 w8 w9"], "target": ["w9", "w5 w4"]})
    table = table.map(lambda row: tokenizer(row["source"], text_target=row["target"]))
    model = tiny_seq2seq()
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(tmp_path, per_device_train_batch_size=2),
        train_dataset=table,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
        optimizers=plain_descent(model),
    )
    examples = [
        {"input_ids": [5, 6, END], "labels": [9, END]},
        {"input_ids": [7, 8, 9, END], "labels": [5, 4, END]},
    ]
    truth = summed_loss(model, examples) / 5
    trainer.train()
    assert logged_losses(trainer) == pytest.approx([truth], rel=1e-5)


@pytest.mark.parametrize("side", ["right", "left"])
def test_language_model_with_the_stock_collator(tmp_path: Path, side: str) -> None:
    """
    Texts of unequal length; the collator copies ids to labels and ignores padding. Each of the n tokens of a text but
    the first is predicted once, and padding predicts nothing, whichever side it is on. The Trainer's own count N takes
    in the first token of every row that is padded on the left, so there its loss is the sum divided by that N.
    Training then lowers it.
    """
    model, tokenizer = tiny_causal(), word_tokenizer()
    tokenizer.padding_side = side
    texts = [example["labels"] for example in token_examples(8) if len(example["labels"]) > 2]
    examples = [{"input_ids": ids, "attention_mask": [1] * len(ids)} for ids in texts]
    collator = DataCollatorForLanguageModeling(tokenizer, mlm=False)
    total, count = 0.0, sum(len(ids) - 1 for ids in texts)
    for ids in texts:
        with torch.no_grad():
            found = model(torch.tensor([ids])).logits[0].double().log_softmax(-1)
        total -= sum(found[position, token].item() for position, token in enumerate(ids[1:]))
    assert model(**collator(examples)).loss.item() == pytest.approx(total / count, rel=1e-5)
    padded_left = sum(len(ids) < max(map(len, texts)) for ids in texts) if side == "left" else 0
    truth = total / (count + padded_left)
    trainer = Trainer(
        model=model,
        args=training_arguments(
            tmp_path, per_device_train_batch_size=8, num_train_epochs=30, learning_rate=1e-2, warmup_steps=1
        ),
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=collator,
    )
    assert trainer.evaluate()["eval_loss"] == pytest.approx(truth, rel=1e-5)
    trainer.train()
    assert logged_losses(trainer)[0] == pytest.approx(truth, rel=1e-5)
    assert trainer.evaluate()["eval_loss"] < 0.5 * truth
