"""Going on from a checkpoint that may have been tampered with."""

import pickle
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError
from torch import nn

from ..models.checkpoint_files_custom_seq2seq import check_weight_files

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
    if checkpoint is not None and (checkpoint / _WEIGHTS).is_file():
        try:
            check_weight_files(type(model).__name__, model, [str(checkpoint / _WEIGHTS)], is_quantized=False)
        except (SafetensorError, ValueError) as error:
            raise ValueError(
                f"{checkpoint / _WEIGHTS} is no checkpoint of this model ({error}). Remove it."
            ) from error
    try:
        yield
    except pickle.UnpicklingError as error:
        raise ValueError(
            f"{checkpoint} holds a pickle that would run code, or is damaged; it was not run. Remove the folder to go "
            "on from an earlier one, or use --fresh."
        ) from error
