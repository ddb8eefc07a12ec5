"""The models of the quickstart are of one size, and what is said of them is true."""

import itertools
import string

import pytest
from transformers import PreTrainedTokenizerFast

from hf_custom_decoder import RecurrentDecoderConfig, TransformerDecoderConfig
from hf_custom_decoder.data.pronunciation_tokenizer import build_pronunciation_tokenizer
from hf_custom_decoder.training.pronunciation_decoders import DECODER_RECIPES, build_pronunciation_model

MIXERS = {
    "transformer": ["full_attention", "full_attention"],
    "ssru": ["ssru", "ssru"],
    "mingru": ["mingru", "mingru"],
    "hybrid": ["mingru", "full_attention"],
}
ARCHITECTURES = {
    "transformer": "a decoder of 2, each with cross-attention, whose layers mix what is written by self-attention",
    "ssru": "by an SSRU",
    "mingru": "by a minGRU",
    "hybrid": "by a minGRU and self-attention in turn",
    "gru": "A bidirectional GRU encoder of 2 layers, and a decoder of 1 GRU layer with dot attention",
    "lstm": "A bidirectional LSTM encoder of 2 layers, and a decoder of 1 LSTM layer with dot attention",
    "rnn": "A bidirectional RNN encoder of 2 layers, and a decoder of 1 RNN layer with dot attention",
}


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    """With as many phonemes as the dictionary has."""
    pairs = itertools.product(string.ascii_uppercase, repeat=2)
    return build_pronunciation_tokenizer(["".join(pair) for pair in itertools.islice(pairs, 39)])


@pytest.mark.parametrize("decoder", DECODER_RECIPES)
def test_models_are_of_one_size(tokenizer: PreTrainedTokenizerFast, decoder: str) -> None:
    assert 1_050_000 < build_pronunciation_model(tokenizer, decoder).num_parameters() < 1_300_000


@pytest.mark.parametrize("decoder", MIXERS)
def test_transformers_mix_as_their_name_says(tokenizer: PreTrainedTokenizerFast, decoder: str) -> None:
    config = build_pronunciation_model(tokenizer, decoder).config
    assert isinstance(config.decoder, TransformerDecoderConfig)
    assert config.decoder.mixer_types == MIXERS[decoder]
    assert config.encoder.num_hidden_layers == 3


@pytest.mark.parametrize("decoder", ["gru", "lstm", "rnn"])
def test_both_sides_have_the_cells_of_their_name(tokenizer: PreTrainedTokenizerFast, decoder: str) -> None:
    config = build_pronunciation_model(tokenizer, decoder).config
    assert isinstance(config.decoder, RecurrentDecoderConfig)
    assert config.decoder.cell_type == config.encoder.cell_type == decoder
    assert (config.encoder.num_hidden_layers, config.decoder.num_hidden_layers) == (2, 1)
    assert config.encoder.bidirectional
    assert config.decoder.has_attention
    assert not config.decoder.input_feeding  # training would run token by token


def test_every_architecture_is_described() -> None:
    assert set(ARCHITECTURES) == set(DECODER_RECIPES)
    for decoder, expected in ARCHITECTURES.items():
        assert expected in DECODER_RECIPES[decoder].architecture


def test_unknown_decoder_is_named(tokenizer: PreTrainedTokenizerFast) -> None:
    with pytest.raises(ValueError, match="`decoder` must be one of transformer, gru, .*, got 'mamba'"):
        build_pronunciation_model(tokenizer, "mamba")
