"""One switch for the numbers that a model decodes with: bfloat16 and 8-bit weights beside float32."""

import copy
from pathlib import Path

import pytest
import torch
from torch import nn

from hf_custom_decoder.cli import main
from hf_custom_decoder.evaluation.decoding_precision import set_decoding_precision
from hf_custom_decoder.models import int8_linear_custom_seq2seq as int8
from hf_custom_decoder.models.int8_linear_custom_seq2seq import Int8Linear, JoinedInt8Linear
from tests.combinations import build_pair
from tests.factories import tiny_batch, tiny_causal, tiny_seq2seq
from tests.integration.training_runs import word_tokenizer

PAIRS = [
    ("transformer", "transformer_default"),
    ("transformer", "transformer_rotary_gqa_qk_norm"),
    ("transformer", "ssru"),
    ("gru_1", "mingru"),
    ("gru_2", "gru_everything"),
    ("lstm_2", "lstm_dot"),
]


@pytest.fixture
def _small_too(monkeypatch: pytest.MonkeyPatch) -> None:
    """Matrices of tiny models are replaced as well."""
    monkeypatch.setattr(int8, "MIN_WEIGHTS", 1)


@pytest.mark.parametrize("rows", [1, 4, int8.FEW_ROWS, int8.FEW_ROWS + 1])
@pytest.mark.parametrize("bias", [True, False])
def test_the_product_is_that_of_the_rounded_weights(rows: int, bias: bool) -> None:
    linear = nn.Linear(96, 40, bias=bias)
    layer = Int8Linear(linear)
    inputs = torch.randn(rows, 96).bfloat16().float()
    expected = nn.functional.linear(
        inputs.double(), layer.dequantised().double(), None if linear.bias is None else linear.bias.double()
    )
    with torch.no_grad():
        found = layer(inputs)
    assert found.dtype == torch.float32
    torch.testing.assert_close(found.double(), expected, rtol=2**-8, atol=2**-8)
    step = linear.weight.abs().amax(1, keepdim=True) / 127
    assert ((layer.dequantised() - linear.weight).abs() <= step * 1.0001).all()
    assert layer.weight.shape == linear.weight.shape
    assert layer.weight.dtype == torch.float32


def test_what_the_kernel_cannot_compute_is_refused() -> None:
    with pytest.raises(ValueError, match="`in_features` must be a multiple of 32, got 48"):
        Int8Linear(nn.Linear(48, 32))


def test_layers_side_by_side() -> None:
    layers = [Int8Linear(nn.Linear(32, 8)), Int8Linear(nn.Linear(32, 5, bias=False))]
    inputs = torch.randn(3, 32)
    with torch.no_grad():
        assert torch.equal(JoinedInt8Linear(*layers)(inputs), torch.cat([one(inputs) for one in layers], dim=1))


@pytest.mark.usefixtures("_small_too")
@pytest.mark.parametrize(("encoder", "decoder"), PAIRS, ids=["-".join(pair) for pair in PAIRS])
def test_an_8_bit_decoder(encoder: str, decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Steps of `generate` and `forward` agree, and both come from weights that were rounded, not others."""
    plain = build_pair(encoder, decoder).float()
    model = set_decoding_precision(copy.deepcopy(plain), "int8")
    kinds = [type(module) for module in model.get_decoder().modules()]
    kept = [one for one in model.get_decoder().modules() if type(one) is nn.Linear]
    assert Int8Linear in kinds
    assert all(one.in_features % int8.INPUTS_MULTIPLE for one in kept)
    assert type(model.get_output_embeddings()) is Int8Linear
    assert all(type(one) is not Int8Linear for one in model.get_encoder().modules())
    batch = tiny_batch()
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    products = []
    original = JoinedInt8Linear.__call__
    monkeypatch.setattr(
        JoinedInt8Linear, "__call__", lambda self, inputs: products.append(1) or original(self, inputs)
    )
    output = model.generate(
        **source, max_new_tokens=6, min_new_tokens=6, output_logits=True, return_dict_in_generate=True
    )
    assert products, "the decoding step was not used"
    with torch.no_grad():
        at_once = model(**source, decoder_input_ids=output.sequences[:, :-1]).logits
        exact = plain(**source, decoder_input_ids=output.sequences[:, :-1]).logits
    stepped = torch.stack(output.logits, dim=1)
    size = exact.abs().max()
    assert (stepped - at_once).abs().max() < 0.02 * size
    assert 0 < (stepped - exact).abs().max() < 0.1 * size
    assert model.generate(**source, num_beams=3, max_new_tokens=6).shape[0] == 3


@pytest.mark.usefixtures("_small_too")
def test_a_decoder_alone() -> None:
    model = set_decoding_precision(tiny_causal(), "int8")
    assert model.generate(torch.tensor([[5, 6, 7]]), max_new_tokens=4, min_new_tokens=4).shape == (1, 7)


def test_bfloat16_and_back() -> None:
    model = set_decoding_precision(tiny_seq2seq(), "bf16")
    assert {one.dtype for one in model.parameters()} == {torch.bfloat16}
    assert {one.dtype for one in set_decoding_precision(model, "fp32").parameters()} == {torch.float32}


def test_what_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ValueError, match="`precision` must be one of fp32, bf16, int8, got 'int4'"):
        set_decoding_precision(tiny_seq2seq(), "int4")
    with pytest.raises(ValueError, match="evaluation mode, got training mode"):
        set_decoding_precision(tiny_seq2seq().train(), "int8")
    with pytest.raises(ValueError, match="found no linear layer of 2\\^18 weights"):
        set_decoding_precision(tiny_seq2seq(), "int8")
    monkeypatch.setattr(int8, "MIN_WEIGHTS", 1)
    model = set_decoding_precision(tiny_seq2seq(), "int8")
    assert set_decoding_precision(model, "int8") is model
    with pytest.raises(ValueError, match="the weights are gone. Load the model again"):
        set_decoding_precision(model, "fp32")
    with pytest.raises(ValueError, match="are not saved. Save the model before"):
        model.save_pretrained(tmp_path)


@pytest.mark.usefixtures("_small_too")
def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    tiny_seq2seq().save_pretrained(tmp_path)
    word_tokenizer().save_pretrained(tmp_path)
    for precision in ("fp32", "bf16", "int8"):
        assert main(["generate", "--model", str(tmp_path), "--precision", precision, "w5 w6"]) == 0
        assert len(capsys.readouterr().out.splitlines()) == 1
    assert main(["generate", "--model", str(tmp_path), "--precision", "int4", "w5"]) == 2
