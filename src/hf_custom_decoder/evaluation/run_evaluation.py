"""A trained model on test data: outputs, metrics, and both as files."""

import json
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..atomic_files import write_json, write_text
from ..data.pair_collator import PairCollator
from ..data.pair_encoding import PairTokenizers, encode_pairs
from ..data.pair_tables import merge_references, read_pairs
from ..hub.model_folder import load_model_folder
from ..training.progress_bar import progress_over
from ..training.recipe_options import Recipe
from ..training.recipe_reading import read_recipe
from ..training.recipe_tokenizers import load_target_tokenizer
from .batched_generation import generate_texts
from .perplexity import mean_token_loss, perplexity
from .text_metrics import Score, check_metric_packages, join_bpe, score_texts

RESULTS_FILE = "results.json"
PREDICTIONS_FILE = "predictions.jsonl"
_RECIPE_FILE = "recipe.yaml"
_DATA_NAMES = ("dataset", "config", "revision", "test", "source", "target")


def evaluation_recipe(
    recipe_file: Path | None, model: str | None, data: list[str] | None, overrides: dict[str, str]
) -> Recipe:
    """Finds out what to measure from the arguments of the command.

    Args:
        recipe_file (`Path`, *optional*): A recipe; without it the one in the model's folder, if there is one.
        model (`str`, *optional*): The model's folder or Hub name; without it the recipe's `output`.
        data (`list[str]`, *optional*): Test file(s) in place of the recipe's.
        overrides (`dict[str, str]`): Options of a recipe from the command line.

    Returns:
        [`Recipe`]: Its `output` is the model, its `data.test` what is read.

    Raises:
        OSError: If a recipe cannot be read.
        ValueError: If neither a recipe nor a model is given, or an option is wrong.
    """
    if recipe_file is None and model is None:
        raise ValueError("What is measured must be given: a recipe, or `--model FOLDER`.")
    if recipe_file is None and model is not None and (Path(model) / _RECIPE_FILE).is_file():
        recipe_file = Path(model) / _RECIPE_FILE
    recipe = read_recipe(recipe_file, overrides)
    if model is not None:
        recipe = replace(recipe, output=model)
    if data:
        recipe = replace(recipe, data=replace(recipe.data, dataset=None, test=data, format=None))
    return recipe


def evaluate_recipe(
    recipe: Recipe,
    report: Callable[[str], None],
    *,
    predictions: Path | None = None,
    device: str = "cpu",
    trust_remote_code: bool = False,
    precision: str | None = None,
) -> dict[str, Score]:
    """Generates for the test data, scores it, and writes outputs and figures.

    Args:
        recipe ([`Recipe`]): `output` is the model; `data`, `generation` and `evaluation` say what is done.
        report (`Callable[[str], None]`): Receives messages for the user.
        predictions (`Path`, *optional*): Folder for `predictions.jsonl` and `results.json`, by default `evaluation`
            in the model's folder.
        device (`str`, *optional*, defaults to "cpu"): Where to run.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code from the model's folder may run.
        precision (`str`, *optional*): Numbers to decode with, see [`load_model_folder`].

    Returns:
        `dict[str, Score]`: All figures by name.

    Raises:
        ImportError: If a package is missing.
        OSError: If model or data cannot be read.
        ValueError: If the data does not fit the recipe.
    """
    options = recipe.evaluation
    text_metrics = [name for name in options.metrics if name != "perplexity"]
    check_metric_packages(text_metrics)
    model, tokenizer = load_model_folder(
        recipe.output, device=device, trust_remote_code=trust_remote_code, precision=precision
    )
    tokenizers = PairTokenizers(tokenizer, load_target_tokenizer(recipe.output) or tokenizer)
    pairs = read_pairs(recipe.data, "test")
    entries = merge_references(pairs) if recipe.data.merge_references else list(pairs)
    scores: dict[str, Score] = {}
    outputs: list[str] = []
    if text_metrics:
        outputs = _generate(recipe, model, tokenizers, entries)
        hypotheses, references = outputs, [entry["references"] for entry in entries]
        if options.bpe_joiner is not None:
            joiner = options.bpe_joiner
            hypotheses = [join_bpe(text, joiner) for text in hypotheses]
            references = [[join_bpe(text, joiner) for text in texts] for texts in references]
        scores |= score_texts(text_metrics, hypotheses, references, language=options.language)
    if "perplexity" in options.metrics:
        scores |= _perplexity(recipe, model, tokenizers, pairs)
    folder = predictions or Path(recipe.output) / "evaluation"
    _write(recipe, folder, entries, outputs, scores)
    width = max(map(len, scores))
    for name, score in scores.items():
        report(f"{name.ljust(width)}  {score.value:8.3f}  {score.settings}")
    report(f"{len(entries):,} entries; outputs and figures are in {folder}.")
    return scores


def _generate(
    recipe: Recipe, model: PreTrainedModel, tokenizers: PairTokenizers, entries: list[dict[str, Any]]
) -> list[str]:
    """Generates for every entry, long sources first (so that a batch too large fails at once), in their order."""
    search = recipe.generation
    order = sorted(range(len(entries)), key=lambda idx: -len(entries[idx]["source"]))
    if_beams: dict[str, Any] = {"length_penalty": search.length_penalty} if search.num_beams > 1 else {}
    texts = generate_texts(
        model,
        tokenizers.source,
        (entries[idx]["source"] for idx in order),
        batch_size=recipe.evaluation.batch_size,
        target_tokenizer=tokenizers.target,
        truncate=True,
        num_beams=search.num_beams,
        max_new_tokens=search.max_new_tokens or recipe.data.max_target_length,
        no_repeat_ngram_size=search.no_repeat_ngram_size,
        **if_beams,
    )
    shown = progress_over(texts, len(entries), "generating", "texts")
    written = {idx: text for idx, (text,) in zip(order, shown, strict=True)}
    return [written[idx] for idx in range(len(entries))]


def _perplexity(recipe: Recipe, model: PreTrainedModel, tokenizers: PairTokenizers, pairs: Any) -> dict[str, Score]:
    data = recipe.data
    encoded = encode_pairs(
        pairs,
        tokenizers,
        max_source_length=data.max_source_length,
        max_target_length=data.max_target_length,
        too_long="truncate",
        split="test",
    )
    pad = tokenizers.source.pad_token_id
    collate = PairCollator(int(tokenizers.target.pad_token_id if pad is None else pad))
    size = recipe.evaluation.batch_size

    def batches() -> Iterator[dict[str, torch.Tensor]]:
        for start in range(0, len(encoded), size):
            yield collate([encoded[idx] for idx in range(start, min(start + size, len(encoded)))])

    loss, num_tokens = mean_token_loss(model, batches())
    return {"perplexity": Score(perplexity(loss), f"{num_tokens} target tokens", greater_is_better=False)}


def _write(
    recipe: Recipe, folder: Path, entries: list[dict[str, Any]], outputs: list[str], scores: dict[str, Score]
) -> None:
    lines = [
        json.dumps(
            {"source": entry["source"], "prediction": output, "references": entry["references"]}, ensure_ascii=False
        )
        for entry, output in zip(entries, outputs, strict=False)
    ]
    if lines:
        write_text(folder / PREDICTIONS_FILE, "\n".join(lines) + "\n")
    write_json(
        folder / RESULTS_FILE,
        {
            "scores": {name: asdict(score) for name, score in scores.items()},
            "num_entries": len(entries),
            "model": recipe.output,
            "data": {name: value for name, value in asdict(recipe.data).items() if name in _DATA_NAMES},
            "generation": asdict(recipe.generation),
        },
    )
