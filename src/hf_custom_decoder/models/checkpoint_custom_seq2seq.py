"""Loading that refuses what stock loading would fill with random numbers."""

import os
from typing import Any

NEW_PARTS = ("lm_head.",)
"""Weights that a checkpoint may lack: heads on top of a pretrained body."""


class CheckedLoadingMixin:
    """Stands before `PreTrainedModel` among the bases."""

    @classmethod
    def from_pretrained(
        cls, pretrained_model_name_or_path: str | os.PathLike[str] | None, *args: Any, **kwargs: Any
    ) -> Any:
        """
        As in transformers, except that weights which a checkpoint lacks are an error (a new head is not).

        Raises:
            ValueError: The checkpoint is truncated, is no safetensors file, or belongs to another model.
        """
        wants_info = kwargs.pop("output_loading_info", False)
        try:
            model, info = super().from_pretrained(  # type: ignore[misc]
                pretrained_model_name_or_path, *args, output_loading_info=True, **kwargs
            )
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
