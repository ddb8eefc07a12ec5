"""What the loss is taken over: label positions only, each label shifted once and only once."""

from pathlib import Path

import pytest
import torch
from transformers import DataCollatorForSeq2Seq, PreTrainedModel, Seq2SeqTrainer

from tests.factories import ALL_VARIANTS, tiny_causal, tiny_seq2seq
from tests.integration.training_runs import (
    END,
    START,
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


class RowCounter:
    """Counts the vectors, or token ids, that a module is given in each call."""

    def __init__(self, module: torch.nn.Module, width: int) -> None:
        self.counts: list[int] = []
        module.register_forward_pre_hook(lambda _, args: self.counts.append(args[0].numel() // width))


def collate(examples: list[dict[str, list[int]]], model: PreTrainedModel | None = None) -> dict[str, torch.Tensor]:
    return dict(DataCollatorForSeq2Seq(word_tokenizer(), model=model)(examples))


def test_padding_reaches_neither_projection_nor_layers_in_training(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """
    6 examples in batches of 3: the vocabulary projection gets one row for each label, the decoder as many (each label
    has one input token), the encoder one for each source token.
    """
    model, examples = tiny_seq2seq(), token_examples(6)
    width = model.config.hidden_size
    projected = RowCounter(model.lm_head, width)
    decoded = RowCounter(model.get_decoder().layers[0].mlp.fc1, width)
    embedding, embedded = model.get_decoder().embed_tokens, []

    def embed(ids: torch.Tensor) -> torch.Tensor:
        embedded.append(ids.numel())
        return type(embedding).forward(embedding, ids)

    monkeypatch.setattr(embedding, "forward", embed)  # a hook would see the padded batch
    encoded = RowCounter(model.get_encoder().layers[0].mlp.fc1, width)
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(tmp_path, per_device_train_batch_size=3),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
    )
    trainer.train()
    labels = [label_count(examples[:3]), label_count(examples[3:])]
    assert projected.counts == decoded.counts == embedded == labels
    assert encoded.counts == [sum(len(e["input_ids"]) for e in part) for part in (examples[:3], examples[3:])]
    padded = [3 * max(len(e["labels"]) for e in part) for part in (examples[:3], examples[3:])]
    assert all(count < size for count, size in zip(labels, padded, strict=True))  # there was padding to leave out


def test_ignored_labels_inside_a_row_are_decoded_but_not_projected() -> None:
    """A prompt that shall not be learned: [-100, -100, a, b] has 4 decoder inputs, and 2 rows for the projection."""
    model = tiny_seq2seq().train()
    projected = RowCounter(model.lm_head, model.config.hidden_size)
    decoded = RowCounter(model.get_decoder().layers[0].mlp.fc1, model.config.hidden_size)
    labels = torch.tensor([[-100, -100, 9, END], [7, 8, END, -100]])
    inputs = torch.tensor([[START, 5, 6, 9], [START, 7, 8, 0]])
    output = model(input_ids=torch.tensor([[4, 5, END]] * 2), decoder_input_ids=inputs, labels=labels)
    assert projected.counts == [2 + 3]
    assert decoded.counts == [4 + 3]
    assert output.logits is None

    with torch.no_grad():
        model.eval()
        complete = model(input_ids=torch.tensor([[4, 5, END]] * 2), decoder_input_ids=inputs).logits.log_softmax(-1)
    chosen = [complete[0, 2, 9], complete[0, 3, END], complete[1, 0, 7], complete[1, 1, 8], complete[1, 2, END]]
    torch.testing.assert_close(output.loss.detach(), -torch.stack(chosen).mean())


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_padding_changes_neither_loss_nor_gradients(variant: str) -> None:
    """Five more columns of padding on either side, filled with ordinary ids, and other rows beside."""
    model = tiny_seq2seq(variant).double().train()
    batch = collate(token_examples(3))
    model(**batch).loss.backward()
    expected = gradients_of(model)
    model.zero_grad()

    rows = batch["labels"].shape[0]
    wider = {
        "input_ids": torch.cat([batch["input_ids"], torch.full((rows, 5), 17)], dim=1),
        "attention_mask": torch.cat([batch["attention_mask"], torch.zeros((rows, 5), dtype=torch.long)], dim=1),
        "labels": torch.cat([batch["labels"], torch.full((rows, 5), -100)], dim=1),
    }
    model(**wider).loss.backward()
    assert_same(gradients_of(model), expected)


def test_labels_are_shifted_once_and_only_once() -> None:
    """
    The decoder that reads `<s> y1 ... y(n-1)` predicts `y1 ... yn`. The same loss with decoder inputs from the model,
    from the collator and by hand; labels shifted twice, or not at all, give another.
    """
    model, examples = tiny_seq2seq().double().train(), token_examples(4)
    truth = summed_loss(model, examples) / label_count(examples)
    assert model(**collate(examples)).loss.item() == pytest.approx(truth, abs=1e-10)
    assert model(**collate(examples, model)).loss.item() == pytest.approx(truth, abs=1e-10)
    model.eval()
    assert model(**collate(examples)).loss.item() == pytest.approx(truth, abs=1e-10)

    example = {"input_ids": torch.tensor([[5, 6, END]]), "labels": torch.tensor([[7, 8, 9, END]])}
    logits = model(**example, decoder_input_ids=torch.tensor([[START, 7, 8, 9]])).logits[0].log_softmax(-1)
    by_hand = -(logits[0, 7] + logits[1, 8] + logits[2, 9] + logits[3, END]) / 4
    assert model(**example).loss.item() == pytest.approx(by_hand.item(), abs=1e-10)
    twice = -(logits[0, 8] + logits[1, 9] + logits[2, END]) / 3
    assert abs(by_hand.item() - twice.item()) > 0.01


def test_language_model_labels_are_shifted_once_and_only_once() -> None:
    """`labels` are the input ids; labels that are shifted already go in as `shift_labels`."""
    model = tiny_causal().double()
    ids = torch.tensor([[START, 7, 8, END]])
    logits = model(ids).logits[0].log_softmax(-1)
    by_hand = -(logits[0, 7] + logits[1, 8] + logits[2, END]).item() / 3
    for mode in (True, False):
        model.train(mode)
        assert model(ids, labels=ids).loss.item() == pytest.approx(by_hand, abs=1e-10)
        shifted = torch.tensor([[7, 8, END, -100]])
        assert model(ids, shift_labels=shifted).loss.item() == pytest.approx(by_hand, abs=1e-10)
        assert model(ids, labels=ids, shift_labels=shifted).loss.item() == pytest.approx(by_hand, abs=1e-10)
    with pytest.raises(TypeError, match="`forward` takes no `lables`"):
        model(ids, lables=ids)


def test_complete_logits_in_training_on_request() -> None:
    """`return_logits_in_training` changes what is returned, neither loss nor gradients."""
    batch = collate(token_examples(3))
    lean, complete = tiny_seq2seq().double().train(), tiny_seq2seq(return_logits_in_training=True).double().train()
    first, second = lean(**batch), complete(**batch)
    assert first.logits is None
    assert second.logits.shape == (*batch["labels"].shape, lean.config.vocab_size)
    torch.testing.assert_close(second.loss, first.loss, rtol=1e-12, atol=1e-12)
    first.loss.backward()
    second.loss.backward()
    assert_same(gradients_of(complete), gradients_of(lean), tolerance=1e-12)
    torch.testing.assert_close(second.logits, complete.eval()(**batch).logits, rtol=1e-12, atol=1e-12)
    assert (
        lean(**{k: v for k, v in batch.items() if k != "labels"}, decoder_input_ids=batch["input_ids"]).logits
        is not None
    )


@pytest.mark.parametrize("mode", ["training", "evaluation"])
@pytest.mark.parametrize("count", [None, 0, torch.tensor(0)], ids=["no count", "count 0", "count tensor 0"])
def test_a_batch_without_any_label_has_a_finite_loss_of_zero(mode: str, count: torch.Tensor | int | None) -> None:
    """The mean over no label is taken as 0, with gradients of 0: the weights stay as they are."""
    model = tiny_seq2seq().train(mode == "training")
    batch = collate(token_examples(2))
    batch["labels"] = torch.full_like(batch["labels"], -100)
    loss = model(**batch, num_items_in_batch=count).loss
    assert loss.item() == 0.0
    loss.backward()
    assert all(bool((gradient == 0).all()) for gradient in gradients_of(model).values())

    causal = tiny_causal().train(mode == "training")
    loss = causal(batch["input_ids"], labels=torch.full_like(batch["input_ids"], -100), num_items_in_batch=count).loss
    assert loss.item() == 0.0
    loss.backward()
    assert all(bool((gradient == 0).all()) for gradient in gradients_of(causal).values())


def test_trainer_survives_a_step_without_any_label(tmp_path: Path) -> None:
    """The first of two steps has no label: its logged loss is 0, and only the second moves the weights."""
    examples = token_examples(4)
    for example in examples[:2]:
        example["labels"] = [-100] * len(example["labels"])
    model = tiny_seq2seq()
    before = weights_of(model)
    truth = summed_loss(model, examples[2:]) / label_count(examples[2:])
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(tmp_path, per_device_train_batch_size=2, logging_nan_inf_filter=False),
        train_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(word_tokenizer(), model=model),
        optimizers=plain_descent(model),
    )
    trainer.train()
    assert logged_losses(trainer) == pytest.approx([0.0, truth], rel=1e-5)
    after = weights_of(model)
    assert all(bool(value.isfinite().all()) for value in after.values())
    assert any(not torch.equal(after[name], before[name]) for name in before)
