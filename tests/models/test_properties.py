"""Random valid configs: what must hold for every one of them."""

import tempfile
from typing import Any

import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoModelForSeq2SeqLM

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerDecoderConfig,
    TransformerDecoderForCausalLM,
    TransformerEncoderConfig,
)
from tests.factories import spread_weights

VOCAB_SIZE, SOURCE_LENGTH, TARGET_LENGTH, ROWS = 20, 6, 7, 3
EXACT = {"rtol": 1e-8, "atol": 1e-9}  # models run in float64

SLOW_DRAWS = [HealthCheck.too_slow, HealthCheck.data_too_large]
few = settings(max_examples=12, deadline=None, print_blob=True, suppress_health_check=SLOW_DRAWS)
fewer = settings(few, max_examples=5)  # with files


@st.composite
def stack_fields(draw: st.DrawFn, decoder: bool) -> dict[str, Any]:
    """Fields of a Transformer encoder or decoder; every choice that the configs offer, with tiny sizes."""
    num_heads = draw(st.sampled_from([1, 2, 4, 6]))
    position_type = draw(st.sampled_from(["sinusoidal", "learned", "rotary", "alibi", "none"]))
    head_dim = draw(st.sampled_from([None, 2, 6] if position_type == "rotary" else [None, 3, 4]))
    num_layers = draw(st.integers(1, 3))
    fields = {
        "vocab_size": VOCAB_SIZE,
        "hidden_size": num_heads * draw(st.sampled_from([2, 4])),
        "num_hidden_layers": num_layers,
        "num_attention_heads": num_heads,
        "num_key_value_heads": draw(st.sampled_from([None, *[n for n in (1, 2, 3) if num_heads % n == 0]])),
        "head_dim": head_dim,
        "intermediate_size": draw(st.integers(1, 9)),
        "hidden_act": draw(st.sampled_from(["relu", "gelu", "silu", "tanh"])),
        "gated_mlp": draw(st.booleans()),
        "norm_type": draw(st.sampled_from(["layernorm", "rmsnorm"])),
        "norm_position": draw(st.sampled_from(["pre", "post"])),
        "final_norm": draw(st.sampled_from([None, True, False])),
        "position_type": position_type,
        "attention_bias": draw(st.booleans()),
        "mlp_bias": draw(st.booleans()),
        "qk_norm": draw(st.booleans()),
        "scale_embeddings": draw(st.booleans()),
        "embedding_norm": draw(st.booleans()),
        "max_position_embeddings": 24,
        "dropout": 0.1,
        "sliding_window": draw(st.sampled_from([None, 1, 3])),
    }
    if decoder:
        names = ["full_attention"] if fields["sliding_window"] is None else ["full_attention", "sliding_attention"]
        fields["mixer_types"] = draw(
            st.one_of(st.none(), st.lists(st.sampled_from(names), min_size=num_layers, max_size=num_layers))
        )
        fields["lm_head_bias"] = draw(st.booleans())
    return fields


@st.composite
def causal_models(draw: st.DrawFn) -> TransformerDecoderForCausalLM:
    config = TransformerDecoderConfig(**draw(stack_fields(True)), tie_word_embeddings=draw(st.booleans()))
    torch.manual_seed(0)
    return prepared(TransformerDecoderForCausalLM(config), draw(st.sampled_from(["eager", "sdpa"])))


@st.composite
def seq2seq_models(draw: st.DrawFn) -> CustomSeq2SeqForConditionalGeneration:
    """Two random stacks; widths that differ get a bridge, equal ones may share all embeddings."""
    encoder, decoder = draw(stack_fields(False)), draw(stack_fields(True))
    config = CustomSeq2SeqConfig(
        encoder=TransformerEncoderConfig(**encoder),
        decoder=TransformerDecoderConfig(**decoder),
        tie_word_embeddings=draw(st.booleans()),
        tie_encoder_decoder_embeddings=encoder["hidden_size"] == decoder["hidden_size"] and draw(st.booleans()),
        label_smoothing=draw(st.sampled_from([0.0, 0.1])),
    )
    torch.manual_seed(0)
    return prepared(CustomSeq2SeqForConditionalGeneration(config), draw(st.sampled_from(["eager", "sdpa"])))


def prepared(model: Any, implementation: str) -> Any:
    spread_weights(model)
    model.set_attn_implementation(implementation)
    return model.double().eval()


@st.composite
def sources(draw: st.DrawFn) -> dict[str, torch.Tensor]:
    """Rows of random real lengths, padded on the right."""
    lengths = torch.tensor(draw(st.lists(st.integers(1, SOURCE_LENGTH), min_size=ROWS, max_size=ROWS)))
    mask = (torch.arange(SOURCE_LENGTH)[None] < lengths[:, None]).long()
    return {"input_ids": draw(targets(SOURCE_LENGTH)) * mask, "attention_mask": mask}


@st.composite
def targets(draw: st.DrawFn, length: int = TARGET_LENGTH) -> torch.Tensor:
    """Ids without special ones; shape `(ROWS, length)`."""
    row = st.lists(st.integers(3, VOCAB_SIZE - 1), min_size=length, max_size=length)
    return torch.tensor(draw(st.lists(row, min_size=ROWS, max_size=ROWS)))


@st.composite
def splits(draw: st.DrawFn) -> list[int]:
    """Ends of the pieces in which a target is fed."""
    inner = draw(st.sets(st.integers(1, TARGET_LENGTH - 1)))
    return [*sorted(inner), TARGET_LENGTH]


def logits_of(model: Any, **inputs: Any) -> torch.Tensor:
    with torch.no_grad():
        return model(**inputs).logits


def in_pieces(model: Any, name: str, ids: torch.Tensor, ends: list[int], **inputs: Any) -> torch.Tensor:
    cache, logits, start = None, [], 0
    for end in ends:
        with torch.no_grad():
            output = model(**inputs, **{name: ids[:, start:end]}, past_key_values=cache, use_cache=True)
        cache, start = output.past_key_values, end
        assert cache.get_seq_length() == end
        logits.append(output.logits)
    return torch.cat(logits, dim=1)


@few
@given(causal_models(), targets(), splits())
def test_causal_cached_is_uncached(model: Any, ids: torch.Tensor, ends: list[int]) -> None:
    whole = logits_of(model, input_ids=ids, use_cache=False)
    torch.testing.assert_close(in_pieces(model, "input_ids", ids, ends), whole, **EXACT)


@few
@given(seq2seq_models(), sources(), targets(), splits())
def test_seq2seq_cached_is_uncached(model: Any, source: dict[str, Any], ids: torch.Tensor, ends: list[int]) -> None:
    whole = logits_of(model, **source, decoder_input_ids=ids, use_cache=False)
    torch.testing.assert_close(in_pieces(model, "decoder_input_ids", ids, ends, **source), whole, **EXACT)


@few
@given(causal_models(), targets(), st.integers(0, TARGET_LENGTH - 1), st.integers(3, VOCAB_SIZE - 1))
def test_causal_future_tokens_are_invisible(model: Any, ids: torch.Tensor, position: int, other: int) -> None:
    changed = ids.clone()
    changed[:, position:] = other
    before, after = logits_of(model, input_ids=ids), logits_of(model, input_ids=changed)
    torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=0)


@few
@given(seq2seq_models(), sources(), targets(), st.integers(0, TARGET_LENGTH - 1), st.integers(3, VOCAB_SIZE - 1))
def test_seq2seq_future_tokens_are_invisible(
    model: Any, source: dict[str, Any], ids: torch.Tensor, position: int, other: int
) -> None:
    changed = ids.clone()
    changed[:, position:] = other
    before = logits_of(model, **source, decoder_input_ids=ids)
    after = logits_of(model, **source, decoder_input_ids=changed)
    torch.testing.assert_close(after[:, :position], before[:, :position], rtol=0, atol=0)


@few
@given(causal_models(), targets(), st.integers(1, 4), st.booleans())
def test_causal_padding_changes_nothing(model: Any, ids: torch.Tensor, amount: int, left: bool) -> None:
    widths = (amount, 0) if left else (0, amount)
    padded, mask = torch.nn.functional.pad(ids, widths), torch.nn.functional.pad(torch.ones_like(ids), widths)
    expected = logits_of(model, input_ids=ids)
    for use_cache in (True, False):
        found = logits_of(model, input_ids=padded, attention_mask=mask, use_cache=use_cache)
        torch.testing.assert_close(found[:, amount:] if left else found[:, :-amount], expected, **EXACT)


@few
@given(seq2seq_models(), sources(), targets(), st.integers(1, 4), st.booleans())
def test_seq2seq_padding_changes_nothing(
    model: Any, source: dict[str, Any], ids: torch.Tensor, amount: int, left: bool
) -> None:
    widths = (amount, 0) if left else (0, amount)
    padded = {name: torch.nn.functional.pad(value, widths) for name, value in source.items()}
    torch.testing.assert_close(
        logits_of(model, **padded, decoder_input_ids=ids), logits_of(model, **source, decoder_input_ids=ids), **EXACT
    )


@few
@given(seq2seq_models(), sources(), targets(), st.permutations(range(ROWS)))
def test_permuting_the_batch_permutes_the_output(
    model: Any, source: dict[str, Any], ids: torch.Tensor, order: list[int]
) -> None:
    expected = logits_of(model, **source, decoder_input_ids=ids)[order]
    permuted = {name: value[order] for name, value in source.items()}
    torch.testing.assert_close(logits_of(model, **permuted, decoder_input_ids=ids[order]), expected, **EXACT)


@few
@given(seq2seq_models(), sources(), targets(), st.lists(st.integers(0, TARGET_LENGTH), min_size=ROWS, max_size=ROWS))
def test_training_loss_is_the_loss_of_complete_logits(
    model: Any, source: dict[str, Any], ids: torch.Tensor, lengths: list[int]
) -> None:
    """Packed rows and label positions only, against logits everywhere; labels are shifted once and only once."""
    for part in (model.config.decoder, model.config.encoder):
        part.dropout = 0.0
    for module in model.modules():
        if hasattr(module, "dropout"):
            module.dropout = 0.0
    labels = ids.clone()
    for row, length in enumerate(lengths):
        labels[row, length:] = -100
    shifted = torch.cat([torch.full_like(ids[:, :1], model.config.start_token_id), ids[:, :-1]], dim=1)
    logits = logits_of(model, **source, decoder_input_ids=shifted)
    expected = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), labels.flatten(), reduction="sum", label_smoothing=model.config.label_smoothing
    ) / max(sum(lengths), 1)
    loss = model.train()(**source, labels=labels).loss
    torch.testing.assert_close(loss.detach(), expected, **EXACT)
    loss.backward()
    assert all(weight.grad is None or weight.grad.isfinite().all() for weight in model.parameters())


@fewer
@given(seq2seq_models(), sources(), targets())
def test_save_and_load(model: Any, source: dict[str, Any], ids: torch.Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForSeq2SeqLM.from_pretrained(folder, attn_implementation=model.config._attn_implementation)
    assert loaded.dtype == torch.float64
    assert loaded.config.to_diff_dict().keys() == model.config.to_diff_dict().keys()
    for (name, weight), (other, found) in zip(model.state_dict().items(), loaded.state_dict().items(), strict=True):
        assert name == other
        assert torch.equal(weight, found)
    expected = logits_of(model, **source, decoder_input_ids=ids)
    torch.testing.assert_close(logits_of(loaded, **source, decoder_input_ids=ids), expected, rtol=1e-5, atol=1e-6)


@fewer
@given(causal_models(), targets())
def test_save_and_load_of_a_decoder(model: Any, ids: torch.Tensor) -> None:
    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        loaded = AutoModelForCausalLM.from_pretrained(folder, attn_implementation=model.config._attn_implementation)
    expected = logits_of(model, input_ids=ids)
    torch.testing.assert_close(logits_of(loaded, input_ids=ids), expected, rtol=1e-5, atol=1e-6)


@few
@given(seq2seq_models(), sources(), targets())
def test_kernels_agree(model: Any, source: dict[str, Any], ids: torch.Tensor) -> None:
    logits = []
    for name in ("eager", "sdpa"):
        model.set_attn_implementation(name)
        logits.append(logits_of(model, **source, decoder_input_ids=ids))
    torch.testing.assert_close(*logits, **EXACT)
