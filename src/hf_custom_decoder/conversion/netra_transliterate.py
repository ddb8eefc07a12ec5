"""The network of the package netra-transliterate (Latin letters to Khmer script; Nhem 2025) as one of our models."""

import io
import json
import os
import pickle
import zipfile
from collections import OrderedDict, defaultdict
from pathlib import Path
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
    UNKNOWN,
    JointVocabulary,
    character_tokenizer,
    cut_filled_source,
    fill_behind_source,
)
from .weights import load_weights

REQUIREMENT = "netra-transliterate==1.0.1"
PACKAGE = "khmer_transliterator"
MODEL, ASSETS = "weights/bi_gru_attention_khmer_transliterator.keras", "weights/gru_transliteration_assets.pkl"
MAX_LENGTH = 32
"""Tokens of an output at most, start token included."""

KHMER = "\u1780-\u17ff"

EXPECTED_LAYERS: dict[str, dict[str, tuple[Any, ...]]] = {
    "Embedding": {"mask_zero": (False,)},
    "GRU": {
        "activation": ("tanh",),
        "recurrent_activation": ("sigmoid",),
        "use_bias": (True,),
        "reset_after": (True,),
    },
    "Bidirectional": {"merge_mode": ("concat",)},
    "Dense": {"activation": ("linear", "softmax"), "use_bias": (True,)},
    "AdditiveAttention": {"use_scale": (True,)},
}
"""What the conversion takes for granted of each Keras layer."""

CELLS = {
    "bidirectional/forward_layer/cell": "model.encoder.layers.0.forward_cell",
    "bidirectional/backward_layer/cell": "model.encoder.layers.0.backward_cell",
    "gru/cell": "model.decoder.layers.0.cell",
}
EMBEDDINGS = {"embedding": "model.encoder.embed_tokens", "embedding_1": "model.decoder.embed_tokens"}
LINEAR = {"time_distributed/layer": "model.bridge", "dense": "lm_head"}
"""Layers of the Keras model, old name to new."""


def convert_netra(folder: str | os.PathLike[str] | None = None) -> CustomSeq2SeqForConditionalGeneration:
    r"""
    The network of netra-transliterate 1.0.1: a GRU in two directions, a projection, a GRU with additive attention.

    Greedy `generate()` answers as the package does with `beam_width=1`. Its own search of several beams differs from
    that of transformers: it stops after so many finished beams, however improbable, and may return an unfinished one.
    Its encoder and its attention read the padding behind a word, up to 25 letters: [`netra_tokenizer`] writes it as
    ordinary tokens, which no mask hides.

    Args:
        folder (`str` or `os.PathLike`, *optional*): The unpacked package `khmer_transliterator`; by default the
            installed one. Neither it nor TensorFlow is imported.

    Returns:
        [`CustomSeq2SeqForConditionalGeneration`] in evaluation mode, in float32. Keras' attention has no projections;
        ours hold the identity. Dropout inside the recurrence, which Keras used in training, is not there.

    Raises:
        ImportError: h5py is not installed.
        FileNotFoundError: The package is not installed, or the folder holds no weights.
        ValueError: A network of another version.

    Example:

    ```python
    >>> from hf_custom_decoder.conversion.netra_transliterate import convert_netra, netra_tokenizer

    >>> model, tokenizer = convert_netra(), netra_tokenizer()
    >>> ids = model.generate(**tokenizer(["brodae"], return_tensors="pt"))
    >>> tokenizer.batch_decode(ids, skip_special_tokens=True)
    ['ប្រដែ']
    ```
    """
    owner = "convert_netra"
    path = _package(folder, owner)
    with zipfile.ZipFile(path / MODEL) as archive:
        _check_layers(json.loads(archive.read("config.json")), owner)
        arrays = _read_arrays(archive.read("model.weights.h5"))
    vocabulary, _ = _vocabulary(path, owner)
    weights = _weights(arrays, vocabulary, owner)
    model = CustomSeq2SeqForConditionalGeneration(_config(vocabulary, weights))
    load_weights(model, weights, owner=owner)
    return model


def netra_tokenizer(folder: str | os.PathLike[str] | None = None) -> PreTrainedTokenizerFast:
    """
    The tokenizer of both sides: a word in Latin letters becomes its lower-case letters, the last 25 of them, and
    `<fill>` up to 25 tokens, all of them read (the attention mask is 1); a Khmer word becomes its characters and
    `</s>`.

    All other characters are dropped, as in the package. A text is taken for Khmer if it has Khmer characters and no
    Latin letters. An empty text stays empty.

    Args:
        folder (`str` or `os.PathLike`, *optional*): As in [`convert_netra`].
    """
    vocabulary, length = _vocabulary(_package(folder, "netra_tokenizer"), "netra_tokenizer")
    is_khmer = rf"(?=(?m:.)*[{KHMER}])[^a-z]*"
    steps = [
        normalizers.Lowercase(),
        *fill_behind_source(length, end_mark="", target=is_khmer),
        normalizers.Replace(Regex(f"[^a-z{KHMER}{FILL_MARK}{END_MARK}]"), ""),
        normalizers.Replace(Regex(f"[{KHMER}](?=.*{FILL_MARK})"), ""),  # inside a text in Latin letters
        normalizers.Replace(Regex(rf"\A[a-z]+(?=[a-z]{{{length}}}{FILL_MARK})"), ""),
        cut_filled_source(length),
    ]
    return character_tokenizer(vocabulary, steps, unknown=UNKNOWN, pattern=".", max_length=MAX_LENGTH)


def _package(folder: str | os.PathLike[str] | None, owner: str) -> Path:
    return package_folder(PACKAGE, REQUIREMENT, folder, files=(MODEL, ASSETS), owner=owner)


def _check_layers(model: dict[str, Any], owner: str) -> None:
    """Raise unless every layer is what the conversion takes it for."""
    pending = [model]
    while pending:
        layer = pending.pop()
        config = layer["config"]
        pending.extend(config.get("layers", []))
        pending.extend(config[name] for name in ("layer", "backward_layer") if name in config)
        for name, allowed in EXPECTED_LAYERS.get(layer["class_name"], {}).items():
            if config.get(name) not in allowed:
                raise ValueError(
                    f"{owner}: `{name}` of the layer {config['name']!r} must be {' or '.join(map(repr, allowed))}, "
                    f"got {config.get(name)!r}. Use {REQUIREMENT}."
                )


def _read_arrays(content: bytes) -> dict[str, torch.Tensor]:
    """Arrays of a Keras weight file by layer and number, without the optimizer's."""
    try:
        import h5py
    except ImportError as error:
        raise ImportError(
            "convert_netra: h5py is needed to read Keras weights. Run `pip install hf-custom-decoder[conversion]`."
        ) from error
    arrays: dict[str, torch.Tensor] = {}

    def note(name: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            arrays[name.replace("/vars/", "/")] = torch.from_numpy(item[()])

    with h5py.File(io.BytesIO(content), "r") as file:
        file["layers"].visititems(note)
    return arrays


def _weights(arrays: dict[str, torch.Tensor], vocabulary: JointVocabulary, owner: str) -> dict[str, torch.Tensor]:
    """Keras' arrays under our names; Keras stores a matrix as (in, out), torch as (out, in)."""
    expected = {f"{cell}/{number}" for cell in CELLS for number in range(3)}
    expected |= {f"{layer}/{number}" for layer in LINEAR for number in range(2)}
    expected |= {f"{layer}/0" for layer in (*EMBEDDINGS, "additive_attention")}
    if set(arrays) != expected:
        raise ValueError(
            f"{owner}: {MODEL} must hold the arrays {sorted(expected)}, got {sorted(arrays)}. Use {REQUIREMENT}."
        )
    weights = {}
    for old, new in CELLS.items():
        kernel, recurrent, biases = (arrays[f"{old}/{number}"] for number in range(3))
        weights[f"{new}.input_proj.weight"] = _reset_first(kernel.T)
        weights[f"{new}.recurrent_proj.weight"] = _reset_first(recurrent.T)
        weights[f"{new}.input_proj.bias"], weights[f"{new}.recurrent_proj.bias"] = map(_reset_first, biases)
    for old, new in EMBEDDINGS.items():
        weights[f"{new}.weight"] = arrays[f"{old}/0"]
    for old, new in LINEAR.items():
        weights[f"{new}.weight"], weights[f"{new}.bias"] = arrays[f"{old}/0"].T, arrays[f"{old}/1"]
    scale = arrays["additive_attention/0"]  # score = sum(scale * tanh(query + key))
    attention = "model.decoder.attention"
    weights[f"{attention}.q_proj.weight"] = weights[f"{attention}.k_proj.weight"] = torch.eye(len(scale))
    weights[f"{attention}.k_proj.bias"] = torch.zeros(len(scale))
    weights[f"{attention}.score_proj.weight"] = scale[None]
    name = "model.encoder.embed_tokens.weight"
    weights[name] = vocabulary.encoder_embedding(weights[name], owner)
    return weights


def _reset_first(gates: torch.Tensor) -> torch.Tensor:
    """Keras' gate order (z, r, h) to torch's (r, z, n), along the first dimension."""
    update, reset, new = gates.chunk(3)
    return torch.cat([reset, update, new])


def _config(vocabulary: JointVocabulary, weights: dict[str, torch.Tensor]) -> CustomSeq2SeqConfig:
    embedding_size = weights["model.decoder.embed_tokens.weight"].shape[1]
    units = weights["model.bridge.weight"].shape[0]
    shared: dict[str, Any] = {
        "cell_type": "gru",
        "embedding_size": embedding_size,
        "num_hidden_layers": 1,
        "dropout": 0.3,
        "max_position_embeddings": MAX_LENGTH,
        "pad_token_id": vocabulary.id_of(PAD),
        "bos_token_id": vocabulary.id_of(START),
        "eos_token_id": vocabulary.id_of(END),
    }
    return CustomSeq2SeqConfig(
        encoder=RecurrentEncoderConfig(vocab_size=len(vocabulary), hidden_size=2 * units, **shared),
        decoder=RecurrentDecoderConfig(
            vocab_size=vocabulary.num_target,
            hidden_size=units,
            attention_type="additive",
            attentional_layer=False,
            bridge_type="zeros",
            lm_head_bias=True,
            **shared,
        ),
        decoder_start_token_id=vocabulary.id_of(START),
        tie_word_embeddings=False,
    )


class _Attributes:
    """Takes the place of the Keras tokenizer when the pickle is read: holds what was stored, runs nothing."""


class _PlainUnpickler(pickle.Unpickler):
    """Builds containers, numbers and strings; any other class in the file is refused."""

    allowed = {
        ("collections", "OrderedDict"): OrderedDict,
        ("collections", "defaultdict"): defaultdict,
        ("builtins", "int"): int,
        ("keras.src.legacy.preprocessing.text", "Tokenizer"): _Attributes,
    }

    def find_class(self, module: str, name: str) -> Any:
        """One of `allowed`."""
        if (module, name) not in self.allowed:
            raise ValueError(
                f"convert_netra: {ASSETS} must hold containers, numbers and strings only, got {module}.{name}. Use "
                f"{REQUIREMENT}."
            )
        return self.allowed[module, name]


def _vocabulary(path: Path, owner: str) -> tuple[JointVocabulary, int]:
    """Both sides' tokens, and the length to which a source is filled."""
    with open(path / ASSETS, "rb") as file:
        assets = _PlainUnpickler(file).load()
    names = {"\t": START, "\n": END}
    sides: list[list[str]] = []
    for key, first in (("khm_tokenizer", PAD), ("eng_tokenizer", FILL)):
        ids = {names.get(token, token): token_id for token, token_id in assets[key].word_index.items()}
        tokens = [first, *sorted(ids, key=lambda token: ids[token])]
        if [ids[token] for token in tokens[1:]] != list(range(1, len(tokens))) or UNKNOWN not in ids:
            raise ValueError(f"{owner}: `{key}` must number its tokens from 1, got {ids}. Use {REQUIREMENT}.")
        sides.append(tokens)
    target, source = sides
    return JointVocabulary(target, source, source_unknown=UNKNOWN), int(assets["max_eng_len"])
