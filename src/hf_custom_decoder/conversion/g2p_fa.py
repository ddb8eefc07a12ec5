"""The network of the package g2p-fa (Persian words to IPA; Dehghani 2022) as one of our models."""

import os
from typing import Any

import torch
from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from ..models.configuration_custom_seq2seq import CustomSeq2SeqConfig
from ..models.configuration_recurrent_decoder import RecurrentDecoderConfig
from ..models.configuration_recurrent_encoder import RecurrentEncoderConfig
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration
from .installed_packages import package_folder
from .joint_vocabulary import (
    END,
    END_MARK,
    FILL,
    FILL_MARK,
    PAD,
    START,
    START_MARK,
    JointVocabulary,
    character_tokenizer,
    cut_filled_source,
    fill_behind_source,
)
from .torch_recurrent import torch_recurrent_weights
from .weights import load_weights

REQUIREMENT = "g2p-fa==1.1.0"
CHECKPOINT = "data/weights"
LENGTH = 30
"""Tokens of every source and, at most, of an output: start and end token included."""

LETTERS = "ءآئابتثجحخدذرزسشصضطظعغفقلمنهوُِپچژکگی"
IPA = "bdefhijklmnopqstuvxzæɒɡɾʃʒʔʰː"

UNUSED = "<unused>"
"""The last row of both tables of the package, which no letter has."""

VOCABULARY = JointVocabulary(
    target=[PAD, START, END, *IPA, UNUSED],
    source=[FILL, START, END, *LETTERS, UNUSED],
    source_unknown=END,  # the package gives letters that it does not know the id of the end token
)

MODULES = {
    "encoder.embedding": "model.encoder.embed_tokens",  # its rows in the order of the joint vocabulary
    "decoder.embedding": "model.decoder.embed_tokens",
    "decoder.fc_out": "lm_head",
}
"""Modules of the package, old name to new; the two `rnn` are `nn.LSTM`."""


def convert_g2p_fa(folder: str | os.PathLike[str] | None = None) -> CustomSeq2SeqForConditionalGeneration:
    r"""
    The network of g2p-fa 1.1.0: two LSTM layers read letters, two LSTM layers write IPA, no attention.

    `generate()` answers as the package does in evaluation mode. (It never leaves training mode by itself, so its own
    answers vary with its dropout.) Its encoder reads the padding behind a word, up to 30 tokens, as if it were text:
    [`g2p_fa_tokenizer`] writes it as ordinary tokens, which no mask hides. Leave that out and other sounds come out.

    Args:
        folder (`str` or `os.PathLike`, *optional*): The unpacked package; by default the installed one, which is not
            imported.

    Returns:
        [`CustomSeq2SeqForConditionalGeneration`] in evaluation mode, in float32. In further training its dropout acts
        on the output of the last layers too, the package's does not.

    Raises:
        FileNotFoundError: The package is not installed, or the folder holds no weights.
        ValueError: Weights of another version.

    Example:

    ```python
    >>> from hf_custom_decoder.conversion.g2p_fa import convert_g2p_fa, g2p_fa_tokenizer

    >>> model, tokenizer = convert_g2p_fa(), g2p_fa_tokenizer()
    >>> ids = model.generate(**tokenizer(["سلام"], return_tensors="pt"))
    >>> tokenizer.batch_decode(ids, skip_special_tokens=True)
    ['sælɒːm']
    ```
    """
    owner = "convert_g2p_fa"
    path = package_folder("g2p_fa", REQUIREMENT, folder, files=(CHECKPOINT,), owner=owner)
    tensors: dict[str, torch.Tensor] = torch.load(path / CHECKPOINT, map_location="cpu", weights_only=True)
    weights = _weights(tensors, owner)
    model = CustomSeq2SeqForConditionalGeneration(_config())
    load_weights(model, weights, owner=owner)
    return model


def _weights(tensors: dict[str, torch.Tensor], owner: str) -> dict[str, torch.Tensor]:
    weights = {}
    cells: dict[str, dict[str, torch.Tensor]] = {"encoder": {}, "decoder": {}}
    for name, tensor in tensors.items():
        module, _, parameter = name.rpartition(".")
        side, _, rest = module.partition(".")
        if side in cells and rest == "rnn":
            cells[side][parameter] = tensor
        elif module in MODULES:
            weights[f"{MODULES[module]}.{parameter}"] = tensor
        else:
            raise ValueError(
                f"{owner}: {CHECKPOINT} must hold embeddings, LSTMs and one projection, got {name!r}. Use "
                f"{REQUIREMENT}."
            )
    for side, named in cells.items():
        translated = torch_recurrent_weights(named, "encoder" if side == "encoder" else "decoder")
        weights.update({f"model.{side}.{name}": tensor for name, tensor in translated.items()})
    name = "model.encoder.embed_tokens.weight"
    if name in weights:
        weights[name] = VOCABULARY.encoder_embedding(weights[name], owner)
    return weights


def _config() -> CustomSeq2SeqConfig:
    shared: dict[str, Any] = {
        "cell_type": "lstm",
        "embedding_size": 40,
        "hidden_size": 256,
        "num_hidden_layers": 2,
        "dropout": 0.2,
        "max_position_embeddings": LENGTH,
        "pad_token_id": VOCABULARY.id_of(PAD),
        "bos_token_id": VOCABULARY.id_of(START),
        "eos_token_id": VOCABULARY.id_of(END),
    }
    return CustomSeq2SeqConfig(
        encoder=RecurrentEncoderConfig(vocab_size=len(VOCABULARY), bidirectional=False, **shared),
        decoder=RecurrentDecoderConfig(
            vocab_size=VOCABULARY.num_target, attention_type="none", bridge_type="copy", lm_head_bias=True, **shared
        ),
        decoder_start_token_id=VOCABULARY.id_of(START),
        tie_word_embeddings=False,
    )


def g2p_fa_tokenizer() -> PreTrainedTokenizerFast:
    """
    The tokenizer of both sides: a Persian word of up to 28 letters becomes `<s>`, its letters, `</s>` and `<fill>` up
    to 30 tokens, all of them read (the attention mask is 1); an IPA word becomes its letters and `</s>`.

    A text of IPA letters alone is taken for IPA. Letters that the package does not know read as `</s>`, as there; so
    do IPA letters inside a Persian word. Longer words, at which the package fails, are cut. An empty text stays empty.
    """
    steps = [
        *fill_behind_source(LENGTH, end_mark=END_MARK, target=f"[{IPA}]+"),
        normalizers.Replace(Regex(rf"\A(?=(?m:.*){FILL_MARK}\z)"), START_MARK),
        cut_filled_source(LENGTH),
    ]
    return character_tokenizer(VOCABULARY, steps, unknown=END, pattern="(?m:.)", max_length=LENGTH)
