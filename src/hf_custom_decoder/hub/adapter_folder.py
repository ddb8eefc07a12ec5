"""Loads a folder that holds an adapter of peft, on the model that it stands on."""

import re
import warnings
from pathlib import Path
from typing import Any

from transformers import AutoModelForSeq2SeqLM, GenerationConfig

from ..training.recipe_adapter import ADAPTER_WEIGHTS, check_adapter_file, check_peft
from .file_safety import check_files

ADAPTER_CONFIG = "adapter_config.json"
_FALSE_ALARM = "Input and output embeddings are no longer tied"
"""peft compares the projection with the encoder's embedding; ours is tied to the decoder's, and stays so."""


def is_adapter_folder(folder: str | Path) -> bool:
    """Whether a folder holds an adapter and no model."""
    folder = Path(folder)
    return (folder / ADAPTER_CONFIG).is_file() and not (folder / "config.json").is_file()


def check_whole_model(folder: str | Path, option: str) -> None:
    """Raises a `ValueError` that names `option` if a folder holds an adapter where a whole model is asked for."""
    if is_adapter_folder(folder):
        raise ValueError(
            f"`{option}` must be a whole model, but '{folder}' holds an adapter. Load it by peft, "
            "`merge_and_unload()`, save the result with its tokenizer, and name that."
        )


def load_adapter_folder(folder: Path, *, trust_remote_code: bool = False) -> Any:
    """
    Load an adapter for decoding.

    Args:
        folder (`Path`): Written by `save_pretrained` of a model of peft; its config names the model that it stands on,
            a folder (a relative one counts from the working directory) or a repository on the Hub.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code of that model may run.

    Returns:
        In evaluation mode: the model with the adapter merged into its weights; over quantised weights, which rounding
        would spoil, the model with the adapter beside them; for prompts a [`~peft.PeftModel`].

    Raises:
        ImportError: peft is not installed.
        OSError: There are no weights in safetensors, or the model that the adapter stands on cannot be read.
        ValueError: The config names no such model, or the weights do not fit it.
    """
    check_peft(f"{folder} holds an adapter, which")
    from peft import PeftConfig, PeftModel

    from ..peft import register_target_modules

    register_target_modules()
    if not (folder / ADAPTER_WEIGHTS).is_file():
        raise FileNotFoundError(f"An adapter's folder must hold {ADAPTER_WEIGHTS}, found none in {folder}.")
    config = PeftConfig.from_pretrained(str(folder))
    name = config.base_model_name_or_path
    if not name:
        raise ValueError(
            f"{folder}/{ADAPTER_CONFIG} must name the model that the adapter stands on (`base_model_name_or_path`), "
            f"got {name!r}. Write its folder or Hub name there."
        )
    problems = check_files(Path(name)) if Path(name).is_dir() else []
    if problems:
        raise ValueError(f"{name} cannot be read safely: {' '.join(problems)} Do not use it.")
    try:
        base = AutoModelForSeq2SeqLM.from_pretrained(
            name, revision=config.revision, trust_remote_code=trust_remote_code
        )
    except OSError as error:
        raise FileNotFoundError(
            f"{folder} holds an adapter of {name!r}, which could not be read ({str(error).splitlines()[0]}). Put that "
            f"model there, or correct `base_model_name_or_path` in {ADAPTER_CONFIG}; a relative folder counts from "
            "the working directory."
        ) from error
    try:
        model = PeftModel.from_pretrained(base, str(folder))
    except RuntimeError as error:  # weights of other shapes
        reason = " ".join(str(error).split())[:200]
        raise ValueError(f"The adapter in {folder} does not fit {name!r}: {reason}") from error
    check_adapter_file(model, folder / ADAPTER_WEIGHTS)
    if (folder / "generation_config.json").is_file():
        base.generation_config = GenerationConfig.from_pretrained(folder)
    model.eval()
    if config.is_prompt_learning:
        return model
    if getattr(base, "is_quantized", False):
        return model.get_base_model()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", _FALSE_ALARM)
        return model.merge_and_unload()


def check_base(name: Any) -> list[str]:
    """What keeps a stranger from loading the model that an adapter stands on, in words; empty where nothing does."""
    is_hub_name = isinstance(name, str) and re.fullmatch(r"(?:[A-Za-z0-9][\w.-]*/)?[A-Za-z0-9][\w.-]{0,95}", name)
    if is_hub_name and not Path(name).exists():
        return []
    return [
        f"{ADAPTER_CONFIG} names the model that the adapter stands on as {name!r}, no repository on the Hub. Push "
        "that model first, and write its name (owner/name) there and into README.md."
    ]
