"""Adapters of peft on our models, trained by the stock trainer."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, PromptTuningConfig, TaskType, TrainableTokensConfig, get_peft_model
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM, DataCollatorForSeq2Seq, Seq2SeqTrainer, Trainer

from tests.factories import tiny_batch, tiny_causal, tiny_seq2seq
from tests.integration.training_runs import (
    Example,
    label_count,
    logged_losses,
    summed_loss,
    token_examples,
    training_arguments,
    weights_of,
    word_tokenizer,
)


def trained(model: PeftModel, examples: list[Example], folder: Path, **kwargs: Any) -> Seq2SeqTrainer:
    tokenizer = word_tokenizer()
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(folder, learning_rate=1e-2, num_train_epochs=3, **kwargs),
        train_dataset=examples,
        eval_dataset=examples,
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )
    trainer.train()
    return trainer


@pytest.mark.filterwarnings("ignore:`gradient_checkpointing:FutureWarning")
@pytest.mark.parametrize(
    "settings",
    [{}, {"gradient_checkpointing": True}, {"label_smoothing_factor": 0.1}, {"gradient_accumulation_steps": 4}],
    ids=lambda settings: next(iter(settings), "plain"),
)
def test_lora_trains_the_adapter_alone(tmp_path: Path, settings: dict[str, Any]) -> None:
    """
    The first logged loss is that of the base model (LoRA starts at zero): with smoothing by the Trainer, and as the
    mean over the tokens of all four micro-batches.
    """
    base = tiny_seq2seq()
    examples = token_examples(8)
    batch_size = 8 // settings.get("gradient_accumulation_steps", 1)
    smoothing = settings.get("label_smoothing_factor", 0.0)
    truth = summed_loss(base, examples, smoothing) / label_count(examples)
    lora = LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=4, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base, lora)
    before = weights_of(model)
    trainer = trained(model, examples, tmp_path, per_device_train_batch_size=batch_size, **settings)
    losses = logged_losses(trainer)
    assert losses[0] == pytest.approx(truth, rel=1e-5)
    assert losses[-1] < losses[0]
    moved = {name for name, value in weights_of(model).items() if not torch.equal(value, before[name])}
    assert moved
    assert all("lora_" in name for name in moved)
    # encoder layers have one attention, decoder layers two; q_proj and v_proj in each
    assert sum("lora_B" in name for name in moved) == 2 * (2 + 2 * 2)
    assert trainer.evaluate()["eval_loss"] < truth


@pytest.mark.filterwarnings("ignore:Input and output embeddings are no longer tied:UserWarning")
def test_lora_adapter_is_saved_reloaded_and_merged(tmp_path: Path) -> None:
    """
    The adapter on a reloaded base gives the same logits and beams; merged into it, up to rounding. Merging, peft takes
    the projection for untied, as it compares it with the encoder's embedding; what is saved then is tied all the same.
    """
    base, batch = tiny_seq2seq("rotary_gqa_qk_norm"), tiny_batch()
    base.save_pretrained(tmp_path / "base")
    plain = base(**batch).logits.detach()
    lora = LoraConfig(task_type=TaskType.SEQ_2_SEQ_LM, r=4, target_modules=["q_proj", "v_proj"])
    model = get_peft_model(base, lora)
    trained(model, token_examples(8), tmp_path / "run")
    model.eval().save_pretrained(tmp_path / "adapter")
    with torch.no_grad():
        expected = model(**batch).logits
    assert not torch.allclose(expected, plain, atol=1e-3)
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    beams = model.generate(**source, num_beams=3, max_new_tokens=8)

    loaded = PeftModel.from_pretrained(AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    with torch.no_grad():
        assert torch.equal(loaded.eval()(**batch).logits, expected)
    assert torch.equal(loaded.generate(**source, num_beams=3, max_new_tokens=8), beams)
    merged = loaded.merge_and_unload()
    with torch.no_grad():
        torch.testing.assert_close(merged(**batch).logits, expected, rtol=1e-5, atol=1e-5)
    merged.save_pretrained(tmp_path / "merged")
    with torch.no_grad():
        again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "merged")(**batch).logits
    torch.testing.assert_close(again, expected, rtol=1e-5, atol=1e-5)


def test_single_tokens_where_all_matrices_are_tied() -> None:
    """As docs/peft.md says: one config of peft fails, the other moves the rows of its tokens alone, under every tie."""
    tied = {"tie_encoder_decoder_embeddings": True}
    model, batch = tiny_seq2seq(**tied), tiny_batch()
    failing = get_peft_model(model, TrainableTokensConfig(token_indices=[5], task_type="SEQ_2_SEQ_LM"))
    with pytest.raises(ValueError, match="wraps an unknown layer type"):
        failing(**batch)
    model = tiny_seq2seq(**tied)
    before = model.lm_head.weight.detach().clone()
    lora = LoraConfig(task_type="SEQ_2_SEQ_LM", trainable_token_indices=[5], target_modules=["q_proj"])
    adapted = get_peft_model(model, lora).train()
    adapted(**batch).loss.backward()
    with torch.no_grad():
        for parameter in adapted.parameters():
            if parameter.grad is not None:
                parameter -= parameter.grad
    merged = adapted.merge_and_unload()
    moved = (merged.lm_head.weight != before).any(1).nonzero().flatten()
    assert moved.tolist() == [5]
    assert (
        merged.lm_head.weight is merged.get_encoder().embed_tokens.weight is merged.get_decoder().embed_tokens.weight
    )


def test_lora_on_a_language_model(tmp_path: Path) -> None:
    """Also under the Trainer's label smoothing, which has to find the class below the adapter to shift the labels."""
    base = tiny_causal()
    rows = torch.randint(4, 50, (4, 6)).tolist()
    with torch.no_grad():
        found = base(torch.tensor(rows)).logits[:, :-1].double().log_softmax(-1)
    right = found.gather(-1, torch.tensor(rows)[:, 1:, None])[..., 0]
    truth = -float((0.8 * right + 0.2 * found.mean(-1)).mean())
    model = get_peft_model(base, LoraConfig(task_type=TaskType.CAUSAL_LM, r=2, target_modules=["q_proj", "v_proj"]))
    trainer = Trainer(
        model=model,
        args=training_arguments(tmp_path, label_smoothing_factor=0.2, learning_rate=1e-2, num_train_epochs=2),
        train_dataset=[{"input_ids": row, "labels": row} for row in rows],
    )
    trainer.train()
    assert logged_losses(trainer)[0] == pytest.approx(truth, rel=1e-5)
    assert logged_losses(trainer)[1] < truth
    model.save_pretrained(tmp_path / "adapter")
    tiny_causal().save_pretrained(tmp_path / "base")
    loaded = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tmp_path / "base"), tmp_path / "adapter")
    ids = torch.tensor(rows)
    with torch.no_grad():
        assert torch.equal(loaded.eval()(ids).logits, model.eval()(ids).logits)


def test_prompt_tuning_learns_a_prompt(tmp_path: Path) -> None:
    """peft reads sizes by their generic names from the config, and puts vectors before the source's embeddings."""
    model = get_peft_model(tiny_seq2seq(), PromptTuningConfig(task_type=TaskType.SEQ_2_SEQ_LM, num_virtual_tokens=3))
    trainable = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert len(trainable) == 1
    trainer = trained(model, token_examples(8), tmp_path)
    losses = logged_losses(trainer)
    assert losses[-1] < losses[0]
    batch = tiny_batch()
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    model.eval()
    beams = model.generate(**source, num_beams=2, max_new_tokens=5)
    assert beams.shape[0] == 3
    model.save_pretrained(tmp_path / "prompt")
    loaded = PeftModel.from_pretrained(tiny_seq2seq(), tmp_path / "prompt").eval()
    assert torch.equal(loaded.generate(**source, num_beams=2, max_new_tokens=5), beams)
