"""
What no file holds is filled all the same: buffers that are not saved, and weights that a checkpoint lacks.

`from_pretrained` lays a model out without memory first; whatever neither the file nor `_init_weights` fills holds what
the memory held before. torch can fill fresh memory with NaN, which shows every such place.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModel, AutoModelForSeq2SeqLM, BertConfig, BertModel

from hf_custom_decoder import (
    CustomSeq2SeqForConditionalGeneration,
    CustomSeq2SeqModel,
    TransformerDecoderConfig,
    TransformerDecoderForCausalLM,
)
from tests.factories import ALL_VARIANTS, SIZES, VOCAB_SIZE, tiny_batch, tiny_causal, tiny_seq2seq


@pytest.fixture(autouse=True)
def _fresh_memory_holds_nan() -> Iterator[None]:
    before = torch.are_deterministic_algorithms_enabled()
    torch.use_deterministic_algorithms(True, warn_only=True)
    assert torch.utils.deterministic.fill_uninitialized_memory
    yield
    torch.use_deterministic_algorithms(before)


def assert_filled(model: torch.nn.Module) -> None:
    for name, tensor in [*model.named_parameters(), *model.named_buffers()]:
        assert tensor.device.type != "meta", name
        if tensor.is_floating_point():
            assert bool(tensor.isfinite().all()), name


def test_fresh_memory_holds_nan() -> None:
    """Without this, the tests below could not fail."""
    assert bool(torch.empty(64).isnan().all())


@pytest.mark.parametrize("variant", ALL_VARIANTS)
def test_buffers_that_are_not_saved_are_filled_after_loading(tmp_path: Path, variant: str) -> None:
    """Sinusoidal tables, rotary frequencies: equal to those of the saved model, and so are the outputs."""
    model = tiny_seq2seq(variant)
    model.save_pretrained(tmp_path)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path)
    assert_filled(loaded)
    saved_buffers = dict(model.named_buffers())
    assert dict(loaded.named_buffers()).keys() == saved_buffers.keys()
    for name, buffer in loaded.named_buffers():
        assert torch.equal(buffer, saved_buffers[name]), name
    batch = tiny_batch()
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
    assert_filled(AutoModelForSeq2SeqLM.from_pretrained(tmp_path, dtype=torch.bfloat16))

    causal = tiny_causal(variant)
    causal.save_pretrained(tmp_path / "causal")
    loaded = TransformerDecoderForCausalLM.from_pretrained(tmp_path / "causal")
    assert_filled(loaded)
    assert torch.equal(loaded(batch["input_ids"]).logits, causal(batch["input_ids"]).logits)


def test_a_new_vocabulary_projection_gets_ordinary_fresh_weights(tmp_path: Path) -> None:
    """Of a checkpoint of the bare model all weights are kept; projection and bias are drawn as in a fresh model."""
    whole = tiny_seq2seq(tie_word_embeddings=False, decoder={"lm_head_bias": True, "initializer_range": 0.07})
    whole.model.save_pretrained(tmp_path)
    assert isinstance(AutoModel.from_pretrained(tmp_path), CustomSeq2SeqModel)
    loaded = CustomSeq2SeqForConditionalGeneration.from_pretrained(tmp_path)
    assert_filled(loaded)
    for name, value in whole.model.state_dict().items():
        assert torch.equal(loaded.model.state_dict()[name], value), name
    assert not loaded.lm_head.bias.any()
    # 50 x 32 draws: the standard deviation of the estimate is 0.07 / sqrt(2 * 1600), about 2 %
    assert float(loaded.lm_head.weight.detach().std()) == pytest.approx(0.07, rel=0.1)


def test_a_pretrained_encoder_under_a_fresh_decoder_is_filled(tmp_path: Path) -> None:
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCAB_SIZE, hidden_size=24, num_hidden_layers=1, num_attention_heads=2, intermediate_size=32
    )
    bert = BertModel(config).eval()
    bert.save_pretrained(tmp_path / "bert")
    model = CustomSeq2SeqForConditionalGeneration.from_encoder_pretrained(
        str(tmp_path / "bert"), decoder=TransformerDecoderConfig(**SIZES)
    )
    assert_filled(model)
    batch = tiny_batch()
    source = {name: batch[name] for name in ("input_ids", "attention_mask")}
    states, expected = model.get_encoder()(**source).last_hidden_state, bert(**source).last_hidden_state
    torch.testing.assert_close(states, expected)
    model.save_pretrained(tmp_path / "both")
    loaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "both")
    assert_filled(loaded)
    assert torch.equal(loaded(**batch).logits, model(**batch).logits)
