"""What the model card of a run says."""

from collections.abc import Sequence
from pathlib import Path

from ..hub.model_card import Measurement, ModelCardContents
from .progress_bar import format_seconds
from .recipe_options import Recipe
from .recipe_results import RecipeResults
from .recipe_tokenizers import TARGET_FOLDER

_LOADING = """
{imports}from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

folder = "."  # this folder, or the name of the repository on the Hub
tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=True)
{target}{model}
inputs = tokenizer(["your text"], return_tensors="pt", return_token_type_ids=False)
print({writer}.batch_decode(model.generate(**inputs), skip_special_tokens=True))
"""

_MODEL = "model = AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)"
_ADAPTED = """base = AutoModelForSeq2SeqLM.from_pretrained({base!r}, trust_remote_code=True)
model = PeftModel.from_pretrained(base, folder)"""


def recipe_card(
    recipe: Recipe, results: RecipeResults, measurements: Sequence[Measurement], *, is_joint: bool
) -> ModelCardContents:
    """Fills the card of a trained model.

    Args:
        recipe ([`Recipe`]): Of the run; its `card` section says what no run can know.
        results ([`RecipeResults`]): What training took.
        measurements (`Sequence[Measurement]`): The figures, at least one.
        is_joint (`bool`): Whether both sides share one tokenizer.

    Returns:
        [`ModelCardContents`]: Ready to be written.
    """
    card, data = recipe.card, recipe.data
    validates = data.validation is not None or any(task.validation is not None for task in recipe.tasks.values())
    split, side = ("validation", "validation") if validates else ("training", "train")
    files = _as_list(getattr(data, side))
    files = files or [file for task in recipe.tasks.values() for file in _as_list(getattr(task, side))]
    name = data.dataset or ", ".join(Path(file).name for file in files)
    target = (
        "" if is_joint else f'target_tokenizer = AutoTokenizer.from_pretrained(folder, subfolder="{TARGET_FOLDER}")\n'
    )
    base = None if recipe.adapter.method is None else recipe.model.pretrained
    revision = "" if data.revision is None else f", revision {data.revision}"
    return ModelCardContents(
        title=card.title or Path(recipe.output).name,
        summary=card.summary,
        language=card.language,
        license=card.license,
        task=card.task,
        dataset_id=data.dataset or "local",
        dataset_name=f"{name}{revision}",
        dataset_split=f"{split} split",
        loading_code=_LOADING.format(
            imports="" if base is None else "from peft import PeftModel\n",
            target=target,
            model=_MODEL if base is None else _ADAPTED.format(base=base),
            writer="tokenizer" if is_joint else "target_tokenizer",
        ),
        data=card.data,
        training=(
            f"{results.num_parameters:,} parameters, {results.num_steps:,} optimizer steps in "
            f"{format_seconds(results.seconds)} minutes on {results.hardware}, seed {recipe.training.seed}, "
            f"{results.num_pairs:,} pairs. The whole recipe is in `recipe.yaml`."
        ),
        evaluation="Loss and perplexity are per target token of this folder's tokenizer, without label smoothing.",
        limits=card.limits,
        measurements=measurements,
        base_model=base,
    )


def _as_list(files: str | list[str] | None) -> list[str]:
    return [] if files is None else [files] if isinstance(files, str) else files
