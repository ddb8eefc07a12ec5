"""Loads what a folder for the Hub holds, or says in words what is missing."""

from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel, PreTrainedTokenizerBase

from ..evaluation.decoding_precision import set_decoding_precision
from ..training.hardware import check_device
from .adapter_folder import ADAPTER_CONFIG, is_adapter_folder, load_adapter_folder
from .file_safety import check_files

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
)


def load_model_folder(
    name: str | Path, *, device: str = "cpu", trust_remote_code: bool = False, precision: str | None = None
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Loads an encoder-decoder model and its tokenizer.

    Args:
        name (`str` or `Path`): A folder written by `save_pretrained`, of an adapter too (see
            [`~hf_custom_decoder.hub.adapter_folder.load_adapter_folder`]), or a repository on the Hub.
        device (`str`, *optional*, defaults to "cpu"): Where to put the model, a name of torch's.
        trust_remote_code (`bool`, *optional*, defaults to `False`):
            Whether code from the folder may run. The models of this package need none where it is installed.
        precision (`str`, *optional*): Numbers to decode with: "fp32", "bf16" or "int8" (see
            [`~hf_custom_decoder.evaluation.decoding_precision.set_decoding_precision`]); None keeps those of the file.

    Returns:
        `tuple[PreTrainedModel, PreTrainedTokenizerBase]`: The model in evaluation mode, and the tokenizer.

    Raises:
        ImportError: If it is an adapter and peft is not installed.
        OSError: If there is no such folder or repository, or it holds no model.
        ValueError: If torch finds no such device, the folder has no tokenizer, its model is of a kind that cannot be
            loaded here, or its files are not what their names say (see
            [`~hf_custom_decoder.hub.file_safety.check_files`]).
    """
    check_device(device)
    folder = Path(name)
    if folder.exists():
        present = {path.name for path in folder.iterdir()} if folder.is_dir() else set()
        if not present.intersection(("config.json", ADAPTER_CONFIG)):
            raise FileNotFoundError(
                f"`model` must be a folder written by `save_pretrained`, found no config.json in {name}."
            )
        if not present.intersection(_TOKENIZER_FILES):
            raise ValueError(
                f"{name} holds a model but no tokenizer. Save it there: `tokenizer.save_pretrained({str(name)!r})`."
            )
        problems = check_files(folder)
        if problems:
            raise ValueError(f"{name} cannot be read safely: {' '.join(problems)} Do not use it.")
    try:
        model: PreTrainedModel
        if is_adapter_folder(folder):
            model = load_adapter_folder(folder, trust_remote_code=trust_remote_code)
        else:
            model = AutoModelForSeq2SeqLM.from_pretrained(name, trust_remote_code=trust_remote_code)
        tokenizer: PreTrainedTokenizerBase = AutoTokenizer.from_pretrained(name, trust_remote_code=trust_remote_code)
    except OSError as error:
        if folder.exists():
            raise
        raise FileNotFoundError(
            f"`model` must be a folder written by `save_pretrained` or the name of a repository on the Hub; {name} is "
            f"no folder, and the Hub could not be asked or has no such model ({str(error).splitlines()[0]})"
        ) from error
    model.to(torch.device(device))  # type: ignore[arg-type]
    if precision is not None:
        set_decoding_precision(model, precision)
    return model, tokenizer
