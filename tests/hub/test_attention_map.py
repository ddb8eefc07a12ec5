"""Attention maps and their pictures."""

import sys
from pathlib import Path

import numpy as np
import pytest
from matplotlib.figure import Figure
from PIL import Image
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from hf_custom_decoder.evaluation.batched_generation import generate_texts
from hf_custom_decoder.hub.attention_map import AttentionMap, cross_attention_map, save_attention_maps
from hf_custom_decoder.hub.model_folder import load_model_folder
from hf_custom_decoder.training.pronunciation_decoders import DECODER_RECIPES, build_pronunciation_model
from tests.tiny_pronunciation import save_tiny_model, shrink_recipes, tiny_tokenizer


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    return load_model_folder(save_tiny_model(tmp_path_factory.mktemp("tiny")))


@pytest.fixture(scope="module")
def picture(loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase]) -> AttentionMap:
    model, tokenizer = loaded
    model.set_attn_implementation("eager")
    return cross_attention_map(model, tokenizer, "aback")


def test_rows_are_what_generation_attends_to(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], picture: AttentionMap
) -> None:
    model, tokenizer = loaded
    assert picture.source_tokens == ["a", "b", "a", "c", "k", "</s>"]
    ((text,),) = generate_texts(model, tokenizer, ["aback"], num_beams=1)
    assert [token for token in picture.target_tokens if not token.startswith("<")] == text.split()
    assert picture.weights.shape == (len(picture.target_tokens), len(picture.source_tokens))
    np.testing.assert_allclose(picture.weights.sum(axis=1), 1.0, rtol=1e-5)
    # The same weights as generate() reports step by step: one tensor a layer, (1, heads, 1, source).
    steps = model.generate(
        **tokenizer(["aback"], return_tensors="pt"),
        num_beams=1,
        output_attentions=True,
        return_dict_in_generate=True,
    ).cross_attentions
    stepwise = np.stack([np.mean([layer[0, :, 0].numpy() for layer in step], axis=(0, 1)) for step in steps])
    np.testing.assert_allclose(picture.weights, stepwise, atol=1e-5)
    assert picture.description == "cross-attention, mean over 2 heads"  # of the one layer


@pytest.mark.parametrize("decoder", DECODER_RECIPES)
def test_every_decoder_of_the_quickstart_is_drawn(decoder: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shrink_recipes(monkeypatch, 16)
    tokenizer = tiny_tokenizer()
    model = build_pronunciation_model(tokenizer, decoder).eval()
    model.set_attn_implementation("eager")
    attention = cross_attention_map(model, tokenizer, "aback")
    assert attention.weights.shape == (len(attention.target_tokens), 6)
    np.testing.assert_allclose(attention.weights.sum(axis=1), 1.0, rtol=1e-5)
    if decoder in ("gru", "lstm", "rnn"):  # one attention, over the output of the last layer
        assert attention.description == "cross-attention"
    else:
        assert attention.description == "cross-attention, mean over 4 heads and 2 layers"


def test_model_without_weights_is_refused(
    loaded: tuple[PreTrainedModel, PreTrainedTokenizerBase], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    forward = type(model).forward

    def without_attention(self: PreTrainedModel, *args: object, **kwargs: object) -> object:
        outputs = forward(self, *args, **kwargs)
        outputs.cross_attentions = None
        return outputs

    monkeypatch.setattr(type(model), "forward", without_attention)
    with pytest.raises(ValueError, match=r'set_attn_implementation\("eager"\)'):
        cross_attention_map(model, tokenizer, "cat")


@pytest.mark.parametrize("count", [1, 3])
def test_png_shows_the_weights(picture: AttentionMap, tmp_path: Path, count: int) -> None:
    path = tmp_path / "new" / "attention.png"
    save_attention_maps([picture] * count, path)
    image = Image.open(path)
    assert image.format == "PNG"
    assert min(image.size) > 300
    assert len(image.convert("RGB").getcolors(maxcolors=1_000_000)) > 10  # not a blank sheet
    assert [entry.name for entry in path.parent.iterdir()] == ["attention.png"]


def test_title_stands_above_the_panels(picture: AttentionMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    titles: list[str] = []
    save = Figure.savefig

    def savefig(self: Figure, *args: object, **kwargs: object) -> None:
        titles.append(self.get_suptitle())
        save(self, *args, **kwargs)

    monkeypatch.setattr(Figure, "savefig", savefig)
    save_attention_maps([picture], tmp_path / "attention.png", title="GRU decoder")
    save_attention_maps([picture], tmp_path / "attention.png")
    assert titles == ["GRU decoder", ""]


def test_no_maps_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="at least one attention map"):
        save_attention_maps([], tmp_path / "attention.png")


def test_missing_matplotlib_names_the_extra(
    picture: AttentionMap, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r'pip install "hf_custom_decoder\[quickstart\]"'):
        save_attention_maps([picture], tmp_path / "attention.png")
