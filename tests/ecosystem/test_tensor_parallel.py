"""Models that `from_pretrained(..., tp_plan="auto")` splits over two processes compute what the whole models do."""

import re
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from packaging.version import Version
from transformers import AutoModelForSeq2SeqLM, BertConfig, PreTrainedModel

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    RecurrentDecoderConfig,
    RecurrentEncoderConfig,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from hf_custom_decoder.evaluation.decoding_precision import set_decoding_precision
from hf_custom_decoder.testing.decoder_case import spread_weights
from tests.combinations import RECURRENT_SIZES
from tests.ecosystem.tensor_parallel_worker import compute
from tests.factories import SIZES, tiny_causal, tiny_seq2seq
from tests.fresh_python import run_python

IS_OLD = Version(transformers.__version__) < Version("5.23")
"""transformers that wants a vocabulary to divide among the processes, and splits nothing where there is no plan."""

BERT = {
    "vocab_size": SIZES["vocab_size"],
    "hidden_size": SIZES["hidden_size"],
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 48,
    "hidden_dropout_prob": 0.0,
    "attention_probs_dropout_prob": 0.0,
}


def of_parts(encoder: Any, decoder: Any, **kwargs: Any) -> PreTrainedModel:
    torch.manual_seed(0)
    model = CustomSeq2SeqForConditionalGeneration(CustomSeq2SeqConfig(encoder=encoder, decoder=decoder, **kwargs))
    spread_weights(model)
    return model.eval()


# What is split, by a name for each case.
SPLIT: dict[str, Any] = {
    "tied": lambda: tiny_seq2seq("post_norm"),
    "all_tied_alibi": lambda: tiny_seq2seq("alibi", tie_encoder_decoder_embeddings=True),
    "grouped_heads_and_norms": lambda: tiny_seq2seq("rotary_gqa_qk_norm", tie_word_embeddings=False),
    "sliding_and_bias": lambda: tiny_seq2seq(
        "sliding_first", decoder={"lm_head_bias": True, "position_type": "learned"}
    ),
    "gated_odd_vocabulary": lambda: tiny_seq2seq(
        "rmsnorm_gated", tie_word_embeddings=False, encoder={"vocab_size": 51}, decoder={"vocab_size": 51}
    ),
    "causal": lambda: tiny_causal("rotary_gqa_qk_norm"),
}

# Parts of these stay whole.
HALF_SPLIT: dict[str, Any] = {
    "linear_recurrence": lambda: tiny_seq2seq(decoder={"mixer_types": ["ssru", "full_attention"]}),
    "recurrent_decoder": lambda: of_parts(
        TransformerEncoderConfig(**SIZES),
        RecurrentDecoderConfig(**RECURRENT_SIZES),
        tie_encoder_decoder_embeddings=True,
    ),
    "foreign_encoder": lambda: of_parts(
        BertConfig(**BERT), TransformerDecoderConfig(**SIZES), tie_encoder_decoder_embeddings=True
    ),
}

REFUSED: dict[str, Any] = {
    "query_heads": lambda: tiny_seq2seq(encoder={"num_attention_heads": 1}),
    "key_heads": lambda: tiny_seq2seq(decoder={"num_key_value_heads": 1}),
    "inner_width": lambda: tiny_seq2seq(decoder={"intermediate_size": 49}),
    "nothing_to_split": lambda: of_parts(
        RecurrentEncoderConfig(**RECURRENT_SIZES), RecurrentDecoderConfig(**RECURRENT_SIZES)
    ),
}

MESSAGES = {
    "query_heads": r"model.encoder.layers.0.self_attn: `num_attention_heads` must be divisible .* got 1 and 2",
    "key_heads": r"model.decoder.layers.0.self_attn: `num_key_value_heads` must be divisible .* got 1 and 2",
    "inner_width": r"model.decoder.layers.0.mlp: `intermediate_size` must be divisible .* got 49 and 2",
    "nothing_to_split": "has no `tp_plan`",
}


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Checkpoints of all cases, and what two processes made of them."""
    folder = tmp_path_factory.mktemp("tensor_parallel")
    for name, build in (SPLIT | HALF_SPLIT | REFUSED).items():
        build().double().save_pretrained(folder / name)
    launcher = ["-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2"]
    worker = Path(__file__).with_name("tensor_parallel_worker.py")
    run_python(*launcher, worker, folder, folder=folder, OMP_NUM_THREADS="1")
    return folder


@pytest.fixture(scope="module")
def found(place: Path) -> dict[str, Any]:
    results: dict[str, Any] = torch.load(place / "results.pt")
    return results


@pytest.mark.parametrize("case", [*SPLIT, *HALF_SPLIT])
def test_two_processes_compute_what_one_does(found: dict[str, Any], case: str) -> None:
    split = found["results"][case]
    if IS_OLD and case == "gated_odd_vocabulary":
        assert "must be divisible by the tensor parallel size" in split["error"]
        return
    assert "error" not in split, split["error"]
    model = (SPLIT | HALF_SPLIT)[case]().double()
    whole = compute(model, is_causal=case == "causal")
    for name in ("logits", "logits with gradients", "loss"):
        torch.testing.assert_close(split[name], whole[name], rtol=0.0, atol=1e-12)
    assert split["gradients"].keys() == whole["gradients"].keys()
    for name, gradient in whole["gradients"].items():
        torch.testing.assert_close(split["gradients"][name], gradient, rtol=0.0, atol=1e-12, msg=name)
    for name, ids in whole["ids"].items():
        assert split["ids"][name].tolist() == ids.tolist(), name
    first, second = (one[case] for one in found["ids of both"])
    assert all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("case", [*SPLIT, *HALF_SPLIT])
def test_what_is_split(found: dict[str, Any], case: str) -> None:
    if IS_OLD and case == "gated_odd_vocabulary":
        return
    names = found["results"][case]["split"]
    ends = {name.split(".")[-2] for name in names}
    assert {"q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"} <= ends
    assert {"embed_tokens" in ends} == {case not in ("recurrent_decoder", "foreign_encoder")}
    assert not [name for name in names if "norm" in name or "recurrence" in name or "positions" in name]
    if case == "recurrent_decoder":
        assert all(name.startswith("model.encoder.layers.") for name in names)


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_split_is_refused(found: dict[str, Any], case: str) -> None:
    result = found["results"][case]
    if IS_OLD and case == "nothing_to_split":
        assert result["split"] == []
        return
    assert re.match(f"ValueError: .*{MESSAGES[case]}", result["error"])


def test_a_split_model_is_saved_whole(place: Path, found: dict[str, Any]) -> None:
    saved = AutoModelForSeq2SeqLM.from_pretrained(place / "saved_by_two", dtype=torch.float64)
    expected = SPLIT["tied"]().double().state_dict()
    assert saved.state_dict().keys() == expected.keys()
    assert all(torch.equal(weight, expected[name]) for name, weight in saved.state_dict().items())


def test_8_bit_weights_are_for_whole_models() -> None:
    model = tiny_seq2seq()
    model._tp_size = 2
    with pytest.raises(ValueError, match=r"split over 2 processes \(`tp_plan`\)"):
        set_decoding_precision(model, "int8")
