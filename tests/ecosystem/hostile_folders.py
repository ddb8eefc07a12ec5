"""Ways to spoil a good model folder, each with the words that it must be refused with."""

import json
import os
import pickle
import struct
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

WEIGHTS = "model.safetensors"
INDEX = "model.safetensors.index.json"
MARKER = "executed"
"""A file that appears in the folder when code of the folder was run."""

LOADING = ("from_pretrained", "load_model_folder")
ONE_DOOR = ("from_pretrained",)  # the other one leads to it
Change = Callable[[Path], None]


@dataclass(frozen=True)
class Hostile:
    """How a folder is spoiled, and what each of the doors says then."""

    change: Change
    words: str
    doors: tuple[str, ...] = LOADING


class RunsCode:
    """Pickled, it makes the marker when it is read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def __reduce__(self) -> tuple[Any, tuple[Any, ...]]:
        return os.mkdir, (str(self.folder / MARKER),)


def config(**fields: Any) -> Change:
    """Fields of `config.json`; `encoder` and `decoder` are changed within."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        for name, value in fields.items():
            if name in ("encoder", "decoder") and isinstance(value, dict):
                content[name] = {**content[name], **value}
            else:
                content[name] = value
        (folder / "config.json").write_text(json.dumps(content))

    return change


def decoder(**fields: Any) -> Change:
    return config(decoder=fields)


def encoder(**fields: Any) -> Change:
    return config(encoder=fields)


def text(name: str, content: str) -> Change:
    return lambda folder: (folder / name).write_text(content) and None


def nested(name: str, depth: int = 100_000) -> Change:
    return text(name, '{"a":' * depth + "1" + "}" * depth)


def header(content: dict[str, Any] | bytes, *, size: int | None = None, data: bytes = b"") -> Change:
    """A weight file with a header of our own making, which may claim another size."""

    def change(folder: Path) -> None:
        head = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / WEIGHTS).write_bytes(struct.pack("<Q", len(head) if size is None else size) + head + data)

    return change


def tensor(shape: list[int], offsets: list[int], dtype: str = "F32") -> dict[str, Any]:
    return {"dtype": dtype, "shape": shape, "data_offsets": offsets}


def weights(edit: Callable[[dict[str, torch.Tensor]], Any]) -> Change:
    """The true weights, edited in place."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        edit(tensors)
        save_file(tensors, folder / WEIGHTS, metadata={"format": "pt"})

    return change


def index(file: str, *, elsewhere: bool = True) -> Change:
    """An index in place of the weight file, that names `file`; the weights lie there, beside the folder."""

    def change(folder: Path) -> None:
        tensors = load_file(folder / WEIGHTS)
        name = file.format(folder=folder)
        target = Path(os.path.normpath(folder / name))
        target.parent.mkdir(exist_ok=True, parents=True)
        (folder / WEIGHTS).rename(target)
        content = {"metadata": {"total_size": 1}, "weight_map": dict.fromkeys(tensors, name)}
        (folder / INDEX).write_text(json.dumps(content))

    return change


def raw_index(content: Any) -> Change:
    def change(folder: Path) -> None:
        (folder / WEIGHTS).unlink()
        (folder / INDEX).write_text(json.dumps(content))

    return change


def pickled_weights(folder: Path) -> None:
    (folder / WEIGHTS).write_bytes(pickle.dumps(RunsCode(folder)))


def torch_archive_under_a_safe_name(folder: Path) -> None:
    torch.save({"a": RunsCode(folder)}, folder / WEIGHTS)


def malicious_bin(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    torch.save({"model.encoder.embed_tokens.weight": RunsCode(folder)}, folder / "pytorch_model.bin")


def malicious_old_bin(folder: Path) -> None:
    (folder / WEIGHTS).unlink()
    (folder / "pytorch_model.bin").write_bytes(pickle.dumps(RunsCode(folder)))


def linked(name: str, target: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).symlink_to(target)

    return change


def pipe(name: str) -> Change:
    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        os.mkfifo(folder / name)

    return change


def only(prefix: str) -> Callable[[dict[str, torch.Tensor]], None]:
    def edit(tensors: dict[str, torch.Tensor]) -> None:
        for name in [name for name in tensors if not name.startswith(prefix)]:
            del tensors[name]

    return edit


def all_as(dtype: torch.dtype) -> Callable[[dict[str, torch.Tensor]], None]:
    return lambda tensors: tensors.update({name: one.to(dtype) for name, one in tensors.items()})


def chained(*changes: Change) -> Change:
    def change(folder: Path) -> None:
        for one in changes:
            one(folder)

    return change


def module_outside(folder: Path) -> None:
    """Code beside the folder, which `auto_map` points to."""
    (folder.parent / "outside.py").write_text(f"import os\nos.mkdir({str(folder / MARKER)!r})\n")


def sparse(name: str, size: int) -> Change:
    def change(folder: Path) -> None:
        with (folder / name).open("wb") as file:
            file.truncate(size)

    return change


def token_id(number: int) -> Change:
    def change(folder: Path) -> None:
        content = json.loads((folder / "tokenizer.json").read_text())
        content["added_tokens"][0]["id"] = number
        (folder / "tokenizer.json").write_text(json.dumps(content))

    return change


def recurrent(**fields: Any) -> Change:
    """A recurrent decoder in place of the Transformer decoder."""

    def change(folder: Path) -> None:
        content = json.loads((folder / "config.json").read_text())
        content["decoder"] = {"model_type": "custom_recurrent_decoder", "vocab_size": 50, "hidden_size": 32, **fields}
        (folder / "config.json").write_text(json.dumps(content))

    return change


OURS = {
    "AutoConfig": "configuration_custom_seq2seq.CustomSeq2SeqConfig",
    "AutoModelForSeq2SeqLM": "../outside.Model",
}

FOLDERS: dict[str, Hostile] = {
    # Names in the index of a checkpoint in parts.
    "index: a file beside the folder": Hostile(
        index("../stolen.safetensors"), "name (weight )?files of its own folder"
    ),
    "index: an absolute name": Hostile(
        index("{folder}.elsewhere/stolen.safetensors"), "name (weight )?files of its own folder"
    ),
    "index: out and in again": Hostile(
        index("../{folder.name}/part.safetensors"), "name (weight )?files of its own folder"
    ),
    "index: no text": Hostile(
        raw_index({"metadata": {}, "weight_map": {"a": ["b"]}}),
        "must name weight files of its own folder",
        ("load_model_folder",),
    ),
    "index: no map": Hostile(
        raw_index({"metadata": {}, "weight_map": 3}), "must hold the objects", ("load_model_folder",)
    ),
    "index: a list": Hostile(raw_index([1]), "must hold an object, it has a list", ("load_model_folder",)),
    "index: a pickle": Hostile(
        raw_index({"metadata": {}, "weight_map": {"a": "training_args.bin"}}), "No such file.*training_args.bin"
    ),
    # Headers of safetensors.
    "header: of a terabyte": Hostile(header(b"{}", size=2**40), "must hold whole safetensors files", ONE_DOOR),
    "header: of the largest number": Hostile(
        header(b"{}", size=2**64 - 1), "must hold whole safetensors files", ONE_DOOR
    ),
    "header: of a quarter gigabyte of nothing": Hostile(
        sparse(WEIGHTS, 2**28), "must hold whole safetensors files", ONE_DOOR
    ),
    "header: no JSON": Hostile(header(b"\xff\xfe{}" * 10), "must hold whole safetensors files", ONE_DOOR),
    "header: deep": Hostile(
        header(b'{"a":' * 10**5 + b"1" + b"}" * 10**5), "must hold whole safetensors files", ONE_DOOR
    ),
    "header: an end beyond the file": Hostile(
        header({"a": tensor([2**34], [0, 2**36])}, data=b"0" * 64), "must hold whole safetensors files", ONE_DOOR
    ),
    "header: two tensors over each other": Hostile(
        header({"a": tensor([4], [0, 16]), "b": tensor([4], [8, 24])}, data=b"0" * 24),
        "must hold whole safetensors files",
        ONE_DOOR,
    ),
    "header: a negative size": Hostile(
        header({"a": tensor([-4], [0, 16])}, data=b"0" * 16), "must hold whole safetensors files", ONE_DOOR
    ),
    "header: sizes whose product overflows": Hostile(
        header({"a": tensor([2**33, 2**33], [0, 16])}, data=b"0" * 16), "must hold whole safetensors files", ONE_DOOR
    ),
    "header: unlike its shape": Hostile(
        header({"a": tensor([8], [0, 16])}, data=b"0" * 16), "must hold whole safetensors files", ONE_DOOR
    ),
    "header: an unknown type": Hostile(
        header({"a": tensor([4], [0, 16], "OBJECT")}, data=b"0" * 16), "must hold whole safetensors files", ONE_DOOR
    ),
    # What is in the weights.
    "weights: a pickle under a safe name": Hostile(pickled_weights, "must hold whole safetensors files", ONE_DOOR),
    "weights: an archive of torch under a safe name": Hostile(
        torch_archive_under_a_safe_name, "must hold whole safetensors files", ONE_DOOR
    ),
    "weights: a .bin that runs code": Hostile(malicious_bin, "is a pickle that would run code.*it was not run"),
    "weights: an old .bin that runs code": Hostile(
        malicious_old_bin, "is a pickle that would run code.*it was not run"
    ),
    "weights: another shape": Hostile(
        weights(lambda t: t.update({"model.encoder.layers.0.mlp.fc1.weight": torch.zeros(3)})),
        r"must have the shape .* by the config, the file has \(3,\)",
        ONE_DOOR,
    ),
    "weights: integers": Hostile(weights(all_as(torch.int64)), "must hold floating-point numbers", ONE_DOOR),
    "weights: complex numbers": Hostile(weights(all_as(torch.complex64)), "unknown dtype C64", ONE_DOOR),
    "weights: truth values": Hostile(weights(all_as(torch.bool)), "must hold floating-point numbers", ONE_DOOR),
    "weights: one part only": Hostile(weights(only("model.encoder.")), "must hold every weight", ONE_DOOR),
    "weights: a link to a device": Hostile(
        linked(WEIGHTS, "/dev/zero"), "no file named model.safetensors|model.safetensors is no regular file"
    ),
    "weights: a pipe": Hostile(pipe(WEIGHTS), "no file named model.safetensors|model.safetensors is no regular file"),
    "weights: a folder": Hostile(
        lambda f: (f / WEIGHTS).unlink() or (f / WEIGHTS).mkdir(), "no file named model.safetensors", ONE_DOOR
    ),
    # Sizes in the config.
    "config: a million layers": Hostile(decoder(num_hidden_layers=10**6), "`num_hidden_layers` must be at most 1,024"),
    "config: a million encoder layers": Hostile(
        encoder(num_hidden_layers=10**6), "`num_hidden_layers` must be at most 1,024"
    ),
    "config: a thousand million layers": Hostile(
        decoder(num_hidden_layers=10**9), "`num_hidden_layers` must be at most 1,024"
    ),
    "config: a million layers of BERT": Hostile(
        config(encoder={"model_type": "bert", "num_hidden_layers": 10**6, "vocab_size": 50, "hidden_size": 32}),
        "`num_hidden_layers` must be at most 1,024",
    ),
    "config: huge width": Hostile(
        config(encoder={"hidden_size": 2**40}, decoder={"hidden_size": 2**40}),
        "`hidden_size` must be at most 1,048,576",
    ),
    "config: wide": Hostile(
        config(encoder={"hidden_size": 2**18}, decoder={"hidden_size": 2**18}), "They do not belong together", ONE_DOOR
    ),
    "config: wide BERT": Hostile(
        config(
            encoder={
                "model_type": "bert",
                "num_hidden_layers": 2,
                "vocab_size": 10**8,
                "hidden_size": 2**16,
                "num_attention_heads": 4,
            }
        ),
        "They do not belong together",
        ONE_DOOR,
    ),
    "config: huge vocabulary": Hostile(decoder(vocab_size=10**12), "`vocab_size` must be at most"),
    "config: large vocabulary": Hostile(
        decoder(vocab_size=10**8), "describes a model of [0-9,]+ numbers, the files hold 41,920", ONE_DOOR
    ),
    "config: huge feed-forward block": Hostile(
        decoder(intermediate_size=10**10), "`intermediate_size` must be at most"
    ),
    "config: huge number of positions": Hostile(
        decoder(max_position_embeddings=10**12), "`max_position_embeddings` must be at most"
    ),
    "config: huge learned positions": Hostile(
        decoder(max_position_embeddings=10**9, position_type="learned"), "They do not belong together", ONE_DOOR
    ),
    "config: huge heads": Hostile(decoder(head_dim=10**10), "`head_dim` must be at most"),
    "config: huge cells": Hostile(recurrent(num_hidden_layers=10**8), "`num_hidden_layers` must be at most"),
    "config: huge readout": Hostile(recurrent(readout_sizes=[10**9] * 9), r"`readout_sizes\[0\]` must be at most"),
    "config: a negative size": Hostile(decoder(hidden_size=-32), "at least 1, got -32"),
    "config: zero": Hostile(decoder(num_attention_heads=0), "at least 1, got 0"),
    "config: a fraction": Hostile(decoder(num_hidden_layers=2.5), "whole number of at least 1, got 2.5"),
    "config: text for a number": Hostile(decoder(vocab_size="50"), "whole number of at least 1, got '50'"),
    "config: a list for a name": Hostile(decoder(position_type=["rotary"]), "`position_type` must be one of"),
    "config: a dict for a name": Hostile(decoder(hidden_act={"gelu": 1}), "`hidden_act` must be one of"),
    "config: NaN": Hostile(decoder(norm_eps=float("nan")), "`norm_eps` must be a number above 0 and finite, got nan"),
    "config: infinity": Hostile(
        decoder(initializer_range=float("inf")), "`initializer_range` must be a number above 0 and finite, got inf"
    ),
    "config: NaN as probability": Hostile(decoder(dropout=float("nan")), "`dropout` must be a probability"),
    "config: NaN as smoothing": Hostile(
        config(label_smoothing=float("nan")), "`label_smoothing` must be a probability"
    ),
    "config: infinite angles": Hostile(
        decoder(position_type="rotary", rope_parameters={"rope_type": "default", "rope_theta": float("inf")}),
        r"`rope_parameters\['rope_theta'\]` must be finite",
    ),
    "config: NaN angles": Hostile(
        decoder(
            position_type="rotary", rope_parameters={"rope_type": "linear", "rope_theta": 1e4, "factor": float("nan")}
        ),
        r"`rope_parameters\['factor'\]` must be finite",
    ),
    "config: text as angles": Hostile(
        decoder(position_type="rotary", rope_parameters="big"), "`rope_parameters` must be a dict or None"
    ),
    "config: a part that is a number": Hostile(config(decoder=3), "must be a config, a dict of one, or None"),
    "config: a part of no type": Hostile(encoder(model_type=["bert"]), r"`encoder\['model_type'\]` must be a name"),
    "config: a list": Hostile(  # `from_pretrained`: the words of transformers, those of 5.17 last
        text("config.json", "[1, 2]"), "Unrecognized model|must hold an object|list indices must be integers"
    ),
    "config: deep": Hostile(nested("config.json"), "nested deeper than 64", ("load_model_folder",)),
    "config: no JSON": Hostile(text("config.json", "{" * 1000), "not a valid JSON|is no JSON"),
    "config: a pipe": Hostile(pipe("config.json"), "Unrecognized model|config.json is no regular file"),
    "config: a link to a device": Hostile(
        linked("config.json", "/dev/zero"), "Unrecognized model|config.json is no regular file"
    ),
    "config: a giant": Hostile(
        sparse("config.json", 2**33), "config.json is larger than 1 MiB", ("load_model_folder",)
    ),
    "config: code outside of the folder": Hostile(
        chained(module_outside, config(auto_map=OURS)), "no class of a file in this folder", ("push",)
    ),
    "config: code of a decoder outside of the folder": Hostile(
        chained(module_outside, decoder(model_type="evil", auto_map={"AutoModel": "../outside.Model"})),
        "was not run",
        ("from_pretrained", "trusting"),
    ),
    "config: code of a decoder in another repository": Hostile(
        decoder(model_type="evil", auto_map={"AutoModel": "someone/evil--outside.Model"}),
        "was not run",
        ("from_pretrained", "trusting"),
    ),
    "config: code map that is text": Hostile(
        config(auto_map="AutoModelForSeq2SeqLM"), "must be an object of", ("push",)
    ),
    "config: code in another repository": Hostile(
        config(auto_map={"AutoModelForSeq2SeqLM": "someone/evil--outside.Model"}),
        "no class of a file in this folder",
        ("push",),
    ),
    # Tokenizers.
    "tokenizer: deep": Hostile(nested("tokenizer.json"), "nested deeper than 64", ("load_model_folder",)),
    "tokenizer: no JSON": Hostile(text("tokenizer.json", "x" * 100), "is no JSON", ("load_model_folder",)),
    "tokenizer: a list": Hostile(text("tokenizer.json", "[]"), "must hold an object", ("load_model_folder",)),
    "tokenizer config: deep": Hostile(nested("tokenizer_config.json"), "nested deeper", ("load_model_folder",)),
    "tokenizer config: a list": Hostile(
        text("tokenizer_config.json", "[]"), "must hold an object", ("load_model_folder",)
    ),
    "tokenizer: a pipe": Hostile(pipe("tokenizer.json"), "no regular file", ("load_model_folder",)),
    "tokenizer: a link to a device": Hostile(
        linked("tokenizer.json", "/dev/zero"), "no regular file", ("load_model_folder",)
    ),
    "tokenizer: a giant": Hostile(sparse("tokenizer.json", 2**33), "larger than 256 MiB", ("load_model_folder",)),
    "tokenizer: code": Hostile(
        text("tokenizer_config.json", '{"tokenizer_class": "T", "auto_map": {"AutoTokenizer": ["outside.T", null]}}'),
        "contains custom code",
        ("load_model_folder",),
    ),
    "tokenizer: an id beyond all bounds": Hostile(
        token_id(99999999999), "an added token with the id 99999999999", ("load_model_folder",)
    ),
    "generation config: a list": Hostile(
        text("generation_config.json", "[]"), "must hold an object", ("load_model_folder",)
    ),
    "generation config: deep": Hostile(
        nested("generation_config.json"), "nested deeper than 64", ("load_model_folder",)
    ),
}
