"""What docs/own_decoder.md offers beside the bare contract: widths, bias, helper files, own state, shared sources."""

import importlib
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch
from torch import nn
from transformers.cache_utils import StaticCache

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerEncoderConfig,
    register_decoder,
)
from hf_custom_decoder.testing import DECODER_CHECKS, check_decoder
from tests.factories import SIZES, tiny_batch

FILES = Path(__file__).parent / "own_decoders"
FIELDS = {"vocab_size": 50, "hidden_size": 32, "num_hidden_layers": 2}


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A package of the user's, with a name that no other test imports."""
    root = tmp_path_factory.mktemp("own")
    shutil.copytree(FILES, root / "own_decoder_package", ignore=shutil.ignore_patterns("__pycache__"))
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(root)
        patch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(root / "modules"))
        yield "own_decoder_package"
    for name in [
        one for one in sys.modules if one.partition(".")[0] in ("own_decoder_package", "transformers_modules")
    ]:
        del sys.modules[name]


@pytest.fixture(scope="module")
def gated(package: str) -> ModuleType:
    module = importlib.import_module(f"{package}.gated_decoder")
    register_decoder(module.GatedDecoderConfig, module.GatedDecoderModel)
    return module


@pytest.fixture(scope="module")
def attending(package: str) -> ModuleType:
    module = importlib.import_module(f"{package}.attending_decoder")
    register_decoder(module.AttendingDecoderConfig, module.AttendingDecoderModel)
    return module


def build(config: Any) -> CustomSeq2SeqForConditionalGeneration:
    torch.manual_seed(0)
    whole = CustomSeq2SeqConfig(encoder=TransformerEncoderConfig(**SIZES), decoder=config, tie_word_embeddings=False)
    return CustomSeq2SeqForConditionalGeneration(whole).double().eval()


def source() -> dict[str, torch.Tensor]:
    return {name: tiny_batch()[name] for name in ("input_ids", "attention_mask")}


@pytest.mark.parametrize("name", ["gated", "attending"])
def test_it_passes_the_suite(name: str, request: pytest.FixtureRequest) -> None:
    """Also in a process without the user's package: the helper file travels too."""
    module = request.getfixturevalue(name)
    lines: list[str] = []
    check_decoder(getattr(module, f"{name.capitalize()}DecoderConfig")(**FIELDS), report=lines.append)
    assert len(lines) == len(DECODER_CHECKS) + 1


def test_widths_and_bias(gated: ModuleType, tmp_path: Path) -> None:
    model = build(gated.GatedDecoderConfig(**FIELDS))
    assert model.get_decoder().embed_tokens.weight.shape == (50, 12)
    assert model.lm_head.weight.shape == (50, 64)
    nn.init.normal_(model.lm_head.bias)
    batch = tiny_batch()
    before = model(**batch).logits
    model.save_pretrained(tmp_path)
    assert (tmp_path / "gated_states.py").exists()
    again = CustomSeq2SeqForConditionalGeneration.from_pretrained(tmp_path, dtype=torch.float64)
    torch.testing.assert_close(again(**batch).logits, before)
    with torch.no_grad():
        again.lm_head.bias += 1.0
    torch.testing.assert_close(again(**batch).logits, before + 1.0)
    model.train()(**batch).loss.backward()
    assert model.lm_head.bias.grad.abs().min() > 0.0
    model.resize_token_embeddings(53)
    assert (model.lm_head.weight.shape, model.lm_head.bias.shape) == ((53, 64), (53,))


@pytest.mark.parametrize("options", [{"num_beams": 3, "num_return_sequences": 2}, {"do_sample": True, "num_beams": 2}])
def test_beams_share_the_source_and_write_the_same(gated: ModuleType, options: dict[str, Any]) -> None:
    """Encoder states stay at one row a source; with `supports_shared_sources = False` the outputs are equal."""
    rows = []

    def note(module: Any, arguments: Any, keywords: dict[str, Any], output: Any) -> None:
        rows.append((keywords["encoder_hidden_states"].shape[0], output.last_hidden_state.shape[0]))

    found = []
    for shares in (True, False):
        model = build(gated.GatedDecoderConfig(**FIELDS))
        model._can_share_sources = shares
        model.get_decoder().register_forward_hook(note, with_kwargs=True)
        torch.manual_seed(1)
        found.append(model.generate(**source(), **options, max_length=9))
        num_sources = source()["input_ids"].shape[0]
        decoder_rows = num_sources * options["num_beams"]
        assert set(rows) == {(num_sources if shares else decoder_rows, decoder_rows)}
        rows.clear()
    assert torch.equal(*found)


def test_a_decoder_that_says_so_decodes_with_a_static_cache(attending: ModuleType) -> None:
    model = build(attending.AttendingDecoderConfig(**FIELDS))
    for options in ({}, {"num_beams": 2}):
        expected = model.generate(**source(), **options, max_length=9)
        found = model.generate(
            **source(), **options, max_length=9, cache_implementation="static", return_dict_in_generate=True
        )
        assert isinstance(found.past_key_values.self_attention_cache, StaticCache)
        assert torch.equal(found.sequences, expected)
