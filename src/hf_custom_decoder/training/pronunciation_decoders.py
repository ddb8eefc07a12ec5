"""The decoders that the quickstart can train, each with the encoder it goes with, its size and its learning rate.

All have 1.1 to 1.3 million parameters. The sizes were chosen by the error rate that training reaches in a few minutes
on two CPU cores, not by what a larger budget would allow: a wider model makes fewer steps and ends worse.
"""

from dataclasses import dataclass
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..data.pronunciation_tokenizer import MAX_LENGTH
from ..models.configuration_custom_seq2seq import CustomSeq2SeqConfig
from ..models.configuration_recurrent_decoder import RecurrentDecoderConfig
from ..models.configuration_recurrent_encoder import RecurrentEncoderConfig
from ..models.configuration_transformer_decoder import TransformerDecoderConfig
from ..models.configuration_transformer_encoder import TransformerEncoderConfig
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration

ENCODER_LAYERS = 3
ATTENTION_HEADS = 4
RECURRENT_ENCODER_LAYERS = 2
RECURRENT_DECODER_LAYERS = 1


@dataclass(frozen=True)
class TransformerRecipe:
    """A Transformer encoder, and a decoder with one mixer a layer.

    Attributes:
        title (`str`): What the decoder is called in a heading.
        peak_learning_rate (`float`): Of AdamW, after the warm-up.
        hidden_size (`int`): Width of both sides.
        mixer_types (`tuple[str, ...]`): One name a decoder layer, as in [`TransformerDecoderConfig`].
    """

    title: str
    peak_learning_rate: float
    hidden_size: int
    mixer_types: tuple[str, ...]

    @property
    def architecture(self) -> str:
        """`str`: The whole model in words."""
        names = {"full_attention": "self-attention", "ssru": "an SSRU", "mingru": "a minGRU"}
        mixers = list(dict.fromkeys(names[name] for name in self.mixer_types))
        return (
            f"A Transformer encoder of {ENCODER_LAYERS} layers and a decoder of {len(self.mixer_types)}, each with "
            f"cross-attention, whose layers mix what is written by {' and '.join(mixers)}"
            f"{' in turn' if len(mixers) > 1 else ''}"
        )

    def build_config(self, tokenizer: PreTrainedTokenizerBase) -> CustomSeq2SeqConfig:
        """Returns the config of the whole model for the vocabulary of `tokenizer`."""
        sides: dict[str, Any] = {
            **_vocabulary(tokenizer),
            "hidden_size": self.hidden_size,
            "num_attention_heads": ATTENTION_HEADS,
            "intermediate_size": 4 * self.hidden_size,
            "hidden_act": "gelu",
            "norm_position": "pre",
            "norm_type": "rmsnorm",
            "position_type": "sinusoidal",
            "scale_embeddings": True,
            "initializer_range": self.hidden_size**-0.5,
            "dropout": 0.0,
            "max_position_embeddings": MAX_LENGTH,
        }
        return CustomSeq2SeqConfig(
            encoder=TransformerEncoderConfig(num_hidden_layers=ENCODER_LAYERS, **sides),
            decoder=TransformerDecoderConfig(
                num_hidden_layers=len(self.mixer_types), mixer_types=list(self.mixer_types), **sides
            ),
            decoder_start_token_id=tokenizer.bos_token_id,
            tie_word_embeddings=True,
        )


@dataclass(frozen=True)
class RecurrentRecipe:
    """A bidirectional recurrent encoder, and a recurrent decoder of the same cells with attention.

    Without input feeding, so that training runs through fused kernels.

    Attributes:
        title (`str`): What the decoder is called in a heading.
        peak_learning_rate (`float`): Of AdamW, after the warm-up.
        hidden_size (`int`): Width of both sides; each direction of the encoder has half of it.
        cell_type (`str`): As in [`RecurrentDecoderConfig`].
        attention_type (`str`): The same.
    """

    title: str
    peak_learning_rate: float
    hidden_size: int
    cell_type: str
    attention_type: str

    @property
    def architecture(self) -> str:
        """`str`: The whole model in words."""
        return (
            f"A bidirectional {self.title} encoder of {RECURRENT_ENCODER_LAYERS} layers, and a decoder of "
            f"{RECURRENT_DECODER_LAYERS} {self.title} layer with {self.attention_type} attention over the source"
        )

    def build_config(self, tokenizer: PreTrainedTokenizerBase) -> CustomSeq2SeqConfig:
        """Returns the config of the whole model for the vocabulary of `tokenizer`."""
        sides: dict[str, Any] = {
            **_vocabulary(tokenizer),
            "hidden_size": self.hidden_size,
            "embedding_size": self.hidden_size // 2,
            "cell_type": self.cell_type,
            "initializer_range": self.hidden_size**-0.5,
            "dropout": 0.0,
            "max_position_embeddings": MAX_LENGTH,
        }
        return CustomSeq2SeqConfig(
            encoder=RecurrentEncoderConfig(num_hidden_layers=RECURRENT_ENCODER_LAYERS, bidirectional=True, **sides),
            decoder=RecurrentDecoderConfig(
                num_hidden_layers=RECURRENT_DECODER_LAYERS,
                attention_type=self.attention_type,
                num_attention_heads=ATTENTION_HEADS,
                **sides,
            ),
            decoder_start_token_id=tokenizer.bos_token_id,
            tie_word_embeddings=False,
        )


DECODER_RECIPES: dict[str, TransformerRecipe | RecurrentRecipe] = {
    "transformer": TransformerRecipe("Transformer", 2e-3, 128, ("full_attention", "full_attention")),
    "gru": RecurrentRecipe("GRU", 4e-3, 272, "gru", "dot"),
    "lstm": RecurrentRecipe("LSTM", 4e-3, 240, "lstm", "dot"),
    "rnn": RecurrentRecipe("RNN", 2e-3, 384, "rnn", "dot"),
    "ssru": TransformerRecipe("SSRU", 2e-3, 128, ("ssru", "ssru")),
    "mingru": TransformerRecipe("minGRU", 2e-3, 128, ("mingru", "mingru")),
    "hybrid": TransformerRecipe("hybrid minGRU and Transformer", 2e-3, 128, ("mingru", "full_attention")),
}
"""By name, in the order of a comparison.

Widths differ because weights should not: an LSTM has four matrices where a GRU has three and an RNN one. Of the
attention types, dot gave a GRU the lowest loss on development words after equally many steps. Gated cells learn faster
at twice the Transformer's learning rate; the RNN, without gates, learns worse there.
"""


def build_pronunciation_model(
    tokenizer: PreTrainedTokenizerBase, decoder: str = "transformer"
) -> CustomSeq2SeqForConditionalGeneration:
    """Builds a model of the quickstart with fresh weights, drawn from torch's global random generator.

    Args:
        tokenizer ([`~transformers.PreTrainedTokenizerBase`]): From [`build_pronunciation_tokenizer`].
        decoder (`str`, *optional*, defaults to "transformer"): One of [`DECODER_RECIPES`].

    Returns:
        [`CustomSeq2SeqForConditionalGeneration`]: On the CPU, in training mode.

    Raises:
        ValueError: If there is no such decoder.
    """
    if decoder not in DECODER_RECIPES:
        raise ValueError(f"`decoder` must be one of {', '.join(DECODER_RECIPES)}, got {decoder!r}.")
    return CustomSeq2SeqForConditionalGeneration(DECODER_RECIPES[decoder].build_config(tokenizer)).train()


def _vocabulary(tokenizer: PreTrainedTokenizerBase) -> dict[str, Any]:
    return {
        "vocab_size": len(tokenizer),
        "pad_token_id": tokenizer.pad_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
    }
