"""Our decoder without a source against decoder-only models of transformers, one for each way to know positions."""

from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import nn
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
    PreTrainedModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.bloom.modeling_bloom import build_alibi_tensor

from hf_custom_decoder import TransformerDecoderConfig, TransformerDecoderForCausalLM
from hf_custom_decoder.conversion.names import translate
from hf_custom_decoder.conversion.weights import load_weights
from hf_custom_decoder.models.positions_custom_seq2seq import alibi_bias
from tests.parity.comparison import (
    DTYPES,
    assert_near,
    assert_same_gradients,
    gradients,
    randomize,
    single_is_double,
)

VOCAB_SIZE, LENGTH, PAD = 40, 11, 0
IDS = {"pad_token_id": PAD, "bos_token_id": 1, "eos_token_id": 2}

LLAMA_NAMES = {
    "model.embed_tokens": "model.embed_tokens",
    **{f"model.layers.{{}}.self_attn.{name}": f"model.layers.{{}}.self_attn.{name}" for name in ("q_proj", "k_proj")},
    **{f"model.layers.{{}}.self_attn.{name}": f"model.layers.{{}}.self_attn.{name}" for name in ("q_norm", "k_norm")},
    "model.layers.{}.self_attn.v_proj": "model.layers.{}.self_attn.v_proj",
    "model.layers.{}.self_attn.o_proj": "model.layers.{}.self_attn.out_proj",
    "model.layers.{}.mlp.gate_proj": "model.layers.{}.mlp.gate_proj",
    "model.layers.{}.mlp.up_proj": "model.layers.{}.mlp.fc1",
    "model.layers.{}.mlp.down_proj": "model.layers.{}.mlp.fc2",
    "model.layers.{}.input_layernorm": "model.layers.{}.self_attn_layer_norm",
    "model.layers.{}.post_attention_layernorm": "model.layers.{}.final_layer_norm",
    "model.norm": "model.layer_norm",
    "lm_head": "lm_head",
}
BLOOM_NAMES = {
    "transformer.word_embeddings": "model.embed_tokens",
    "transformer.word_embeddings_layernorm": "model.layernorm_embedding",
    **{
        f"transformer.h.{{}}.self_attention.query_key_value.{kind}": tuple(
            f"model.layers.{{}}.self_attn.{name}_proj.{kind}" for name in "qkv"
        )
        for kind in ("weight", "bias")
    },
    "transformer.h.{}.self_attention.dense": "model.layers.{}.self_attn.out_proj",
    "transformer.h.{}.input_layernorm": "model.layers.{}.self_attn_layer_norm",
    "transformer.h.{}.post_attention_layernorm": "model.layers.{}.final_layer_norm",
    "transformer.h.{}.mlp.dense_h_to_4h": "model.layers.{}.mlp.fc1",
    "transformer.h.{}.mlp.dense_4h_to_h": "model.layers.{}.mlp.fc2",
    "transformer.ln_f": "model.layer_norm",
    "lm_head": "lm_head",
}
OPT_LAYER = ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "self_attn_layer_norm")
OPT_NAMES = {
    "model.decoder.embed_tokens": "model.embed_tokens",
    "model.decoder.embed_positions": "model.embed_positions",
    **{f"model.decoder.layers.{{}}.{name}": f"model.layers.{{}}.{name}" for name in OPT_LAYER},
    "model.decoder.layers.{}.fc1": "model.layers.{}.mlp.fc1",
    "model.decoder.layers.{}.fc2": "model.layers.{}.mlp.fc2",
    "model.decoder.layers.{}.final_layer_norm": "model.layers.{}.final_layer_norm",
    "model.decoder.final_layer_norm": "model.layer_norm",
    "lm_head": "lm_head",
}

LLAMA_SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB_SIZE,
    "hidden_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "intermediate_size": 32,
    "max_position_embeddings": 8,  # less than LENGTH, which dynamic scaling takes notice of
    "tie_word_embeddings": False,
    **IDS,
}
ROPE_PARAMETERS: dict[str, dict[str, Any]] = {
    "default": {"rope_type": "default", "rope_theta": 10000.0},
    "theta": {"rope_type": "default", "rope_theta": 500.0},
    "linear": {"rope_type": "linear", "rope_theta": 10000.0, "factor": 4.0},
    "dynamic": {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 4.0},
    "yarn": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 8},
    # Head width 8: wave lengths of 6, 63, 628 and 6283 tokens, so one is kept, one blended and two are stretched.
    "llama3": {
        "rope_type": "llama3",
        "rope_theta": 10000.0,
        "factor": 8.0,
        "low_freq_factor": 1.0,
        "high_freq_factor": 5.0,
        "original_max_position_embeddings": 256,
    },
}


def llama_like(config_class: type, model_class: type, theirs: dict[str, Any], ours: dict[str, Any]) -> dict[str, Any]:
    """A source of Llama's kind: its config and classes, and our fields."""
    return {
        "build": lambda: model_class(config_class(**{**LLAMA_SHAPE, "rms_norm_eps": 1e-6, **theirs})),
        "fields": {
            **LLAMA_SHAPE,
            "norm_type": "rmsnorm",
            "norm_eps": 1e-6,
            "position_type": "rotary",
            "hidden_act": "silu",
            "gated_mlp": True,
            "attention_bias": False,
            "mlp_bias": False,
            **ours,
        },
        "names": LLAMA_NAMES,
    }


def bloom(num_heads: int) -> dict[str, Any]:
    """ALiBi, a norm on the embeddings, tied embeddings."""
    shape = {"vocab_size": VOCAB_SIZE, "hidden_size": 24, **IDS}
    dropouts = {"hidden_dropout": 0.0, "attention_dropout": 0.0}
    return {
        "build": lambda: BloomForCausalLM(BloomConfig(**shape, n_layer=2, n_head=num_heads, **dropouts)),
        "fields": {
            **shape,
            "num_hidden_layers": 2,
            "num_attention_heads": num_heads,
            "intermediate_size": 96,
            "position_type": "alibi",
            "embedding_norm": True,
            "hidden_act": "gelu_pytorch_tanh",
        },
        "names": BLOOM_NAMES,
    }


def opt() -> dict[str, Any]:
    """Learned positions, tied embeddings."""
    shape = {"vocab_size": VOCAB_SIZE, "hidden_size": 24, "num_hidden_layers": 2, "num_attention_heads": 3, **IDS}
    own = {"ffn_dim": 32, "word_embed_proj_dim": 24, "max_position_embeddings": 20, "dropout": 0.0}
    return {
        "build": lambda: OPTForCausalLM(OPTConfig(**shape, **own)),
        "fields": {
            **shape,
            "intermediate_size": 32,
            "position_type": "learned",
            "max_position_embeddings": 20,
            "hidden_act": "relu",
        },
        "names": OPT_NAMES,
    }


BIASES = {"attention_bias": True, "mlp_bias": True}
SOURCES: dict[str, dict[str, Any]] = {
    **{
        f"llama_{name}": llama_like(LlamaConfig, LlamaForCausalLM, *[{"rope_parameters": parameters, **length}] * 2)
        for name, parameters in ROPE_PARAMETERS.items()
        for length in [{"max_position_embeddings": 2048} if name == "llama3" else {}]
    },
    "llama_biases": llama_like(LlamaConfig, LlamaForCausalLM, BIASES, BIASES),
    "qwen3": llama_like(Qwen3Config, Qwen3ForCausalLM, {}, {"qk_norm": True}),
    "mistral": llama_like(
        MistralConfig,
        MistralForCausalLM,
        {"sliding_window": 4},
        {"sliding_window": 4, "mixer_types": ["sliding_attention", "sliding_attention"]},
    ),
    **{f"bloom_{num_heads}_heads": bloom(num_heads) for num_heads in (4, 3, 6)},
    "opt": opt(),
}


def our_weights(source: str, tensors: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """Weights of a source, or gradients of them, under our names."""
    tensors = dict(tensors)
    if source.startswith("bloom"):  # query, key and value of a head stand side by side: put all queries first
        num_heads = SOURCES[source]["fields"]["num_attention_heads"]
        for name, tensor in tensors.items():
            if "query_key_value" in name:
                tensors[name] = tensor.unflatten(0, (num_heads, 3, -1)).transpose(0, 1).flatten(0, 2)
    weights = translate(tensors, SOURCES[source]["names"], owner=source)
    if source == "opt":  # two rows at the head of the table are never read
        weights["model.embed_positions.weight"] = weights["model.embed_positions.weight"][2:]
    return weights


def build(source: str, dtype: torch.dtype) -> tuple[PreTrainedModel, TransformerDecoderForCausalLM]:
    """A tiny random source model and ours with its weights, both in evaluation mode."""
    theirs = SOURCES[source]["build"]()
    randomize(theirs)
    theirs = theirs.to(dtype).eval()
    if source.startswith("bloom") and dtype == torch.float64:  # Bloom writes out the constants of GELU to 8 digits
        for block in theirs.transformer.h:
            block.mlp.gelu_impl = nn.GELU("tanh")
    ours = TransformerDecoderForCausalLM(TransformerDecoderConfig(**{"dropout": 0.0, **SOURCES[source]["fields"]}))
    load_weights(ours, our_weights(source, theirs.state_dict()), owner=source)
    return theirs, ours


def batch(side: str) -> dict[str, torch.Tensor]:
    """Three rows, two of them padded on a side, and labels for real tokens."""
    input_ids = torch.randint(3, VOCAB_SIZE, (3, LENGTH))
    mask = torch.ones_like(input_ids)
    for row, padded in ((1, 3), (2, 7)):
        mask[row, slice(0, padded) if side == "left" else slice(LENGTH - padded, LENGTH)] = 0
    input_ids[mask == 0] = PAD
    labels = input_ids.masked_fill(mask == 0, -100)
    labels[:, 1:].masked_fill_(mask[:, :-1] == 0, -100)  # the first token of a row would be predicted by padding
    return {"input_ids": input_ids, "attention_mask": mask, "labels": labels}


def positions(theirs: PreTrainedModel, mask: torch.Tensor) -> dict[str, torch.Tensor]:
    """What models with rotary positions have to be told about padding; the others read the mask."""
    if theirs.config.model_type in ("bloom", "opt"):
        return {}
    return {"position_ids": (mask.cumsum(-1) - 1).clamp(min=0)}


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("source", SOURCES)
def test_logits_loss_and_gradients(source: str, side: str, dtype: torch.dtype) -> None:
    theirs, ours = build(source, dtype)
    inputs = batch(side)
    real = inputs["attention_mask"].bool()
    with single_is_double(dtype):
        expected = theirs(**inputs, **positions(theirs, inputs["attention_mask"]), use_cache=False)
        expected.loss.backward()
    # Dynamic scaling computes new frequencies in a function of transformers, in float32: in float64 for both here.
    with single_is_double(dtype if source == "llama_dynamic" else torch.float32):
        output = ours(**inputs)
    output.loss.backward()
    assert_near(output.logits[real], expected.logits[real])
    assert_near(output.loss, expected.loss)
    assert_same_gradients(ours, our_weights(source, gradients(theirs)))

    ours.zero_grad()
    with single_is_double(dtype if source == "llama_dynamic" else torch.float32):
        output = ours.train()(**inputs)
    output.loss.backward()
    assert output.logits is None
    assert_near(output.loss, expected.loss)
    assert_same_gradients(ours, our_weights(source, gradients(theirs)))


@pytest.mark.parametrize(
    "source", [name for name in SOURCES if name.startswith(("llama", "qwen", "mistral")) and name != "llama_dynamic"]
)
def test_sequences_in_one_row(source: str) -> None:
    """Positions that begin anew keep sequences apart, as in transformers without a cache."""
    theirs, ours = build(source, torch.float64)
    input_ids = torch.randint(3, VOCAB_SIZE, (1, LENGTH))
    at = torch.tensor([[0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 5]])
    with single_is_double(torch.float64), torch.no_grad():
        expected = theirs(input_ids=input_ids, position_ids=at, use_cache=False).logits
        apart = ours(input_ids=input_ids, position_ids=at).logits
        together = ours(input_ids=input_ids).logits
    assert_near(apart, expected)
    assert (together - expected).abs().max() > 1e-3


@pytest.mark.parametrize("source", [name for name in SOURCES if name != "llama_dynamic"])
def test_cached_steps(source: str) -> None:
    theirs, ours = build(source, torch.float64)
    inputs = batch("left")
    mask = inputs["attention_mask"]
    cache = None
    with single_is_double(torch.float64):
        expected = theirs(input_ids=inputs["input_ids"], attention_mask=mask, **positions(theirs, mask)).logits
    for start, end in ((0, 5), (5, 6), (6, 7), (7, LENGTH)):
        output = ours(inputs["input_ids"][:, start:end], mask[:, :end], past_key_values=cache, use_cache=True)
        cache = output.past_key_values
        real = mask[:, start:end].bool()
        assert_near(output.logits[real], expected[:, start:end][real])


@pytest.mark.parametrize("settings", [{}, {"num_beams": 3, "num_return_sequences": 2}], ids=["greedy", "beams"])
@pytest.mark.parametrize("source", SOURCES)
def test_generated_text_and_scores(source: str, settings: dict[str, Any]) -> None:
    theirs, ours = build(source, torch.float64)
    inputs = batch("left")
    del inputs["labels"]
    settings = {"no_repeat_ngram_size": 2, "max_new_tokens": 5, "return_dict_in_generate": True, **settings}
    with single_is_double(torch.float64):
        expected = theirs.generate(**inputs, **settings, output_scores=True)
        output = ours.generate(**inputs, **settings, output_scores=True)
    assert torch.equal(output.sequences, expected.sequences)
    for actual, wanted in zip(output.scores, expected.scores, strict=True):
        assert_near(actual, wanted)
    if "num_beams" in settings:
        assert_near(output.sequences_scores, expected.sequences_scores)


@pytest.mark.parametrize("num_heads", [1, 2, 3, 5, 6, 8, 12, 16, 20])
def test_alibi_slopes(num_heads: int) -> None:
    length = 7
    with single_is_double(torch.float64):
        expected = build_alibi_tensor(torch.ones(1, length, dtype=torch.long), num_heads, torch.float64)  # (H, 1, S)
    slots = torch.arange(length)
    bias = alibi_bias(num_heads, slots, slots, torch.float64)[0]  # (H, T, S)
    for query in range(length):  # Bloom's bias is that of the first key away from it, the same for all queries
        keys = slice(0, query + 1)
        assert_near(bias[:, query, keys] - bias[:, query, :1], expected[:, 0, keys])
