"""Weights of 4 and 8 bits by bitsandbytes, and adapters trained over them (QLoRA, Dettmers et al. 2023), on the CPU."""

from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model, prepare_model_for_kbit_training
from torch import nn
from transformers import (
    AutoModelForSeq2SeqLM,
    BitsAndBytesConfig,
    DataCollatorForSeq2Seq,
    PreTrainedConfig,
    PreTrainedModel,
    Seq2SeqTrainer,
)

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from hf_custom_decoder.models import fast_generation_custom_seq2seq
from hf_custom_decoder.models.cells_custom_seq2seq import RecurrentCell
from hf_custom_decoder.peft import get_lora_config
from tests.factories import SIZES, spread_weights, tiny_batch
from tests.integration.training_runs import logged_losses, token_examples, training_arguments, word_tokenizer

pytestmark = pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")

WIDE: dict[str, Any] = {**SIZES, "hidden_size": 64, "intermediate_size": 128}
RECURRENT: dict[str, Any] = {
    "vocab_size": SIZES["vocab_size"],
    "hidden_size": 64,
    "num_hidden_layers": 2,
    "dropout": 0.0,
}


def recurrent(
    cell_type: str, attention_type: str, *, is_narrow: bool = False
) -> tuple[PreTrainedConfig, PreTrainedConfig]:
    return (
        RecurrentEncoderConfig(**RECURRENT, cell_type=cell_type, bidirectional=is_narrow),
        RecurrentDecoderConfig(**RECURRENT, cell_type=cell_type, attention_type=attention_type),
    )


SIDES: dict[str, Any] = {
    "transformer": lambda: (TransformerEncoderConfig(**WIDE), TransformerDecoderConfig(**WIDE)),
    "hybrid": lambda: (
        TransformerEncoderConfig(**WIDE),
        TransformerDecoderConfig(**WIDE, mixer_types=["mingru", "full_attention"]),
    ),
    "lstm": lambda: recurrent("lstm", "dot"),
    "gru": lambda: recurrent("gru", "additive", is_narrow=True),
}
CANNOT_BE_PACKED = ("gru",)
"""Layers of 32 inputs (each direction has half the width), and one of a single output (the scores)."""

BEAMS = {"num_beams": 3, "num_return_sequences": 2, "max_new_tokens": 6}


def save_base(side: str, folder: Path) -> Path:
    encoder, decoder = SIDES[side]()
    torch.manual_seed(0)
    model = CustomSeq2SeqForConditionalGeneration(
        CustomSeq2SeqConfig(encoder=encoder, decoder=decoder, tie_word_embeddings=False)
    )
    spread_weights(model)
    model.save_pretrained(folder)
    return folder


def in_4_bits(folder: Path, *, may_pack: bool = True) -> PreTrainedModel:
    """
    For decoding, bitsandbytes packs the weights anew where the processor computes in bfloat16 (AVX-512). Packed ones
    cannot be trained again, and sizes must be even; without packing there is no such rule.
    """
    quantization = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.float32,
    )
    model = AutoModelForSeq2SeqLM.from_pretrained(folder, quantization_config=quantization)
    for module in model.modules():
        if hasattr(module, "support_avx512bf16_for_cpu") and not may_pack:
            module.support_avx512bf16_for_cpu = False
    return model


def source_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


def rounded(model: PreTrainedModel, folder: Path) -> PreTrainedModel:
    """The plain model whose weights are those that the 4-bit ones stand for."""
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    plain = AutoModelForSeq2SeqLM.from_pretrained(folder)
    count = 0
    for name, module in model.named_modules():
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state)
            plain.get_submodule(name).weight.data.copy_(weight)
            count += 1
    assert count > 0
    return plain


@pytest.mark.parametrize("side", SIDES)
def test_4_bit_weights_are_those_that_are_used(side: str, tmp_path: Path) -> None:
    """All linear layers but the head, as a plain model of the same rounded weights computes; nothing reads past them."""
    save_base(side, tmp_path)
    batch = tiny_batch()
    model = in_4_bits(tmp_path, may_pack=False)
    twin = rounded(model, tmp_path)
    linear = {name: type(one) for name, one in model.named_modules() if isinstance(one, nn.Linear)}
    assert [name for name, kind in linear.items() if kind is nn.Linear] == ["lm_head"]
    assert not any(one.is_plain for one in model.modules() if isinstance(one, RecurrentCell))
    with torch.no_grad():
        expected = twin(**batch).logits
        exact = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)(**batch).logits
        torch.testing.assert_close(model(**batch).logits, expected, rtol=1e-4, atol=1e-4)
    assert not torch.allclose(expected, exact, atol=1e-2)
    beams = model.generate(**source_of(batch), **BEAMS)
    assert torch.equal(beams, twin.generate(**source_of(batch), **BEAMS))


def test_the_short_way_of_decoding_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """It reads weights past their modules; a plain model takes it."""
    save_base("transformer", tmp_path)
    taken: list[str] = []
    build_step = fast_generation_custom_seq2seq.build_step

    def noted(model: Any, *args: Any) -> Any:
        taken.append(type(model).__name__)
        return build_step(model, *args)

    monkeypatch.setattr(fast_generation_custom_seq2seq, "build_step", noted)
    source = source_of(tiny_batch())
    in_4_bits(tmp_path).generate(**source, **BEAMS)
    eight = BitsAndBytesConfig(load_in_8bit=True)
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path, quantization_config=eight).generate(**source, **BEAMS)
    assert taken == []
    AutoModelForSeq2SeqLM.from_pretrained(tmp_path).generate(**source, **BEAMS)
    assert taken


def train(model: Any, folder: Path, **kwargs: Any) -> list[float]:
    """The losses of five epochs of one step by the stock trainer."""
    tokenizer = word_tokenizer()
    trainer = Seq2SeqTrainer(
        model=model,
        args=training_arguments(folder, learning_rate=1e-2, num_train_epochs=5, **kwargs),
        train_dataset=token_examples(8),
        eval_dataset=token_examples(4),
        data_collator=DataCollatorForSeq2Seq(tokenizer, model=model),
        processing_class=tokenizer,
    )
    trainer.train()
    return logged_losses(trainer)


@pytest.mark.parametrize("side", SIDES)
def test_an_adapter_over_4_bit_weights(side: str, tmp_path: Path) -> None:
    """QLoRA by the stock trainer, with gradient checkpointing where there is any; saved, loaded, decoded with beams."""
    save_base(side, tmp_path / "base")
    options = {"may_pack": side not in CANNOT_BE_PACKED}
    has_checkpointing = side in ("transformer", "hybrid")
    base = in_4_bits(tmp_path / "base", **options)
    base = prepare_model_for_kbit_training(base, use_gradient_checkpointing=has_checkpointing)
    before = {name: one.detach().clone() for name, one in base.named_parameters()}
    model = get_peft_model(base, get_lora_config(base, r=4))
    losses = train(model, tmp_path / "run", gradient_checkpointing=has_checkpointing)
    assert losses[-1] < 0.95 * losses[0]
    kept = {
        name.removeprefix("base_model.model.").replace("base_layer.", ""): one
        for name, one in model.named_parameters()
        if "lora_" not in name
    }
    assert kept.keys() == before.keys()
    assert all(torch.equal(one, before[name]) for name, one in kept.items())

    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(in_4_bits(tmp_path / "base", **options), tmp_path / "adapter").eval()
    batch = tiny_batch()
    with torch.no_grad():
        expected = model(**batch).logits
        torch.testing.assert_close(loaded(**batch).logits, expected, rtol=1e-4, atol=1e-4)
        with loaded.disable_adapter():
            assert not torch.allclose(loaded(**batch).logits, expected, atol=1e-2)
    beams = loaded.generate(**source_of(batch), **BEAMS)
    assert beams.shape[0] == 6
    assert torch.equal(beams, model.generate(**source_of(batch), **BEAMS))
    assert torch.equal(beams, loaded.generate(**source_of(batch), **BEAMS, use_cache=False))


def test_4_bit_weights_that_are_not_packed_can_be_measured_while_training(tmp_path: Path) -> None:
    """Each measurement generates; the losses are those of a run that never measured, with and without checkpointing."""
    save_base("transformer", tmp_path / "base")
    losses = []
    for is_measured in (False, True):
        base = prepare_model_for_kbit_training(in_4_bits(tmp_path / "base", may_pack=False), is_measured)
        torch.manual_seed(0)
        model = get_peft_model(base, get_lora_config(base, r=4))
        settings = {"eval_strategy": "epoch" if is_measured else "no", "predict_with_generate": True}
        losses.append(train(model, tmp_path, gradient_checkpointing=is_measured, **settings))
    assert losses[1] == pytest.approx(losses[0], rel=1e-4)


@pytest.mark.parametrize("side", ["transformer", "hybrid", "lstm"])
def test_an_adapter_over_8_bit_weights(side: str, tmp_path: Path) -> None:
    save_base(side, tmp_path / "base")

    def in_8_bits() -> PreTrainedModel:
        quantization = BitsAndBytesConfig(load_in_8bit=True)
        return AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "base", quantization_config=quantization)

    base = prepare_model_for_kbit_training(in_8_bits(), use_gradient_checkpointing=False)
    model, batch = get_peft_model(base, get_lora_config(base, r=4)).train(), tiny_batch()
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.02)
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.95 * losses[0]
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(in_8_bits(), tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-4, atol=1e-4)
    beams = loaded.generate(**source_of(batch), **BEAMS)
    assert torch.equal(beams, model.generate(**source_of(batch), **BEAMS))
