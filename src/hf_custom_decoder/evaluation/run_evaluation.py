"""A trained model on test data: outputs, metrics, and both as files."""

import itertools
import json
import math
import random
from collections.abc import Callable, Iterable, Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..atomic_files import write_json, write_text
from ..data.pair_collator import PairCollator
from ..data.pair_encoding import PairTokenizers, encode_pairs, with_end
from ..data.pair_tables import merge_references, read_pairs
from ..hub.card_results import CardResult, update_card
from ..hub.model_folder import load_model_folder
from ..training.progress_bar import progress_over
from ..training.recipe_options import EvaluationOptions, Recipe
from ..training.recipe_reading import read_recipe
from ..training.recipe_tokenizers import load_target_tokenizer
from .batched_generation import generate_texts
from .minimum_risk import least_risk, sentence_utility
from .output_flags import flagged_rows, output_flags
from .paired_bootstrap import PREDICTIONS_FILE
from .perplexity import perplexity, row_losses
from .processes import Processes, joined_processes, own_device
from .sentence_scores import sentence_scores
from .text_metrics import Score, check_metric_packages, join_bpe, score_texts

RESULTS_FILE = "results.json"
EARLIER_FILE = "predictions.earlier.jsonl"
_RECIPE_FILE = "recipe.yaml"
_HUB_METRICS = {
    "bleu_tokenized": "bleu",
    "rouge1": "rouge",
    "rouge2": "rouge",
    "rougeL": "rouge",
    "rougeLsum": "rouge",
    "token_f1": "f1",
    "token_error_rate": "wer",
    "perplexity_per_byte": "perplexity",
}
"""Names of metrics on the Hub, where they are others."""
_NO_LIMIT = 10**9
"""Tokens of a source of which no recipe says anything: what the tokenizer allows."""
_DATA_NAMES = ("dataset", "config", "revision", "test", "source", "target")


def evaluation_recipe(
    recipe_file: Path | None, model: str | None, data: list[str] | None, overrides: dict[str, str]
) -> Recipe:
    """Finds out what to measure from the arguments of the command.

    Args:
        recipe_file (`Path`, *optional*): A recipe; without it the one in the model's folder, if there is one.
        model (`str`, *optional*): The model's folder or Hub name; without it the recipe's `output`.
        data (`list[str]`, *optional*): Test file(s) in place of the recipe's; their form is told by their names unless
            `overrides` gives it.
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
    if recipe_file is None and not {"max_source_length", "data.max_source_length"} & set(overrides):
        recipe = replace(recipe, data=replace(recipe.data, max_source_length=_NO_LIMIT))
    if model is not None:
        recipe = replace(recipe, output=model)
    if data:
        form = recipe.data.format if {"format", "data.format"} & set(overrides) else None
        recipe = replace(recipe, data=replace(recipe.data, dataset=None, test=data, format=form))
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

    Where `torchrun` or `accelerate launch` has started several processes, they share the batches; the first one reads
    the data, scores, writes and reports, with the outputs and figures of one process alone.

    Args:
        recipe ([`Recipe`]): `output` is the model; `data`, `generation` and `evaluation` say what is done.
        report (`Callable[[str], None]`): Receives messages for the user.
        predictions (`Path`, *optional*): Folder for `predictions.jsonl` and `results.json`, by default `evaluation`
            in the model's folder.
        device (`str`, *optional*, defaults to "cpu"): Where to run.
        trust_remote_code (`bool`, *optional*, defaults to `False`): Whether code from the model's folder may run.
        precision (`str`, *optional*): Numbers to decode with, see [`load_model_folder`].

    Returns:
        `dict[str, Score]`: All figures by name; empty on all processes but the first.

    Raises:
        ImportError: If a package is missing.
        OSError: If model or data cannot be read, or another process has ended.
        ValueError: If the data does not fit the recipe, or another process has failed.
    """
    options = recipe.evaluation
    text_metrics = [name for name in options.metrics if name != "perplexity"]
    folder = predictions or Path(recipe.output) / "evaluation"
    if folder.exists() and not folder.is_dir():
        raise NotADirectoryError(f"Outputs and figures go into a folder, but {folder} is a file. Name another one.")
    with joined_processes() as processes:
        with processes.in_step():
            utilities = [] if options.minimum_risk is None else [options.minimum_risk]
            check_metric_packages([*text_metrics, *utilities], language=options.language)
        for is_my_turn in (processes.is_first, not processes.is_first):  # code of the folder is copied once
            with processes.in_step():
                if is_my_turn:
                    model, tokenizer = load_model_folder(
                        recipe.output,
                        device=own_device(device) if processes.num_processes > 1 else device,
                        trust_remote_code=trust_remote_code,
                        precision=precision,
                    )
                    tokenizers = PairTokenizers(tokenizer, load_target_tokenizer(recipe.output) or tokenizer)
        longest = min(recipe.data.max_source_length, tokenizer.model_max_length)
        recipe = replace(recipe, data=replace(recipe.data, max_source_length=longest))
        with processes.in_step():
            pairs = read_pairs(recipe.data, "test") if processes.is_first else []
        entries = merge_references(pairs) if recipe.data.merge_references else list(pairs)
        lists = _generate(recipe, model, tokenizers, entries, processes) if text_metrics else None
        measured = None
        if "perplexity" in options.metrics:
            measured = pair_perplexity(recipe, model, tokenizers, pairs, processes)
    if not processes.is_first:
        return {}
    scores: dict[str, Score] = {}
    rows: list[dict[str, Any]] = []
    flags: dict[str, list[int]] = {}
    if lists is not None:
        rows = _prediction_rows(recipe, entries, lists)
        hypotheses = [_join(options, row["prediction"]) for row in rows]
        references = [[_join(options, text) for text in row["references"]] for row in rows]
        scores |= score_texts(text_metrics, hypotheses, references, language=options.language)
        singles = sentence_scores(text_metrics, hypotheses, references, language=options.language)
        for row, single, hypothesis, texts in zip(rows, singles, hypotheses, references, strict=True):
            row["scores"] = single
            row["flags"] = output_flags(_join(options, row["source"]), hypothesis, texts)
        flags = flagged_rows([row["flags"] for row in rows])
    if measured is not None:
        found, losses = measured
        scores |= found
        if not recipe.data.merge_references:
            for row, loss in zip(rows, losses, strict=bool(rows)):
                row["scores"]["nats_per_token"] = loss
    _write(recipe, folder, rows, len(entries), scores, flags, report)
    width = max(map(len, scores))
    for name, score in scores.items():
        report(f"{name.ljust(width)}  {score.value:8.3f}  {score.settings}")
    for name, numbers in flags.items():
        if numbers:
            shown = ", ".join(map(str, numbers[:10])) + (", ..." if len(numbers) > 10 else "")
            report(f"{name.replace('_', ' ')}: {len(numbers):,} of {len(rows):,} outputs (lines {shown})")
    _report_cut(recipe, tokenizers, entries, report)
    report(f"{len(entries):,} entries; outputs and figures are in {folder}.")
    if options.update_card:
        _update_card(recipe, scores, report)
    return scores


def _generate(
    recipe: Recipe,
    model: PreTrainedModel,
    tokenizers: PairTokenizers,
    entries: list[dict[str, Any]],
    processes: Processes,
) -> list[list[str]] | None:
    """Generates for every entry, long sources first (so that a batch too large fails at once), in their order.

    Whole batches are shared out, so that no output depends on the number of processes. Returns None on all of them but
    the first.
    """
    search, size = recipe.generation, recipe.evaluation.batch_size
    order = sorted(range(len(entries)), key=lambda idx: -len(entries[idx]["source"]))
    settings: dict[str, Any] = {"do_sample": search.do_sample}
    if search.num_beams > 1:
        settings["length_penalty"] = search.length_penalty
    if search.do_sample:
        settings |= {"temperature": search.temperature, "top_k": 0, "top_p": 1.0}  # of all tokens

    def texts_of(number: int, sources: list[str]) -> Iterator[list[str]]:
        torch.manual_seed(random.Random(f"{recipe.evaluation.seed}, batch {number}").getrandbits(63))
        return generate_texts(
            model,
            tokenizers.source,
            sources,
            batch_size=size,
            num_return_sequences=search.num_return_sequences,
            target_tokenizer=tokenizers.target,
            truncate=True,
            max_source_length=recipe.data.max_source_length,
            num_beams=search.num_beams,
            max_new_tokens=search.max_new_tokens or recipe.data.max_target_length,
            no_repeat_ngram_size=search.no_repeat_ngram_size,
            **settings,
        )

    def write(share: Iterable[tuple[int, list[str]]]) -> list[list[list[str]]]:
        batches = list(share)
        texts: Iterator[list[str]] = itertools.chain.from_iterable(itertools.starmap(texts_of, batches))
        if processes.is_first:
            texts = progress_over(texts, sum(len(sources) for _, sources in batches), "generating", "texts")
        with torch.random.fork_rng(devices=[model.device] if model.device.type == "cuda" else []):
            written = iter(list(texts))
        return [list(itertools.islice(written, len(sources))) for _, sources in batches]

    batches = [[entries[idx]["source"] for idx in order[start : start + size]] for start in range(0, len(order), size)]
    found = processes.share_out(enumerate(batches), write)
    if found is None:
        return None
    by_entry = dict(zip(order, itertools.chain.from_iterable(found), strict=True))
    return [by_entry[idx] for idx in range(len(entries))]


def _report_cut(
    recipe: Recipe, tokenizers: PairTokenizers, entries: list[dict[str, Any]], report: Callable[[str], None]
) -> None:
    limit = recipe.data.max_source_length
    lengths = map(len, with_end(tokenizers.source, [entry["source"] for entry in entries], is_needed=False))
    if num_cut := sum(length > limit for length in lengths):
        report(f"{num_cut:,} of {len(entries):,} sources were cut to {limit:,} tokens (`data.max_source_length`).")


def _prediction_rows(recipe: Recipe, entries: list[dict[str, Any]], lists: list[list[str]]) -> list[dict[str, Any]]:
    """What the file of predictions says of every entry, the chosen output first."""
    options = recipe.evaluation
    utility = None if options.minimum_risk is None else sentence_utility(options.minimum_risk, options.language)
    rows = []
    for entry, texts in zip(entries, lists, strict=True):
        chosen = 0 if utility is None else least_risk([_join(options, text) for text in texts], utility)
        row = {"source": entry["source"], "prediction": texts[chosen], "references": entry["references"]}
        if len(texts) > 1:
            row["n_best"] = texts
        rows.append(row)
    return rows


def _join(options: EvaluationOptions, text: str) -> str:
    return text if options.bpe_joiner is None else join_bpe(text, options.bpe_joiner)


def pair_perplexity(
    recipe: Recipe, model: PreTrainedModel, tokenizers: PairTokenizers, pairs: Any, processes: Processes | None = None
) -> tuple[dict[str, Score], list[float]] | None:
    """Perplexity a target token, and a byte of the target's text (which does not depend on the tokenizer).

    The end token's cost is part of both. Targets that were cut count for the first only. Unknown tokens hide what
    they stand for, so they are counted beside the second.

    Args:
        recipe ([`Recipe`]): Its lengths and batch size are used.
        model ([`~transformers.PreTrainedModel`]): Of both sides.
        tokenizers ([`PairTokenizers`]): Of both sides.
        pairs (`datasets.Dataset`): With `source` and `target`; only the first process is asked for them.
        processes ([`Processes`], *optional*): Those that share the work.

    Returns:
        `tuple[dict[str, Score], list[float]]`: Both figures, and the nats a token of every pair; None on all processes
        but the first.
    """
    processes = processes or Processes()
    data = recipe.data
    encoded: Any = []
    with processes.in_step():
        if processes.is_first:
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

    def measure(share: Iterable[list[dict[str, list[int]]]]) -> list[list[tuple[float, int]]]:
        return [row_losses(model, [collate(batch)]) for batch in share]

    starts = range(0, len(encoded), size)
    batches = ([encoded[idx] for idx in range(start, min(start + size, len(encoded)))] for start in starts)
    found = processes.share_out(batches, measure)
    if found is None:
        return None
    losses = list(itertools.chain.from_iterable(found))
    num_tokens = sum(count for _, count in losses)
    mean = sum(total for total, _ in losses) / num_tokens
    scores = {"perplexity": Score(perplexity(mean), f"{num_tokens} target tokens", greater_is_better=False)}
    labels, unknown = list(encoded["labels"]), tokenizers.target.unk_token_id
    whole = _whole_targets(tokenizers, list(pairs["target"]), labels, data.max_target_length)
    num_bytes = sum(len(text.encode()) for text in whole.values())
    if num_bytes:
        num_unknown = sum(token == unknown for idx in whole for token in labels[idx])
        settings = f"{num_bytes} bytes of {len(whole)} targets, {num_unknown} tokens unknown"
        cost = sum(losses[idx][0] for idx in whole) / num_bytes
        scores["perplexity_per_byte"] = Score(perplexity(cost), settings, greater_is_better=False)
    return scores, [total / count for total, count in losses]


def _whole_targets(
    tokenizers: PairTokenizers, texts: list[str], labels: list[list[int]], max_length: int
) -> dict[int, str]:
    """Targets by index, without those that were cut."""
    full = [idx for idx, ids in enumerate(labels) if len(ids) == max_length]
    again = with_end(tokenizers.target, [texts[idx] for idx in full], is_needed=True) if full else []
    cut = {idx for idx, ids in zip(full, again, strict=True) if len(ids) > max_length}
    return {idx: text for idx, text in enumerate(texts) if idx not in cut}


def _update_card(recipe: Recipe, scores: dict[str, Score], report: Callable[[str], None]) -> None:
    """Puts the figures into the card of a folder; a part of the data says nothing about the model."""
    card, data = Path(recipe.output) / "README.md", recipe.data
    if not card.is_file() or data.max_rows is not None:
        return
    files = [data.test] if isinstance(data.test, str) else data.test or []
    revision = "" if data.revision is None else f", revision {data.revision}"
    search = recipe.generation
    how = f"{search.num_beams} beams" if not search.do_sample else f"drawn, temperature {search.temperature}"
    if recipe.evaluation.minimum_risk is not None:
        how = f"{how}, minimum Bayes risk with {recipe.evaluation.minimum_risk} over {search.num_return_sequences}"
    results = [
        CardResult(
            task=recipe.card.task,
            dataset_type=data.dataset or "local",
            dataset_name=f"{data.dataset or ', '.join(Path(file).name for file in files)}{revision}",
            dataset_split="+".join(files) if data.dataset else "test",
            metric_type=_HUB_METRICS.get(name, name),
            metric_name=name,
            value=score.value,
            settings=score.settings if name.startswith("perplexity") else f"{how}; {score.settings}",
        )
        for name, score in scores.items()
        if math.isfinite(score.value)
    ]
    if update_card(card, results, model_name=recipe.card.title or Path(recipe.output).name):
        report(f"The figures are in the metadata of {card}.")


def _write(
    recipe: Recipe,
    folder: Path,
    rows: list[dict[str, Any]],
    num_entries: int,
    scores: dict[str, Score],
    flags: dict[str, list[int]],
    report: Callable[[str], None],
) -> None:
    if rows:
        lines = [json.dumps(row, ensure_ascii=False) for row in rows]
        write_text(folder / PREDICTIONS_FILE, "\n".join(lines) + "\n")
    elif (folder / PREDICTIONS_FILE).is_file():  # of an earlier evaluation, which the new results do not speak of
        (folder / PREDICTIONS_FILE).replace(folder / EARLIER_FILE)
        report(f"No texts were written: those of an earlier evaluation are in {folder / EARLIER_FILE} now.")
    write_json(
        folder / RESULTS_FILE,
        {
            "scores": {name: asdict(score) for name, score in scores.items()},
            "flags": {name: {"count": len(numbers), "rows": numbers} for name, numbers in flags.items()},
            "num_entries": num_entries,
            "model": recipe.output,
            "data": {name: value for name, value in asdict(recipe.data).items() if name in _DATA_NAMES},
            "generation": asdict(recipe.generation),
            "evaluation": asdict(recipe.evaluation),
        },
    )
