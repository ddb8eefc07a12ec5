"""
Moves checkpoints of the Trainer between DistributedDataParallel (or one process) and FSDP2, optimizer included.

The Trainer refuses those of the other kind. Both hold the same numbers: DistributedDataParallel's optimizer counts its
parameters, FSDP's names them; FSDP's weights lie in a folder of shards or in one file of their own.
"""

import json
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSeq2SeqLM,
    GenerationConfig,
    PreTrainedModel,
    Trainer,
)

from ..atomic_files import write_json
from .sharded_files import read_sharded, write_sharded

LAYOUTS = ("ddp", "fsdp", "fsdp-full")
"""One process or DistributedDataParallel; FSDP2 with `SHARDED_STATE_DICT`; FSDP2 with `FULL_STATE_DICT`."""

_WEIGHTS = {"ddp": "model.safetensors", "fsdp": "pytorch_model_fsdp_0", "fsdp-full": "pytorch_model_fsdp.bin"}
_OPTIMIZER = {"ddp": "optimizer.pt", "fsdp": "optimizer_0", "fsdp-full": "optimizer.bin"}
_INDEX = "model.safetensors.index.json"

Group = dict[str, Any]


def move_checkpoint(
    folder: str | Path,
    output: str | Path,
    *,
    layout: str,
    model: str | Path | None = None,
    trust_remote_code: bool = False,
) -> None:
    """Writes a checkpoint of the Trainer in another layout; `resume_from_checkpoint` then goes on from it there.

    Weights, optimizer, schedule, step and random states move; the random state of a process that the new layout has
    and the old one had not starts anew, as the Trainer says when it happens. The path of the best checkpoint so far is
    forgotten: it has the old layout. FSDP1, adapters of peft and runs with frozen weights are not moved.

    Args:
        folder (`str` or `Path`): A `checkpoint-N` of the Trainer.
        output (`str` or `Path`): A folder that does not exist yet. It appears complete or not at all.
        layout (`str`): One of [`LAYOUTS`].
        model (`str` or `Path`, *optional*): A folder or Hub name with the model's config, for sharded checkpoints,
            which hold none.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code that travels with the config may run.

    Raises:
        ValueError: If the layout is unknown or the checkpoint's own, weights or optimizer do not fit the model, or a
            file is not what its name says.
        FileNotFoundError: If `folder` is no such checkpoint, or there is no config.
        FileExistsError: If `output` exists.
    """
    folder, output = Path(folder), Path(output)
    if layout not in LAYOUTS:
        raise ValueError(f"`layout` must be one of {', '.join(LAYOUTS)}, got {layout!r}.")
    if output.exists():
        raise FileExistsError(f"`output` must not exist yet, but {output} does. Remove it or name another folder.")
    source = layout_of(folder)
    if source == layout:
        raise ValueError(f"{folder} has the layout {layout!r} already. Use it as it is.")
    whole = _load(folder, source, model, trust_remote_code)
    optimizer = _read_optimizer(folder, source, whole, layout)
    with _appearing(output) as target:
        own = {"model.safetensors", _INDEX, *_WEIGHTS.values(), *_OPTIMIZER.values()}
        for file in folder.iterdir():
            if file.is_file() and file.name not in own and not _is_shard_of_weights(file.name):
                shutil.copy2(file, target / file.name)
        _forget_best(target / "trainer_state.json")
        whole.save_pretrained(target)
        is_sharded = layout == "fsdp"
        if layout != "ddp":
            _write(target / _WEIGHTS[layout], "model", whole.state_dict(), is_sharded=is_sharded)
        if optimizer is not None:
            state = _numbered(optimizer) if layout == "ddp" else optimizer
            _write(target / _OPTIMIZER[layout], "optimizer", state, is_sharded=is_sharded)


def layout_of(folder: str | Path) -> str:
    """The layout of a checkpoint of the Trainer, one of [`LAYOUTS`].

    Raises:
        FileNotFoundError: If it is none.
        ValueError: If it holds an adapter.
    """
    folder = Path(folder)
    if (folder / "adapter_config.json").exists():
        raise ValueError(
            f"{folder} holds an adapter, which is not moved. Load it by peft and start a new run from it."
        )
    for layout in ("fsdp", "fsdp-full", "ddp"):  # FSDP's full checkpoints hold a model.safetensors too
        if (folder / _WEIGHTS[layout]).exists() or (layout == "ddp" and (folder / _INDEX).exists()):
            return layout
    raise FileNotFoundError(
        f"`folder` must be a checkpoint of the Trainer, found none of {', '.join(_WEIGHTS.values())} in {folder}."
    )


def _load(folder: Path, source: str, model: str | Path | None, trust_remote_code: bool) -> PreTrainedModel:
    """The whole model on the CPU, in the dtype of the checkpoint."""
    place = folder if model is None else model
    if model is None and not (folder / "config.json").exists():
        raise FileNotFoundError(
            f"`model` must name a folder with the model's config.json: {folder} is sharded and holds none. The folder "
            "or Hub name that training started from will do."
        )
    config = AutoConfig.from_pretrained(place, trust_remote_code=trust_remote_code)
    auto: Any = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModelForCausalLM
    built: PreTrainedModel = auto.from_config(config, trust_remote_code=trust_remote_code)
    _fill(built, _read_weights(folder, source), f"The weights of {folder}", place)
    for holder in (folder, place):
        try:
            built.generation_config = GenerationConfig.from_pretrained(holder)
            break
        except OSError:
            continue  # it has none
    return built


def _read_weights(folder: Path, source: str) -> dict[str, torch.Tensor]:
    if source != "ddp":
        return _read(folder / _WEIGHTS[source], "model")
    index = folder / _INDEX
    names = set(json.loads(index.read_text())["weight_map"].values()) if index.exists() else {_WEIGHTS["ddp"]}
    weights: dict[str, torch.Tensor] = {}
    for name in sorted(names):
        try:
            weights |= load_file(folder / Path(name).name)
        except SafetensorError as error:
            raise ValueError(f"{folder / name} is no safetensors file: {error}") from error
    return weights


def _fill(model: PreTrainedModel, weights: dict[str, torch.Tensor], owner: str, place: str | Path) -> None:
    """Every weight of the model, in the dtype that it was saved in; ties stay."""
    tensors = dict([*model.named_parameters(remove_duplicate=False), *model.named_buffers(remove_duplicate=False)])
    for name in weights.keys() & tensors.keys():
        tensors[name].data = tensors[name].data.to(weights[name].dtype)
    try:
        found = model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise ValueError(f"{owner} are not those of the model whose config is in {place}: {error}") from error
    filled = {id(tensors[name]) for name in weights.keys() & tensors.keys()}
    missing = [name for name in found.missing_keys if id(tensors[name]) not in filled]
    if missing or found.unexpected_keys:
        raise ValueError(
            f"{owner} are not those of the model whose config is in {place}, a {type(model).__name__}: missing "
            f"{', '.join(missing) or 'none'}, unknown {', '.join(found.unexpected_keys) or 'none'}."
        )


def _read(path: Path, name: str) -> dict[str, Any]:
    """What FSDP has saved as one file or as shards, or an optimizer of one process."""
    if path.is_dir():
        held = read_sharded(path)
        if name not in held:
            raise ValueError(f"{path} must hold {name!r}, got {', '.join(map(repr, held)) or 'nothing'}.")
        return held[name]
    try:
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(
            f"{path} is damaged, or holds more than tensors, containers, numbers and texts; it was not run."
        ) from error
    return state


def _read_optimizer(folder: Path, source: str, model: PreTrainedModel, layout: str) -> dict[str, Any] | None:
    """The optimizer's state by names of parameters; None where only the model was saved."""
    path = folder / _OPTIMIZER[source]
    if not path.exists():
        return None
    state = _read(path, "optimizer")
    state.setdefault("state", {})  # shards hold nothing where there is nothing
    if source == "ddp":
        state = _named(state, model)
    weights = dict(model.named_parameters(remove_duplicate=False))
    for name, entry in state["state"].items():
        shape = weights[name].shape if name in weights else None
        for kind, value in entry.items():
            same_form = isinstance(value, torch.Tensor) and shape is not None and value.dim() == len(shape)
            if shape is None or (same_form and value.shape != shape):
                raise ValueError(
                    f"The optimizer of {folder} does not fit its model: `{kind}` of {name} is {_form(value)}, the "
                    f"parameter {'is not there' if shape is None else tuple(shape)}. Optimizers with groups of your "
                    "own are not moved."
                )
    if layout != "ddp" and state["state"]:
        _complete(state, weights)
    return state


def _complete(state: dict[str, Any], weights: Mapping[str, torch.Tensor]) -> None:
    """Gives parameters that no batch has reached the state that AdamW starts with: FSDP2 asks for one of each."""
    kinds = set(next(iter(state["state"].values())))
    for name in (name for group in state["param_groups"] for name in group["params"]):
        if name in state["state"]:
            continue
        if kinds != {"step", "exp_avg", "exp_avg_sq"}:
            raise ValueError(
                f"FSDP2 asks for the optimizer's state of every parameter, and that of {name} is not there: it was "
                "never trained. Start a new run from the weights."
            )
        zeros = torch.zeros_like(weights[name].detach())
        state["state"][name] = {"step": torch.tensor(0.0), "exp_avg": zeros, "exp_avg_sq": zeros.clone()}


def _form(value: Any) -> str:
    return f"{tuple(value.shape)}" if isinstance(value, torch.Tensor) else repr(value)


def _named(state: dict[str, Any], model: PreTrainedModel) -> dict[str, Any]:
    """From counted to named parameters. One group holds all of them; two are those of the Trainer."""
    trained = [name for name, weight in model.named_parameters() if weight.requires_grad]
    decayed = set(Trainer.get_decay_parameter_names(None, model))  # type: ignore[arg-type]
    by_trainer = [[name for name in trained if (name in decayed) == first] for first in (True, False)]
    names = [trained] if len(state["param_groups"]) == 1 else by_trainer
    counts = [len(group["params"]) for group in state["param_groups"]]
    if counts != [len(group) for group in names]:
        raise ValueError(
            f"optimizer.pt must have one group of all {len(trained)} trained parameters or the Trainer's two of "
            f"{len(by_trainer[0])} and {len(by_trainer[1])}, got groups of {counts}. Optimizers with groups of your "
            "own, and runs with frozen weights, are not moved."
        )
    groups: list[Group] = [{**group, "params": own} for group, own in zip(state["param_groups"], names, strict=True)]
    name_of = {
        number: name
        for group, own in zip(state["param_groups"], names, strict=True)
        for number, name in zip(group["params"], own, strict=True)
    }
    return {"state": {name_of[number]: entry for number, entry in state["state"].items()}, "param_groups": groups}


def _numbered(state: dict[str, Any]) -> dict[str, Any]:
    """From named to counted parameters, in the order of the groups."""
    names = [name for group in state["param_groups"] for name in group["params"]]
    number = {name: place for place, name in enumerate(names)}
    groups = [{**group, "params": [number[name] for name in group["params"]]} for group in state["param_groups"]]
    return {"state": {number[name]: entry for name, entry in state["state"].items()}, "param_groups": groups}


def _write(path: Path, name: str, state: dict[str, Any], *, is_sharded: bool) -> None:
    """The counterpart of [`_read`]."""
    if is_sharded:
        write_sharded({name: state}, path)
    else:
        torch.save(state, path)


def _forget_best(file: Path) -> None:
    """The best checkpoint so far lies elsewhere in the old layout, which the Trainer could not load at the end."""
    if file.exists():
        state = json.loads(file.read_text())
        write_json(file, {**state, "best_model_checkpoint": None})


def _is_shard_of_weights(name: str) -> bool:
    return name.startswith("model-") and name.endswith(".safetensors")


@contextmanager
def _appearing(output: Path) -> Iterator[Path]:
    """A folder beside `output` that is moved to its name when the block ends well, and is removed otherwise."""
    output.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=output.parent, prefix=f".{output.name}."))
    try:
        yield temporary
        mask = os.umask(0)
        os.umask(mask)
        temporary.chmod(0o777 & ~mask)
        temporary.rename(output)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
