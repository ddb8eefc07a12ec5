"""Half precision and 8-bit weights (torchao) on every kind of decoder, on the CPU."""

from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers import AutoModelForSeq2SeqLM, PreTrainedModel, TorchAoConfig
from transformers.utils import is_torchao_available

import hf_custom_decoder.peft
from hf_custom_decoder.models.cells_custom_seq2seq import RecurrentCell
from tests.combinations import build_pair
from tests.factories import tiny_batch

PAIRS = [
    ("transformer", "transformer_default"),
    ("transformer", "transformer_post_norm"),
    ("transformer", "transformer_rotary_gqa_qk_norm"),
    ("transformer", "transformer_alibi"),
    ("transformer", "ssru"),
    ("gru_1", "mingru"),
    ("transformer", "hybrid_mingru_last"),
    ("rnn_1", "rnn_additive"),
    ("gru_2", "gru_none"),
    ("gru_2", "gru_everything"),
    ("lstm_2", "lstm_dot"),
    ("lstm_1", "lstm_input_feeding"),
]
over_pairs = pytest.mark.parametrize(("encoder", "decoder"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
ROUNDINGS = 16
"""How many roundings to the nearest number of the type the greatest logit may be off."""


def source_of(batch: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    return {name: batch[name] for name in ("input_ids", "attention_mask")}


@torch.no_grad()
def step_by_step(model: PreTrainedModel, batch: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of one decoder token a call, `(B, T, V)`."""
    cache, logits = None, []
    for token in batch["labels"].clamp(min=0).split(1, dim=1):
        output = model(**source_of(batch), decoder_input_ids=token, past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@over_pairs
def test_decoding_in_half_precision(encoder: str, decoder: str, dtype: torch.dtype, tmp_path: Path) -> None:
    """Loaded in half precision, a model decodes as the rounded weights do in float64, step by step and at once."""
    build_pair(encoder, decoder).save_pretrained(tmp_path)
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=dtype)
    assert {one.dtype for one in model.parameters()} == {dtype}
    exact = AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=dtype).double()
    batch = tiny_batch()
    expected = step_by_step(exact, batch)
    tolerance = ROUNDINGS * torch.finfo(dtype).eps * expected.abs().max().item()
    found = step_by_step(model, batch)
    assert found.dtype == dtype
    torch.testing.assert_close(found.double(), expected, rtol=0, atol=tolerance)
    with torch.no_grad():
        at_once = model(**source_of(batch), decoder_input_ids=batch["labels"].clamp(min=0)).logits
    torch.testing.assert_close(at_once.double(), expected, rtol=0, atol=tolerance)
    beams = model.generate(**source_of(batch), num_beams=3, num_return_sequences=2, max_new_tokens=6)
    assert beams.shape[0] == 6


needs_torchao = pytest.mark.skipif(not is_torchao_available(), reason="torchao is not installed")
QUANTISED = [PAIRS[2], PAIRS[6], PAIRS[9], PAIRS[10]]


def in_8_bits(folder: Path) -> PreTrainedModel:
    from torchao.quantization import Int8WeightOnlyConfig

    return AutoModelForSeq2SeqLM.from_pretrained(folder, quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))


@needs_torchao
@pytest.mark.parametrize(("encoder", "decoder"), QUANTISED, ids=["-".join(pair) for pair in QUANTISED])
def test_8_bit_weights_of_torchao(encoder: str, decoder: str, tmp_path: Path) -> None:
    """Loaded by `quantization_config`: all linear layers but the head, in the words of the rounded weights."""
    base = build_pair(encoder, decoder, tie_word_embeddings=False).float()
    batch = tiny_batch()
    with torch.no_grad():
        plain = base(**batch).logits
    base.save_pretrained(tmp_path / "base")
    model = in_8_bits(tmp_path / "base")
    linear = {name: module for name, module in model.named_modules() if isinstance(module, nn.Linear)}
    assert [name for name, one in linear.items() if type(one.weight) is nn.Parameter] == ["lm_head"]
    assert not any(module.is_plain for module in model.modules() if isinstance(module, RecurrentCell))
    for name, module in base.named_modules():
        if name in linear and name != "lm_head":
            weight = linear[name].weight.dequantize()
            step = module.weight.detach().abs().amax(1, keepdim=True) / 127
            assert ((weight - module.weight).abs() <= step).all()
            module.weight.data.copy_(weight)
    with torch.no_grad():
        rounded, found = base(**batch).logits, model(**batch).logits
    assert not torch.allclose(found, plain, atol=1e-4)
    torch.testing.assert_close(found, rounded, rtol=1e-4, atol=1e-4)
    generation: dict[str, Any] = {"num_beams": 3, "max_new_tokens": 6}
    beams = model.generate(**source_of(batch), **generation)
    model.save_pretrained(tmp_path / "small")
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "small")
    with torch.no_grad():
        assert torch.equal(again(**batch).logits, found)
    assert torch.equal(again.generate(**source_of(batch), **generation), beams)


@needs_torchao
@pytest.mark.parametrize(("encoder", "decoder"), QUANTISED, ids=["-".join(pair) for pair in QUANTISED])
def test_an_adapter_over_8_bit_weights(encoder: str, decoder: str, tmp_path: Path) -> None:
    build_pair(encoder, decoder, tie_word_embeddings=False).float().save_pretrained(tmp_path / "base")
    batch = tiny_batch()
    hf_custom_decoder.peft.register_target_modules()
    model = get_peft_model(in_8_bits(tmp_path / "base"), LoraConfig(task_type="SEQ_2_SEQ_LM", r=2)).train()
    optimizer = torch.optim.Adam([one for one in model.parameters() if one.requires_grad], lr=0.05)
    losses = []
    for _ in range(3):
        optimizer.zero_grad()
        loss = model(**batch).loss
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]
    model.eval().save_pretrained(tmp_path / "adapter")
    loaded = PeftModel.from_pretrained(in_8_bits(tmp_path / "base"), tmp_path / "adapter").eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(**batch).logits, model(**batch).logits, rtol=1e-6, atol=1e-6)
    beams = loaded.generate(**source_of(batch), num_beams=3, max_new_tokens=6)
    assert torch.equal(beams, model.generate(**source_of(batch), num_beams=3, max_new_tokens=6))
