"""Memory of a training run on a GPU, counted without one: `hf-custom-decoder memory`."""

from .model_states import SHARDINGS, ModelStates, model_states
from .recipe_estimate import DTYPES, MemoryEstimate, estimate_memory
from .simulated_step import StepFigures, simulate_step, without_memory

__all__ = [
    "DTYPES",
    "SHARDINGS",
    "MemoryEstimate",
    "ModelStates",
    "StepFigures",
    "estimate_memory",
    "model_states",
    "simulate_step",
    "without_memory",
]
