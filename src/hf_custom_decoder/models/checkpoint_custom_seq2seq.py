"""Loading that refuses what stock loading would fill with random numbers."""

import os
import pickle
from typing import Any

from transformers import PreTrainedModel

from .checkpoint_files_custom_seq2seq import check_file_names, check_weight_files
from .tensor_parallel_custom_seq2seq import take_shares

NEW_PARTS = ("lm_head.",)
"""Weights that a checkpoint may lack: heads on top of a pretrained body."""


class CheckedLoadingMixin:
    """Stands before `PreTrainedModel` among the bases."""

    @staticmethod
    def _load_pretrained_model(
        model: PreTrainedModel,
        state_dict: dict[str, Any] | None,
        checkpoint_files: list[str] | None,
        load_config: Any,
        expected_keys: list[str] | None = None,
    ) -> Any:
        """As in transformers, after names, shapes and types in the files were found to be those of the model."""
        take_shares(model)
        if checkpoint_files is not None and state_dict is None:
            owner, source = type(model).__name__, load_config.pretrained_model_name_or_path
            if source is not None and os.path.isdir(source):
                check_file_names(owner, source, checkpoint_files)
            if not load_config.ignore_mismatched_sizes:
                check_weight_files(owner, model, checkpoint_files, is_quantized=load_config.is_quantized)
        loaded: Any = PreTrainedModel._load_pretrained_model(
            model, state_dict, checkpoint_files, load_config, expected_keys
        )
        return loaded

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """
        As in transformers, except that weights which a checkpoint lacks are an error (a new head is not).

        Raises:
            ValueError: The checkpoint is truncated, is no safetensors file, belongs to another model, or does not
                match its config; found before memory is taken for it.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(  # type: ignore[misc]
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
        except pickle.UnpicklingError as error:
            raise ValueError(
                f"{cls.__name__}: `pretrained_model_name_or_path` must hold nothing but weights, a file in "
                f"{pretrained_model_name_or_path!r} is a pickle that would run code, or damaged; it was not run. Ask "
                "for the weights in safetensors."
            ) from error
        except Exception as error:
            if type(error).__name__ != "SafetensorError":
                raise
            raise ValueError(
                f"{cls.__name__}: `pretrained_model_name_or_path` must hold whole safetensors files, the weights in "
                f"{pretrained_model_name_or_path!r} are truncated or of another form ({error}). Download or save them "
                "again."
            ) from error
        if pretrained_model_name_or_path is not None and kwargs.get("state_dict") is None:
            missing = sorted(key for key in info["missing_keys"] if not key.startswith(NEW_PARTS))
            if missing:
                shown = ", ".join(missing[:3]) + (", ..." if len(missing) > 3 else "")
                raise ValueError(
                    f"{cls.__name__}: `pretrained_model_name_or_path` must hold every weight of this model, "
                    f"{pretrained_model_name_or_path!r} lacks {len(missing)} of them ({shown}). It is truncated or "
                    "belongs to another model; to start from part of it, build the model from its config and call "
                    "`load_state_dict(..., strict=False)`."
                )
        return (model, info) if wants_info else model
