"""
Every attention kernel that runs on CPU against the eager form, in every variant, or its refusal.

FlexAttention is compiled in use, for a minute or more on CPU. Here torch runs it as it is written (`force_eager`): its
masks, scores and calls are the same. One test, for `make test-all`, compiles it.
"""

import contextlib
import warnings
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration, TransformerEncoderModel
from tests.factories import ALL_VARIANTS, encoder_fields, tiny_batch, tiny_causal, tiny_config, tiny_seq2seq
from tests.parity.comparison import DTYPES, assert_near, assert_same_gradients, gradients

# Of the encoder too, which the shared variants leave at full attention.
SLIDING_ENCODERS = {
    "sliding_encoder": {"sliding_window": 2},
    "sliding_encoder_alibi": {"sliding_window": 2, "position_type": "alibi"},
}
VARIANTS = [*ALL_VARIANTS, *SLIDING_ENCODERS]
FLEX_VARIANTS = [variant for variant in VARIANTS if "alibi" not in variant]


def build(variant: str, **kwargs: Any) -> CustomSeq2SeqForConditionalGeneration:
    if variant in SLIDING_ENCODERS:
        return tiny_seq2seq(encoder=SLIDING_ENCODERS[variant], **kwargs)
    return tiny_seq2seq(variant, **kwargs)


@contextlib.contextmanager
def uncompiled_flex() -> Iterator[None]:
    """FlexAttention without a compiler; torch warns that it is slow."""
    with warnings.catch_warnings(), torch.compiler.set_stance("force_eager"):
        warnings.filterwarnings("ignore", message="flex_attention called without torch.compile")
        yield


def padded_batch() -> dict[str, torch.Tensor]:
    """Sources padded on the right, on the left and wholly; targets padded on each side."""
    inputs = tiny_batch(batch_size=4)
    labels = inputs.pop("labels").clamp(min=3)
    inputs["attention_mask"][:] = torch.tensor([[1] * 7, [1] * 5 + [0] * 2, [0] * 3 + [1] * 4, [0] * 7])
    target_mask = torch.tensor([[1] * 6, [0, 0, 1, 1, 1, 1], [1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 0]])
    return {**inputs, "decoder_input_ids": labels, "decoder_attention_mask": target_mask}


def real_logits(model: Any, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
    """Logits of real target tokens; all of them finite."""
    logits = model(**inputs).logits
    assert logits.isfinite().all()
    return logits[inputs["decoder_attention_mask"].bool()]


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("variant", VARIANTS)
def test_sdpa(variant: str, dtype: torch.dtype) -> None:
    model, inputs = build(variant).to(dtype), padded_batch()
    weight = torch.randn(int(inputs["decoder_attention_mask"].sum()), 1, dtype=dtype)
    model.set_attn_implementation("eager")
    expected = real_logits(model, inputs)
    (expected * weight).mean().backward()
    reference = {name: gradient.clone() for name, gradient in gradients(model).items()}
    model.zero_grad()
    model.set_attn_implementation("sdpa")
    logits = real_logits(model, inputs)
    (logits * weight).mean().backward()
    assert_near(logits, expected)
    assert_same_gradients(model, reference)


@pytest.mark.parametrize("variant", FLEX_VARIANTS)
def test_flex_attention(variant: str) -> None:
    model, inputs = build(variant).double(), padded_batch()
    expected = real_logits(model.requires_grad_(False), inputs)
    model.set_attn_implementation("flex_attention")
    with uncompiled_flex():
        assert_near(real_logits(model, inputs), expected)


@pytest.mark.full
def test_compiled_flex_attention() -> None:
    model, inputs = build("rotary_gqa_qk_norm"), padded_batch()
    expected = real_logits(model.requires_grad_(False), inputs)
    model.set_attn_implementation("flex_attention")
    assert_near(real_logits(model, inputs), expected)


# How rows share a source, and what the cache is.
GENERATION: dict[str, dict[str, Any]] = {
    "greedy": {},
    "beams": {"num_beams": 3, "num_return_sequences": 2},
    "samples": {"do_sample": True, "num_return_sequences": 3},
    "static_beams": {"num_beams": 3, "cache_implementation": "static"},
    "beams_without_cache": {"num_beams": 3, "use_cache": False},
}
# The kernels' masks differ by layer type, position style and grouping of heads; the rest is the same code for all.
GENERATION_VARIANTS = ("default", "rotary_gqa_qk_norm", "alibi_gqa", "sliding_first", "sliding_last_alibi")


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
@pytest.mark.parametrize("generation", GENERATION)
@pytest.mark.parametrize("variant", GENERATION_VARIANTS)
def test_generation(variant: str, generation: str, implementation: str) -> None:
    model, settings = build(variant).double(), GENERATION[generation]
    inputs = {name: value for name, value in padded_batch().items() if not name.startswith("decoder_")}
    settings = {"max_length": 8, "no_repeat_ngram_size": 2, **settings, "return_dict_in_generate": True}

    def generate() -> Any:
        torch.manual_seed(0)
        return model.generate(**inputs, **settings, output_logits=True)

    model.set_attn_implementation("eager")
    expected = generate()
    is_refused = implementation == "flex_attention" and ("alibi" in variant or "static" in generation)
    context = pytest.raises(ValueError, match="flex_attention") if is_refused else contextlib.nullcontext()
    with context, uncompiled_flex():
        model.set_attn_implementation(implementation)
        output = generate()
    if is_refused:
        return
    assert torch.equal(output.sequences, expected.sequences)
    for actual, wanted in zip(output.logits, expected.logits, strict=True):
        assert_near(actual, wanted)


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
@pytest.mark.parametrize("variant", ["rotary", "sliding_first"])
def test_generation_of_a_causal_model(variant: str, implementation: str) -> None:
    model = tiny_causal(variant).double()
    input_ids, mask = tiny_batch()["input_ids"].flip(1), tiny_batch()["attention_mask"].flip(1)
    settings = {"max_new_tokens": 5, "return_dict_in_generate": True, "output_logits": True}
    model.set_attn_implementation("eager")
    expected = model.generate(input_ids, attention_mask=mask, **settings)
    model.set_attn_implementation(implementation)
    with uncompiled_flex():
        output = model.generate(input_ids, attention_mask=mask, **settings)
    assert torch.equal(output.sequences, expected.sequences)
    for actual, wanted in zip(output.logits, expected.logits, strict=True):
        assert_near(actual, wanted)


@pytest.mark.parametrize("variant", ["alibi", "alibi_gqa", "sliding_last_alibi", "sliding_encoder_alibi"])
@pytest.mark.parametrize("implementation", ["flex_attention", "flash_attention_2"])
def test_alibi_is_refused_by_kernels_without_a_bias(variant: str, implementation: str) -> None:
    with pytest.raises(
        ValueError, match="`attn_implementation` must be 'eager' or 'sdpa' with `position_type='alibi'`"
    ):
        build(variant).set_attn_implementation(implementation)


def test_alibi_is_refused_at_construction() -> None:
    config = tiny_config("alibi")
    config._attn_implementation = "flex_attention"
    with pytest.raises(
        ValueError, match="`attn_implementation` must be 'eager' or 'sdpa' with `position_type='alibi'`"
    ):
        CustomSeq2SeqForConditionalGeneration(config)


@pytest.mark.parametrize("is_training", [True, False], ids=["train", "eval"])
def test_flex_attention_refuses_gradients_on_cpu(is_training: bool) -> None:
    model = tiny_seq2seq().train(is_training)
    model.set_attn_implementation("flex_attention")
    with pytest.raises(ValueError, match="no backward pass on CPU.*torch.no_grad"):
        model(**tiny_batch())


def test_flex_attention_refuses_attention_dropout_in_training() -> None:
    model = tiny_seq2seq(decoder={"attention_dropout": 0.1}).train()
    model.set_attn_implementation("flex_attention")
    with (
        torch.no_grad(),
        uncompiled_flex(),
        pytest.raises(ValueError, match="no dropout, got `attention_dropout=0.1`"),
    ):
        model(**tiny_batch())


@pytest.mark.parametrize("implementation", ["sdpa", "flex_attention"])
def test_attention_weights_are_those_of_the_eager_form(implementation: str) -> None:
    model, inputs = tiny_seq2seq().requires_grad_(False), padded_batch()
    model.set_attn_implementation(implementation)
    output = model(**inputs, output_attentions=True)
    for weights in (*output.decoder_attentions, *output.cross_attentions, *output.encoder_attentions):
        assert_near(weights.sum(-1), torch.ones(weights.shape[:-1]))
    source_mask = inputs["attention_mask"][:3]  # the last row has no source to look at
    for weights in output.cross_attentions:
        assert not weights[:3].masked_fill((source_mask == 1)[:, None, None], 0).any()


def test_encoder_sliding_window() -> None:
    """The window against a mask written out here: at most `sliding_window` tokens to each side."""
    fields = {**encoder_fields("default"), "sliding_window": 2}
    model = TransformerEncoderModel(tiny_config(encoder=fields).encoder).double().eval()
    full = TransformerEncoderModel(tiny_config().encoder).double().eval()
    full.load_state_dict(model.state_dict())
    input_ids = tiny_batch()["input_ids"].clamp(min=3)
    slots = torch.arange(input_ids.shape[1])
    window = (slots[:, None] - slots).abs() <= 2
    expected = full(input_ids, attention_mask=window.expand(3, 1, -1, -1)).last_hidden_state
    assert_near(model(input_ids).last_hidden_state, expected)
    mask = tiny_batch()["attention_mask"]
    expected = full(input_ids, attention_mask=(window & mask[:, None, None].bool()).contiguous()).last_hidden_state
    output = model(input_ids, attention_mask=mask).last_hidden_state
    assert_near(output[mask.bool()], expected[mask.bool()])
