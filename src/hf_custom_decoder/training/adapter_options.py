"""Options of the adapter that a recipe may train in place of a whole model."""

from dataclasses import dataclass, fields
from typing import Any

from .option_rules import check_at_least, check_choice, option

METHODS = ("lora",)


@dataclass
class AdapterOptions:
    """An adapter of peft, trained while the model that it stands on (`model.pretrained`) stays as it is."""

    method: str | None = option(
        None, f"Kind of the adapter: {' or '.join(METHODS)}; without it the model itself is trained."
    )
    r: int = option(8, "Rank of LoRA.")
    alpha: int = option(16, "What LoRA adds is multiplied by alpha / r.")
    dropout: float = option(0.0, "Dropout of what enters the adapter.")
    target_modules: list[str] = option(
        [], "Ends of names of linear layers to adapt, by default those of docs/peft.md that the model has."
    )
    dora: bool = option(False, "Train the norm of every row of the sum too (DoRA).")
    rslora: bool = option(False, "Multiply by alpha / root of r in place of alpha / r (rsLoRA).")

    def __post_init__(self) -> None:
        if self.method is None:
            given = [one.name for one in fields(self) if getattr(self, one.name) != _default_of(one)]
            if given:
                raise ValueError(
                    f"`adapter.{given[0]}` belongs to an adapter, got no `adapter.method`. Set it to "
                    f"{' or '.join(METHODS)}, or leave the section out."
                )
            return
        check_choice("adapter.method", self.method, METHODS)
        for name in ("r", "alpha"):
            check_at_least(f"adapter.{name}", getattr(self, name), 1)
        if not 0.0 <= self.dropout < 1.0:
            raise ValueError(f"`adapter.dropout` must be from 0 to below 1, got {self.dropout}.")


def check_adapter(adapter: AdapterOptions, model: Any, training: Any) -> None:
    """Raises a `ValueError` where the `model` or the `training` section of a recipe does not go with an adapter."""
    if adapter.method is None:
        return
    if model.pretrained is None:
        raise ValueError(
            f"`adapter.method` ({adapter.method}) needs a trained model to stand on, got no `model.pretrained`. Name "
            "one, or train the model itself (no `adapter`)."
        )
    for name in ("freeze", "layer_decay"):
        if getattr(training, name):
            raise ValueError(
                f"`training.{name}` is about the model's own weights, which an adapter leaves as they are, got it "
                f"with `adapter.method` ({adapter.method}). Leave one of them out."
            )


def _default_of(one: Any) -> Any:
    return one.default_factory() if callable(one.default_factory) else one.default
