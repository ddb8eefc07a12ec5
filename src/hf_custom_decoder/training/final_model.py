"""The model that a run leaves: its weights chosen, measured, and written with all that belongs to them."""

import shutil
from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from transformers import PreTrainedModel

from ..atomic_files import write_json, write_text
from ..data.cleaning import Cleaner
from ..data.pair_collator import PairCollator
from ..data.pair_encoding import PairTokenizers
from ..evaluation.perplexity import mean_token_loss, perplexity
from ..hub.model_card import Measurement, write_model_card
from .early_stopping import EarlyStopping
from .recipe_adapter import save_trained
from .recipe_card import recipe_card
from .recipe_data import source_pad_token_id, without_texts
from .recipe_folder import RECIPE_FILE, RESULTS_FILE
from .recipe_options import Recipe
from .recipe_reading import recipe_to_yaml
from .recipe_results import RecipeResults
from .recipe_tokenizers import save_tokenizers
from .source_gain import GAIN_NAME, SourceGain
from .weight_averages import MovingAverage, average_checkpoints, load_weights
from .whole_checkpoints import step_of, whole_checkpoints, without_stops

LOG_FILE = "training_log.json"
REPORTS = "runs"
"""Where TensorBoard's reporter writes; the Hub shows a folder of this name."""
CLEANING_FILE = "cleaning.json"


def take_final_weights(
    model: PreTrainedModel,
    *,
    log_history: list[dict[str, float]],
    best: EarlyStopping | None,
    average_last: int,
    save_steps: int,
    moving_average: MovingAverage | None,
    work: Path,
    report: Callable[[str], None],
) -> str:
    """Puts the weights into the model that the run ends with.

    Args:
        model ([`~transformers.PreTrainedModel`]): With the weights of the last step.
        log_history (`list[dict[str, float]]`): Of the Trainer's state.
        best ([`EarlyStopping`], *optional*): Has kept the weights of the best measurements; these come first.
        average_last (`int`): Checkpoints to average, not counting those of a stop; 1 for none.
        save_steps (`int`): Optimizer steps between two checkpoints.
        moving_average ([`MovingAverage`], *optional*): Taken where nothing above is.
        work (`Path`): The folder of the checkpoints.
        report (`Callable[[str], None]`): Hears of checkpoints that are not whole.

    Returns:
        `str`: Where the weights come from.
    """
    if best is not None and (folders := best.best_folders(log_history)):
        load_weights(model, average_checkpoints(folders))
        steps = ", ".join(str(step_of(folder)) for folder in folders)
        return f"best {best.name}" if best.keep == 1 else f"mean of the best {best.name}, steps {steps}"
    if average_last > 1:
        chosen = without_stops(whole_checkpoints(work, report), save_steps)[-average_last:]
        load_weights(model, average_checkpoints(chosen))
        return f"mean of steps {', '.join(str(step_of(path)) for path in chosen)}"
    if moving_average is not None:
        moving_average.apply(model)
        return f"moving average with decay {moving_average.decay}"
    return "last step"


def measure_model(
    model: PreTrainedModel, tokenizers: PairTokenizers, validation_pairs: Any, batch_size: int
) -> tuple[dict[str, float], list[Measurement]]:
    """Measures a model on validation data.

    Args:
        model ([`~transformers.PreTrainedModel`]): With its final weights.
        tokenizers ([`PairTokenizers`]): Of the run.
        validation_pairs (`datasets.Dataset`, *optional*): Encoded; without them there are no figures.
        batch_size (`int`): Pairs at a time.

    Returns:
        `tuple[dict[str, float], list[Measurement]]`: Loss in nats a token, perplexity, and what another's source costs
        ([`SourceGain`]); what the card says of them.
    """
    if validation_pairs is None:
        return {}, []
    collate = PairCollator(source_pad_token_id(tokenizers))
    rows = without_texts(validation_pairs)
    starts = range(0, len(rows), batch_size)
    loss, num_tokens = mean_token_loss(
        model, (collate([rows[idx] for idx in range(s, min(s + batch_size, len(rows)))]) for s in starts)
    )
    settings = f"{num_tokens:,} target tokens"
    figures = {"loss": loss, "perplexity": perplexity(loss)}
    gain = SourceGain(rows, collate, batch_size)(model)
    if gain is not None:
        figures[GAIN_NAME] = gain
    measurements = [Measurement("perplexity", "Perplexity a token", figures["perplexity"], settings)]
    return figures, measurements


def write_final_model(
    folder: Path,
    model: PreTrainedModel,
    *,
    tokenizers: PairTokenizers,
    recipe: Recipe,
    results: RecipeResults,
    measurements: list[Measurement],
    log_history: list[dict[str, float]],
    cleaner: Cleaner | None,
    work: Path,
) -> None:
    """Writes the model with tokenizers, recipe, log, reports, results and card.

    Args:
        folder (`Path`): Exists, and is still to be moved to its place.
        model ([`~transformers.PreTrainedModel`]): Is put into evaluation mode.
        tokenizers ([`PairTokenizers`]): Of the run.
        recipe ([`Recipe`]): Of the run.
        results ([`RecipeResults`]): What training took.
        measurements (`list[Measurement]`): For the card.
        log_history (`list[dict[str, float]]`): Of the Trainer's state.
        cleaner ([`Cleaner`], *optional*): With its counts, where pairs were left out.
        work (`Path`): Where TensorBoard's reporter may have written.
    """
    save_trained(model.eval(), folder)
    save_tokenizers(tokenizers, folder)
    write_text(folder / RECIPE_FILE, recipe_to_yaml(recipe))
    write_json(folder / LOG_FILE, log_history)
    if (work / REPORTS).is_dir():
        shutil.copytree(work / REPORTS, folder / REPORTS)
    write_json(folder / RESULTS_FILE, asdict(results))
    if cleaner is not None:
        write_json(folder / CLEANING_FILE, asdict(cleaner.report))
    write_model_card(folder, recipe_card(recipe, results, measurements, is_joint=tokenizers.is_joint))
