"""Rotary positions and the length extensions of `rope_parameters`, against the ones of transformers' own models."""

from typing import Any

import pytest
import torch
from transformers import LlamaConfig
from transformers.models.llama.modeling_llama import LlamaRotaryEmbedding

from hf_custom_decoder import TransformerDecoderConfig
from hf_custom_decoder.models.positions_custom_seq2seq import RotaryEmbedding
from tests.models.model_cases import KINDS, make_inputs, make_model, run

SIZES: dict[str, Any] = {"hidden_size": 32, "num_attention_heads": 4, "max_position_embeddings": 32}
ROPES: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4},
    "dynamic": {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4},
    "yarn": {"rope_type": "yarn", "factor": 4.0, "rope_theta": 1e4, "original_max_position_embeddings": 32},
    "llama3": {
        "rope_type": "llama3",
        "factor": 4.0,
        "rope_theta": 1e4,
        "low_freq_factor": 1.0,
        "high_freq_factor": 4.0,
        "original_max_position_embeddings": 32,
    },
    "longrope": {
        "rope_type": "longrope",
        "rope_theta": 1e4,
        "short_factor": [1.0, 1.1, 1.2, 1.3],
        "long_factor": [2.0, 2.1, 2.2, 2.3],
        "original_max_position_embeddings": 16,
    },
}


def fields_of(name: str) -> dict[str, Any]:
    """Fields of a config over those of the variant `rotary`."""
    return {"rope_parameters": dict(ROPES[name]), **({"head_dim": 8} if name == "longrope" else {})}


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("head_dim", [None, 8])
@pytest.mark.parametrize("length", [12, 50])
def test_angles_are_those_of_llama(name: str, head_dim: int | None, length: int) -> None:
    """Below and beyond the trained length; `head_dim=None` means the same width."""
    fields = {**SIZES, "rope_parameters": dict(ROPES[name])}
    head_dim = 8 if name == "longrope" else head_dim
    ours = RotaryEmbedding(TransformerDecoderConfig(**fields, position_type="rotary", head_dim=head_dim))
    theirs = LlamaRotaryEmbedding(LlamaConfig(**fields))
    states, position_ids = torch.zeros(1, length, 32), torch.arange(length)[None]
    cos, sin = ours(states, position_ids)
    expected_cos, expected_sin = theirs(states, position_ids)
    torch.testing.assert_close(cos[:, 0], expected_cos)
    torch.testing.assert_close(sin[:, 0], expected_sin)


@pytest.mark.parametrize("name", [name for name in ROPES if name != "default"])
def test_extensions_change_what_they_should(name: str) -> None:
    """Long inputs always; short ones too, but for dynamic scaling, which begins beyond the trained length."""
    inputs = make_inputs("causal", with_padding=False)
    long = {"input_ids": inputs["input_ids"].repeat(1, 10)[:, :66]}
    plain = make_model("causal", "rotary")
    model = make_model("causal", "rotary", **fields_of(name))
    same = torch.allclose(
        run(model, input_ids=inputs["input_ids"]), run(plain, input_ids=inputs["input_ids"]), atol=1e-5
    )
    assert same == (name == "dynamic")
    assert not torch.allclose(run(model, **long), run(plain, **long), atol=1e-5)
    assert run(model, **long).isfinite().all()


@pytest.mark.parametrize("name", ROPES)
@pytest.mark.parametrize("kind", ["encoder", "causal"])
def test_extensions_survive_saving(name: str, kind: str, tmp_path: Any) -> None:
    model, inputs = make_model(kind, "rotary", **fields_of(name)), make_inputs(kind)
    model.save_pretrained(tmp_path)
    loaded = KINDS[kind].from_pretrained(tmp_path)
    for (key, buffer), (other, found) in zip(model.named_buffers(), loaded.named_buffers(), strict=True):
        assert key == other
        assert torch.equal(found, buffer), key
    assert torch.equal(run(loaded, **inputs), run(model, **inputs))


@pytest.mark.parametrize("name", ["default", "linear", "yarn", "llama3"])
def test_extensions_with_a_cache(name: str) -> None:
    model = make_model("causal", "rotary", **fields_of(name))
    ids = make_inputs("causal", with_padding=False)["input_ids"]
    whole, cache, logits = run(model, input_ids=ids), None, []
    for position in range(ids.shape[1]):
        with torch.no_grad():
            output = model(input_ids=ids[:, position : position + 1], past_key_values=cache)
        cache = output.past_key_values
        logits.append(output.logits)
    torch.testing.assert_close(torch.cat(logits, 1), whole, rtol=1e-4, atol=1e-5)
