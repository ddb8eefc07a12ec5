"""Every check passes our models and fails one in which what it looks for is broken."""

import re
from collections.abc import Callable
from typing import Any

import pytest
import torch
from transformers import BertConfig, EncoderDecoderConfig, EncoderDecoderModel, PreTrainedModel

from hf_custom_decoder.doctor import CHECK_NAMES, Limits, Verdict, examine_model, training_checks
from hf_custom_decoder.training.source_gain import LEAST_GAIN
from tests.combinations import build_pair
from tests.doctor import models
from tests.doctor.models import tiny
from tests.factories import tiny_causal, tiny_seq2seq
from tests.integration.training_runs import word_tokenizer

pytest.importorskip("accelerate")


def finding(model: PreTrainedModel, name: str, **options: Any) -> Any:
    """What one check says."""
    skip = [other for other in CHECK_NAMES if other != name]
    (found,) = examine_model(model, skip=skip, **options).findings
    return found


@pytest.mark.parametrize(
    "build",
    [
        pytest.param(tiny, id="transformer"),
        pytest.param(lambda: tiny_seq2seq("rotary_gqa_qk_norm", label_smoothing=0.1), id="rotary, smoothed"),
        pytest.param(lambda: build_pair("gru_2", "gru_everything").eval(), id="gru"),
        pytest.param(lambda: build_pair("transformer", "hybrid_rotary").eval(), id="hybrid"),
    ],
)
def test_ours_are_right(build: Callable[[], PreTrainedModel]) -> None:
    model = build()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = model.config.to_dict()
    report = examine_model(model, word_tokenizer(), skip=["remote code"])
    assert report.is_trusted, str(report)
    assert set(report.verdicts().values()) == {Verdict.RIGHT}, str(report)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert model.config.to_dict() == config


def test_ours_loads_for_a_stranger() -> None:
    assert finding(tiny(), "remote code").verdict is Verdict.RIGHT


@pytest.mark.parametrize(
    ("name", "build", "text"),
    [
        ("tying", models.has_unmade_tie, "`tie_word_embeddings` is True, but .* two weights"),
        ("gradients", models.has_idle_weight, "2 of .* no gradient.* idle.weight, idle.bias"),
        ("source matters", models.ignores_source, "8 of 8 examples stay as they are"),
        ("padding at the end", lambda: tiny(models.DropsSourceMask), "a mask is not applied"),
        ("padding at the end", lambda: tiny(models.CountsPadding), r"-100\) must not count"),
        ("padding before", lambda: tiny(models.DropsTargetMask), "^Padding before target prefixes"),
        ("cache", lambda: tiny(models.ForgetsCache), "the logits differ by .* state is lost"),
        ("beams", lambda: tiny(models.MixesSources), "sources or caches are mixed up"),
        ("saving", models.has_hidden_scale, "neither in the weights nor in the config"),
        ("saving", models.has_new_tie, "After saving and loading, other weights are tied"),
        ("saving", models.has_lost_tie, "1 weights are others: model.decoder.embed_tokens.weight"),
        ("remote code", lambda: tiny(models.DropsItemCount), "does not load for a stranger"),
        ("overfitting", lambda: tiny(models.ShiftsTwice), "teach at most .* % of the target tokens"),
        ("accumulation", lambda: tiny(models.DropsItemCount), "must divide by `num_items_in_batch`"),
        ("cache", lambda: tiny(models.Raises), "It failed with RuntimeError: a broken layer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_what_is_broken_is_wrong(
    name: str, build: Callable[[], PreTrainedModel], text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_checks, "OVERFIT_STEPS", 60)  # ours need 10 to 60
    model = build()
    found = finding(model, name)
    assert found.verdict is Verdict.WRONG, found.text
    assert re.search(text, found.text), found.text


def test_two_published_models_tie_as_the_decoder_says() -> None:
    side = {"vocab_size": 50, "hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    for is_tied in (True, False):
        decoder = BertConfig(**side, intermediate_size=16, tie_word_embeddings=is_tied)
        config = EncoderDecoderConfig.from_encoder_decoder_configs(BertConfig(**side, intermediate_size=16), decoder)
        found = finding(EncoderDecoderModel(config).eval(), "tying")
        assert found.verdict is Verdict.RIGHT, found.text
        assert f"tie_word_embeddings {is_tied}" in found.text


def test_repeated_sources_are_a_note() -> None:
    found = finding(models.tiny_stock("BART"), "beams")
    assert found.verdict is Verdict.NOTE
    assert "encoder states 4 times and cross-attention keys 4 times" in found.text


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"config": {"eos_token_id": 7}}, "`eos_token_id` is 2 and 7 in generation config and config"),
        (
            {"config": {"pad_token_id": 99}, "generation_config": {"pad_token_id": 99}},
            "`pad_token_id` 99 is outside the decoder's vocabulary of 50",
        ),
        ({"config": {"eos_token_id": None}, "generation_config": {"eos_token_id": None}}, "o `eos_token_id` is set"),
        (
            {"config": {"eos_token_id": 3}, "generation_config": {"eos_token_id": 3}},
            "`eos_token_id` is 2 for the tokenizer and 3 for the model",
        ),
        (
            {"config": {"decoder_start_token_id": 9}, "generation_config": {"decoder_start_token_id": 9}},
            "`decoder_start_token_id` 9 is the ordinary token 'w9'",
        ),
    ],
)
def test_ids_that_disagree_are_wrong(changes: dict[str, dict[str, Any]], text: str) -> None:
    model = tiny()
    for holder, values in changes.items():
        for name, value in values.items():
            setattr(getattr(model, holder), name, value)
            if holder == "config" and name != "decoder_start_token_id":
                assert getattr(model.config.decoder, name) == value
    found = finding(model, "special tokens", tokenizers=word_tokenizer())
    assert found.verdict is Verdict.WRONG
    assert text in found.text


def test_tokenizers_that_do_not_fit_are_wrong() -> None:
    tokenizer = word_tokenizer()
    tokenizer.add_tokens([f"x{number}" for number in range(5)])
    assert "has 55 tokens for 50 embeddings" in finding(tiny(), "special tokens", tokenizers=tokenizer).text
    tokenizer = word_tokenizer()
    tokenizer.eos_token = None
    assert "no eos token" in finding(tiny(), "special tokens", tokenizers=tokenizer).text


def test_settings_that_are_easily_misused_are_notes() -> None:
    model = tiny()
    model.generation_config.max_length = None
    found = finding(model, "special tokens")
    assert (found.verdict, "20 tokens" in found.text) == (Verdict.NOTE, True)
    model = tiny()
    for holder in (model.config, model.generation_config):
        holder.pad_token_id = 2
    found = finding(model, "special tokens")
    assert (found.verdict, "padding is the end token" in found.text) == (Verdict.NOTE, True)


def test_a_source_that_does_not_help_yet_is_a_note() -> None:
    pairs = [{"source": f"w{4 + row} w{9 + row}", "target": f"w{14 + row}"} for row in range(4)]
    model = tiny()
    verdicts = set()
    for seed in range(8):  # of random weights some happen to prefer the right source
        torch.manual_seed(seed)
        for weight in model.parameters():
            torch.nn.init.normal_(weight, std=0.3)
        found = finding(model, "source matters", tokenizers=word_tokenizer(), pairs=pairs)
        own, other = map(float, re.findall(r"\d+\.\d\d\b", found.text)[-2:])
        if abs(other - own - LEAST_GAIN) > 0.01:  # the text has two digits
            assert found.verdict is (Verdict.RIGHT if own < other else Verdict.NOTE), found.text
            verdicts.add(found.verdict)
    assert verdicts == {Verdict.RIGHT, Verdict.NOTE}


def test_a_source_that_hardly_helps_is_a_note() -> None:
    """As `train` says of a model that writes much the same for every source."""
    pairs = [{"source": f"w{4 + row} w{9 + row}", "target": f"w{14 + row}"} for row in range(4)]
    for scale in (1.0, -1.0):  # one of them helps a little
        model = tiny()
        torch.manual_seed(0)
        for name, weight in model.named_parameters():
            torch.nn.init.normal_(weight, std=0.3)
            if ".encoder_attn.out_proj." in name:
                weight.data *= 1e-3 * scale
        found = finding(model, "source matters", tokenizers=word_tokenizer(), pairs=pairs)
        assert found.verdict is Verdict.NOTE, found.text
        assert "not learnt yet" in found.text


def test_numbers_that_are_not_finite_are_wrong() -> None:
    model = tiny()
    with torch.no_grad():
        model.lm_head.weight[3, 3] = float("nan")
    assert "not finite" in finding(model, "source matters").text
    assert "training loss is nan" in finding(model, "gradients").text


def test_a_weight_that_stands_still_is_wrong() -> None:
    model = models.ignores_source()
    found = finding(model, "gradients")
    assert found.verdict is Verdict.WRONG
    assert "zero everywhere" in found.text


def test_frozen_weights_are_told_and_nothing_to_train_is_not_applicable() -> None:
    model = tiny()
    model.model.encoder.requires_grad_(False)
    assert "are frozen" in finding(model, "gradients").text
    model.requires_grad_(False)
    for name in ("gradients", "overfitting", "accumulation"):
        assert finding(model, name).verdict is Verdict.NOT_APPLICABLE


def test_large_models_are_told_what_is_skipped() -> None:
    limits = Limits(exact_parameters=10, trained_parameters=10, saved_parameters=10)
    report = examine_model(tiny(), limits=limits)
    skipped = [
        one.name for one in report.findings if one.verdict is Verdict.NOT_APPLICABLE and "more than 10" in one.text
    ]
    assert skipped == ["gradients", "saving", "remote code", "overfitting", "accumulation"]
    assert "float32" in report.conditions
    assert report.is_trusted, str(report)


def test_a_model_that_still_learns_is_not_broken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Too few steps for it; the one whose labels are shifted twice has learnt all that its loss asks for."""
    monkeypatch.setattr(training_checks, "OVERFIT_STEPS", 20)
    monkeypatch.setattr(training_checks, "OVERFIT_RATES", (3e-3,))
    found = finding(tiny(), "overfitting")
    assert (found.verdict, "still falls" in found.text) == (Verdict.NOTE, True)


def test_overfitting_is_given_up_in_time() -> None:
    found = finding(tiny(models.ShiftsTwice), "overfitting", limits=Limits(overfit_seconds=0.0))
    assert found.verdict is Verdict.NOT_APPLICABLE
    assert "Stopped after 0 seconds" in found.text


def test_screen_and_refusals() -> None:
    report = examine_model(models.tiny_stock("BART"), skip=[n for n in CHECK_NAMES if n not in ("tying", "beams")])
    screen = str(report)
    assert "note   beams  Right, but repeated" in screen
    assert "1 right, 1 note, 0 wrong, 0 not applicable" in screen
    assert max(map(len, screen.splitlines())) <= 119
    with pytest.raises(ValueError, match=r"`skip` must name checks \(special tokens, .*got 'beam'"):
        examine_model(tiny(), skip=["beam"])
    with pytest.raises(ValueError, match="must be an encoder-decoder, got a TransformerDecoderForCausalLM"):
        examine_model(tiny_causal())
    with pytest.raises(ValueError, match="at least two pairs of unequal sources, got 1"):
        examine_model(tiny(), word_tokenizer(), [{"source": "w4", "target": "w5"}] * 2)
