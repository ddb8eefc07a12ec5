"""The network of the package g2p_en (English words to phonemes; Park and Kim 2019) as one of our models."""

import os
import string

import numpy as np
import torch
from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from ..models.configuration_custom_seq2seq import CustomSeq2SeqConfig
from ..models.configuration_recurrent_decoder import RecurrentDecoderConfig
from ..models.configuration_recurrent_encoder import RecurrentEncoderConfig
from ..models.modeling_custom_seq2seq import CustomSeq2SeqForConditionalGeneration
from .installed_packages import package_folder
from .joint_vocabulary import END, PAD, START, UNKNOWN, JointVocabulary, character_tokenizer
from .weights import load_weights

REQUIREMENT = "g2p_en==2.1.0"
CHECKPOINT = "checkpoint20.npz"
MAX_STEPS = 20
"""Tokens after which the package stops, the end token included."""

VOWELS = ("AA", "AE", "AH", "AO", "AW", "AY", "EH", "ER", "EY", "IH", "IY", "OW", "OY", "UH", "UW")
CONSONANTS = ("B CH D DH F G HH JH K L M N NG P R S SH T TH V W Y Z ZH").split()
PHONEMES = sorted([*CONSONANTS, "UW", *(f"{vowel}{stress}" for vowel in VOWELS for stress in "012")])
"""Alphabetical, as in the package; `UW` is there with and without stress."""

VOCABULARY = JointVocabulary(
    target=[PAD, UNKNOWN, START, END, *PHONEMES],
    source=[PAD, UNKNOWN, END, *string.ascii_lowercase],
    source_unknown=UNKNOWN,
)

CELLS = {"enc": "model.encoder.layers.0.forward_cell", "dec": "model.decoder.layers.0.cell"}
ARRAYS = {
    **{
        f"{side}_{kind}_{part}": f"{cell}.{module}.{parameter}"
        for side, cell in CELLS.items()
        for kind, parameter in (("w", "weight"), ("b", "bias"))
        for part, module in (("ih", "input_proj"), ("hh", "recurrent_proj"))
    },
    "enc_emb": "model.encoder.embed_tokens.weight",  # its rows in the order of the joint vocabulary
    "dec_emb": "model.decoder.embed_tokens.weight",
    "fc_w": "lm_head.weight",
    "fc_b": "lm_head.bias",
}
"""Arrays of the package, old name to new. Its GRU has torch's gate order (r, z, n) and equations."""

_PHONEME_MARK = "\ue003"


def convert_g2p_en(folder: str | os.PathLike[str] | None = None) -> CustomSeq2SeqForConditionalGeneration:
    r"""
    The network of g2p_en 2.1.0: a GRU reads letters, a GRU writes phonemes, no attention.

    `generate()` answers as the package's `G2p.predict` does, for any batch of words padded on the right with its mask.
    What the package does before (numbers, homographs, the dictionary) is not part of the network.

    Args:
        folder (`str` or `os.PathLike`, *optional*): The unpacked package; by default the installed one, which is not
            imported.

    Returns:
        [`CustomSeq2SeqForConditionalGeneration`] in evaluation mode, in float32, without dropout (the package names
        none). Its tokenizer is [`g2p_en_tokenizer`].

    Raises:
        FileNotFoundError: The package is not installed, or the folder holds no weights.
        ValueError: Weights of another version.

    Example:

    ```python
    >>> from hf_custom_decoder.conversion.g2p_en import convert_g2p_en, g2p_en_tokenizer

    >>> model, tokenizer = convert_g2p_en(), g2p_en_tokenizer()
    >>> ids = model.generate(**tokenizer(["activationist"], return_tensors="pt"))
    >>> tokenizer.batch_decode(ids, skip_special_tokens=True)
    ['AE2 K T IH0 V EY1 SH AH0 N IH0 S T']
    ```
    """
    owner = "convert_g2p_en"
    path = package_folder("g2p_en", REQUIREMENT, folder, files=(CHECKPOINT,), owner=owner)
    with np.load(path / CHECKPOINT, allow_pickle=False) as arrays:
        tensors = {name: torch.from_numpy(arrays[name]) for name in arrays.files}
    if set(tensors) != set(ARRAYS):
        raise ValueError(
            f"{owner}: {CHECKPOINT} must hold the arrays {sorted(ARRAYS)}, got {sorted(tensors)}. Use {REQUIREMENT}."
        )
    tensors["enc_emb"] = VOCABULARY.encoder_embedding(tensors["enc_emb"], owner)
    model = CustomSeq2SeqForConditionalGeneration(_config(tensors["enc_emb"].shape[1], tensors["enc_w_hh"].shape[1]))
    load_weights(model, {ARRAYS[name]: tensor for name, tensor in tensors.items()}, owner=owner)
    return model


def _config(embedding_size: int, hidden_size: int) -> CustomSeq2SeqConfig:
    pad_token_id, end_token_id = VOCABULARY.id_of(PAD), VOCABULARY.id_of(END)
    return CustomSeq2SeqConfig(
        encoder=RecurrentEncoderConfig(
            vocab_size=len(VOCABULARY),
            cell_type="gru",
            bidirectional=False,
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            num_hidden_layers=1,
            dropout=0.0,
            pad_token_id=pad_token_id,
            eos_token_id=end_token_id,
        ),
        decoder=RecurrentDecoderConfig(
            vocab_size=VOCABULARY.num_target,
            cell_type="gru",
            attention_type="none",
            bridge_type="copy",
            embedding_size=embedding_size,
            hidden_size=hidden_size,
            num_hidden_layers=1,
            dropout=0.0,
            lm_head_bias=True,
            max_position_embeddings=1 + MAX_STEPS,  # the start token counts in `max_length`
            pad_token_id=pad_token_id,
            bos_token_id=VOCABULARY.id_of(START),
            eos_token_id=end_token_id,
        ),
        decoder_start_token_id=VOCABULARY.id_of(START),
        tie_word_embeddings=False,
    )


def g2p_en_tokenizer() -> PreTrainedTokenizerFast:
    """
    The tokenizer of both sides: "cat" becomes `c a t </s>`, "K AE1 T" becomes `K AE1 T </s>`.

    Words may be written in capitals and with accents, which are dropped as in the package, and so are characters other
    than letters, digits, blanks and `'.,?!-`. A run of letters between blanks that spells a phoneme (`K`, `TH`, `AE1`)
    is one: write words that short in lower case. Digits and punctuation are unknown to the network; write numbers out.
    Decoded phonemes are joined by blanks.
    """
    phoneme = "|".join(sorted(PHONEMES, key=len, reverse=True))
    inside = f"(?<!{_PHONEME_MARK}.)(?<!{_PHONEME_MARK}..)"  # neither the first nor the second letter of a phoneme
    steps = [
        normalizers.NFD(),  # an accent becomes a character of its own
        normalizers.Replace(Regex(r"[^\sA-Za-z0-9'.,?!\-]"), ""),
        normalizers.Replace(Regex(rf"(?<!\S)(?=(?:{phoneme})(?!\S))"), _PHONEME_MARK),
        *(normalizers.Replace(Regex(letter + inside), letter.lower()) for letter in string.ascii_uppercase),
    ]
    return character_tokenizer(
        VOCABULARY,
        steps,
        unknown=UNKNOWN,
        has_end=True,
        pattern=rf"[A-Z]+[0-2]?|[^\s{_PHONEME_MARK}]",
        joins=False,
        max_length=64,
    )
