"""Going on from a checkpoint that may have been tampered with."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from ..models.checkpoint_files_custom_seq2seq import check_weight_files
from .recipe_adapter import ADAPTER_WEIGHTS, check_adapter_file, is_adapted

_WEIGHTS = "model.safetensors"


@contextmanager
def safely_from(checkpoint: Path | None, model: nn.Module) -> Iterator[None]:
    """Checks the weights of a checkpoint; inside, what the Trainer refuses to unpickle becomes an error in words.

    The Trainer reads optimizer, schedule and random state by `torch.load` with `weights_only=True`.

    Args:
        checkpoint (`Path`, *optional*): Where the run goes on from; None for a new run.
        model (`nn.Module`): Its weights will be replaced.

    Raises:
        ValueError: A file holds a pickle that would run code, or the weights are not those of the model.
    """
    file = None if checkpoint is None else checkpoint / (ADAPTER_WEIGHTS if is_adapted(model) else _WEIGHTS)
    if file is not None and file.is_file():
        try:
            if is_adapted(model):
                check_adapter_file(model, file)
            else:
                check_weight_files(type(model).__name__, model, [str(file)], is_quantized=False)
        except (SafetensorError, ValueError) as error:
            raise ValueError(f"{file} is no checkpoint of this model ({error}). Remove it.") from error
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} holds a pickle that would run code, or is damaged; it was not run. Remove the folder to go "
            "on from an earlier one, or use --fresh."
        ) from error
