"""What a run has cost and reached, as its folder keeps it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RecipeResults:
    """Figures of a finished training.

    Attributes:
        num_parameters (`int`): Trained or not.
        num_pairs (`int`): Training pairs; 0 for a stream.
        num_steps (`int`): Optimizer steps.
        seconds (`float`): Time in training, measurements included, over all resumed runs.
        hardware (`str`): What it ran on.
        final_weights (`str`): Where the final weights come from.
        padding_share (`float`): Share of the first pass's cells that is padding, from 0 to 1; 0 for a stream.
        training_loss (`float`): Last one that was logged, nats a token, with label smoothing.
        validation (`dict[str, float]`): Figures on the validation data.
    """

    num_parameters: int
    num_pairs: int
    num_steps: int
    seconds: float
    hardware: str
    final_weights: str
    padding_share: float
    training_loss: float
    validation: dict[str, float]
