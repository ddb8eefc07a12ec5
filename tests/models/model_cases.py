"""Every model class of ours in every variant, with inputs: what the common model tests run over."""

from typing import Any

import pytest
import torch
from transformers import AutoModel, AutoModelForCausalLM, AutoModelForSeq2SeqLM, PreTrainedConfig, PreTrainedModel

from hf_custom_decoder import (
    CustomSeq2SeqForConditionalGeneration,
    CustomSeq2SeqModel,
    TransformerDecoderConfig,
    TransformerDecoderForCausalLM,
    TransformerDecoderModel,
    TransformerEncoderConfig,
    TransformerEncoderModel,
)
from tests.factories import (
    ALL_VARIANTS,
    VARIANTS,
    decoder_fields,
    encoder_fields,
    spread_weights,
    tiny_batch,
    tiny_config,
)

# A kind is a model class in one role. The names stand in the ids of the tests.
KINDS: dict[str, type[PreTrainedModel]] = {
    "encoder": TransformerEncoderModel,
    "decoder": TransformerDecoderModel,
    "decoder_cross": TransformerDecoderModel,  # over encoder states
    "causal": TransformerDecoderForCausalLM,
    "causal_cross": TransformerDecoderForCausalLM,
    "seq2seq": CustomSeq2SeqModel,
    "seq2seq_lm": CustomSeq2SeqForConditionalGeneration,
    "seq2seq_bridge": CustomSeq2SeqForConditionalGeneration,  # two widths, two depths, two vocabularies
}
HEADS = ("causal", "causal_cross", "seq2seq_lm", "seq2seq_bridge")
"""Kinds with a vocabulary projection."""

AUTO_CLASSES = {
    "encoder": AutoModel,
    "decoder": AutoModel,
    "decoder_cross": AutoModel,
    "causal": AutoModelForCausalLM,
    "causal_cross": AutoModelForCausalLM,
    "seq2seq": AutoModel,
    "seq2seq_lm": AutoModelForSeq2SeqLM,
    "seq2seq_bridge": AutoModelForSeq2SeqLM,
}

# Every kind with every variant; the kinds that only repeat another class with a few.
ALL_CASES = [
    *[("encoder", variant) for variant in [*VARIANTS, "sliding"]],
    *[(kind, variant) for kind in ("decoder", "causal", "seq2seq", "seq2seq_lm") for variant in ALL_VARIANTS],
    *[
        (kind, variant)
        for kind in ("decoder_cross", "causal_cross")
        for variant in ("default", "rotary", "sliding_first")
    ],
    *[("seq2seq_bridge", variant) for variant in ("default", "learned", "alibi")],
]

# Each kind and each variant at least once, each choice of position, norm and mixer with several kinds.
COVERING_CASES = [
    ("encoder", "post_norm_final"),
    ("encoder", "rotary_gqa_qk_norm"),
    ("encoder", "alibi"),
    ("encoder", "sliding"),
    ("decoder", "default"),
    ("decoder", "sliding_first"),
    ("decoder_cross", "rotary"),
    ("causal", "rmsnorm_gated"),
    ("causal", "sliding_last_alibi"),
    ("causal", "lm_head_bias"),
    ("causal_cross", "default"),
    ("seq2seq", "post_norm"),
    ("seq2seq", "rotary_gqa_qk_norm"),
    ("seq2seq_lm", "default"),
    ("seq2seq_lm", "head_dim"),
    ("seq2seq_lm", "learned"),
    ("seq2seq_lm", "no_positions"),
    ("seq2seq_lm", "alibi_gqa"),
    ("seq2seq_lm", "sliding"),
    ("seq2seq_bridge", "learned"),
]

KIND_CASES = [(kind, "default") for kind in KINDS]
HEAD_CASES = [(kind, variant) for kind, variant in ALL_CASES if kind in HEADS]
COVERING_HEAD_CASES = [(kind, variant) for kind, variant in COVERING_CASES if kind in HEADS]

BRIDGE_ENCODER: dict[str, Any] = {"vocab_size": 40, "hidden_size": 24, "num_hidden_layers": 1, "intermediate_size": 20}
SOURCE_VOCAB_SIZE = 40
"""Ids of the source stay below it, so that one batch fits all kinds."""


def over(cases: list[tuple[str, str]]) -> pytest.MarkDecorator:
    """Parametrises a test over `(kind, variant)`."""
    return pytest.mark.parametrize(("kind", "variant"), cases, ids=["-".join(case) for case in cases])


def make_config(kind: str, variant: str = "default", **kwargs: Any) -> PreTrainedConfig:
    """The config of a case; `kwargs` are arguments of its class, for seq2seq as in `tiny_config`."""
    if kind == "encoder":
        fields = {"sliding_window": 2} if variant == "sliding" else {}
        return TransformerEncoderConfig(**{**encoder_fields(variant), **fields, **kwargs})
    if kind in ("decoder", "causal"):
        return TransformerDecoderConfig(**{**decoder_fields(variant), **kwargs})
    if kind in ("decoder_cross", "causal_cross"):
        return TransformerDecoderConfig(**{**decoder_fields(variant), "add_cross_attention": True, **kwargs})
    if kind == "seq2seq_bridge":
        kwargs["encoder"] = {**BRIDGE_ENCODER, **kwargs.get("encoder", {})}
    return tiny_config(variant, **kwargs)


def make_model(kind: str, variant: str = "default", *, spread: bool = True, **kwargs: Any) -> PreTrainedModel:
    """A model in evaluation mode; with `spread` its weights are large enough that every part shows in the output."""
    torch.manual_seed(0)
    model = KINDS[kind](make_config(kind, variant, **kwargs)).eval()
    if spread:
        spread_weights(model)
    return model


def make_inputs(kind: str, *, with_labels: bool = False, with_padding: bool = True) -> dict[str, torch.Tensor]:
    """Arguments of `forward` for three rows; rows 1 and 2 end in padding (on both sides, where there are two)."""
    batch = tiny_batch()
    generator = torch.Generator().manual_seed(3)
    mask, labels = batch["attention_mask"], batch["labels"]
    source = torch.where(
        mask.bool(), batch["input_ids"] % (SOURCE_VOCAB_SIZE - 3) + 3, 0
    )  # 0, the padding id, nowhere else
    if not with_padding:
        source = torch.randint(3, SOURCE_VOCAB_SIZE, source.shape, generator=generator)
        labels = torch.randint(3, SOURCE_VOCAB_SIZE, labels.shape, generator=generator)
        mask = torch.ones_like(mask)
    if kind.startswith("seq2seq"):
        inputs = {"input_ids": source, "attention_mask": mask}
        targets = labels.masked_fill(labels == -100, 0)
        inputs["decoder_input_ids"] = torch.cat([torch.ones_like(targets[:, :1]), targets[:, :-1]], dim=1)
        return {**inputs, "labels": labels} if with_labels else inputs
    inputs = {"input_ids": source, "attention_mask": mask}
    if kind.endswith("_cross"):
        inputs["encoder_hidden_states"] = torch.randn(3, 5, 32, generator=generator)
        inputs["encoder_attention_mask"] = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 1, 0, 0], [1, 1, 1, 1, 0]])
    if with_labels:
        inputs["labels"] = source.masked_fill(mask == 0, -100)
    return inputs


def main_output(output: Any) -> torch.Tensor:
    """The logits of a model with a head, else the last hidden states."""
    return output.logits if getattr(output, "logits", None) is not None else output.last_hidden_state


def real_positions(kind: str, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Which positions of the main output depend on real tokens only; shape `(B, T)`, booleans."""
    if kind.startswith("seq2seq"):
        return torch.ones_like(inputs["decoder_input_ids"], dtype=torch.bool)
    return inputs["attention_mask"].bool()


def run(model: PreTrainedModel, **inputs: Any) -> torch.Tensor:
    """The main output of one call without gradients."""
    with torch.no_grad():
        return main_output(model(**inputs))
