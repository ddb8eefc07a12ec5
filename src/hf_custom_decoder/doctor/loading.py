"""Loads a model to be examined: a folder, a name on the Hub, or a config alone."""

from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..hub.adapter_folder import check_whole_model
from ..training.recipe_tokenizers import load_target_tokenizer

WEIGHT_FILES = ("*.safetensors", "*.safetensors.index.json", "pytorch_model*.bin")
FRESH_PARAMETERS = 1_000_000_000
"""Models larger than this are not filled with random weights."""


def load_examined(name: str, *, trust_remote_code: bool) -> tuple[PreTrainedModel, bool]:
    """Loads the weights, or fills a config's model with random ones.

    Args:
        name (`str`): A folder, a `config.json`, or a repository on the Hub.
        trust_remote_code (`bool`): Whether code from there may run.

    Returns:
        `tuple[PreTrainedModel, bool]`: The model in evaluation mode, and whether its weights are random.

    Raises:
        OSError: If there is no such model.
        ValueError: If it is an adapter, or no encoder-decoder that reads token ids, or too large for random weights.
    """
    path = Path(name)
    if path.exists():
        path = path.parent if path.name == "config.json" else path
        check_whole_model(path, "model")
        if not (path / "config.json").is_file():
            raise FileNotFoundError(
                f"`model` must be a folder written by `save_pretrained`, or its config.json, found none at {name}."
            )
    has_weights = not path.exists() or any(any(path.glob(pattern)) for pattern in WEIGHT_FILES)
    source = str(path) if path.exists() else name
    try:
        if has_weights:
            model = AutoModelForSeq2SeqLM.from_pretrained(source, trust_remote_code=trust_remote_code)
        else:
            model = _fresh(AutoConfig.from_pretrained(source, trust_remote_code=trust_remote_code), trust_remote_code)
    except OSError as error:
        if path.exists():
            raise
        raise FileNotFoundError(
            f"`model` must be a folder, a config.json or the name of a repository on the Hub; {name} is no folder, "
            f"and the Hub could not be asked or has no such model ({str(error).splitlines()[0]})"
        ) from error
    check_kind(model)
    made: PreTrainedModel = model.eval()
    return made, not has_weights


def load_both_tokenizers(
    name: str, *, trust_remote_code: bool
) -> tuple[PreTrainedTokenizerBase, PreTrainedTokenizerBase] | None:
    """The tokenizers of source and target, or None where the folder holds none."""
    path = Path(name)
    folder = path.parent if path.name == "config.json" else path
    if folder.is_dir() and not any(
        file.name.startswith(("tokenizer", "vocab", "spiece", "source.spm")) for file in folder.iterdir()
    ):
        return None
    try:
        source = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=trust_remote_code)
    except OSError:
        if folder.is_dir():
            raise
        return None  # a repository without one
    return source, load_target_tokenizer(folder) or source


def check_kind(model: PreTrainedModel) -> None:
    """Raises a `ValueError` unless it is an encoder-decoder that reads token ids."""
    if not getattr(model.config, "is_encoder_decoder", False):
        raise ValueError(f"`model` must be an encoder-decoder, got a {type(model).__name__}.")
    if model.main_input_name != "input_ids":
        raise ValueError(
            f"`model` must read token ids, but a {type(model).__name__} reads `{model.main_input_name}`. The checks "
            "have no such inputs."
        )


def _fresh(config: Any, trust_remote_code: bool) -> Any:
    """A model with random weights, the same every time, with noise on all that would begin as 0 or 1."""
    with torch.device("meta"):
        shape = AutoModelForSeq2SeqLM.from_config(config, trust_remote_code=trust_remote_code)
    if shape.num_parameters() > FRESH_PARAMETERS:
        raise ValueError(
            f"A model with random weights may have at most {FRESH_PARAMETERS:,} parameters, got "
            f"{shape.num_parameters():,}. Give one that is trained, or lower the sizes in the config."
        )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(config, trust_remote_code=trust_remote_code)
        with torch.no_grad():
            for weight in model.parameters():
                if weight.requires_grad:
                    weight.add_(0.1 * torch.randn_like(weight))
    return model
