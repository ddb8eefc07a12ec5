"""Training files that a model writes: targets of a teacher, and sources for text that has none."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from ..atomic_files import write_text
from ..data.pair_tables import read_pairs
from ..data.text_files import read_lines
from ..evaluation.batched_generation import generate_texts
from ..hub.model_folder import load_model_folder
from .kept_outputs import kept_outputs
from .recipe_options import DataOptions, Recipe
from .recipe_tokenizers import load_target_tokenizer

Report = Callable[[str], None]


def distill_pairs(
    recipe: Recipe, teacher: str, output: Path, report: Report, *, device: str = "cpu", fresh: bool = False
) -> Path:
    """Writes the training pairs of a recipe with the targets that a teacher's beam search finds.

    That is sequence-level distillation (Kim & Rush 2016, section 3.2): a student trained on the file learns the mode
    of the teacher's distribution. The tokenizers of teacher and student may differ.

    Args:
        recipe ([`Recipe`]): Its `data.train` is read, `generation` is the search, `evaluation.batch_size` the batch.
        teacher (`str`): Folder or Hub name of the teacher.
        output (`Path`): JSON Lines with the recipe's columns; it appears when it is complete.
        report (`Callable[[str], None]`): Receives messages for the user.
        device (`str`, *optional*, defaults to "cpu"): Where to run.
        fresh (`bool`, *optional*, defaults to `False`): Write an existing file again, and forget an interrupted run.

    Returns:
        `Path`: The file.

    Raises:
        OSError: If teacher or data cannot be read.
        ValueError: If the file is there or not named .json or .jsonl, or an interrupted run had other settings.
    """
    _check_columns(recipe.data)
    _check_output(output, recipe.data, [], fresh)
    sources = list(read_pairs(recipe.data, "train")["source"])
    partial = _partial(output)
    lengths = (recipe.data.max_source_length, recipe.data.max_target_length)
    outputs = _generate(recipe, teacher, sources, partial, lengths, device, fresh)
    return _write(recipe.data, zip(sources, outputs, strict=True), output, report)


def back_translate(
    recipe: Recipe,
    model: str,
    texts: Sequence[Path],
    output: Path,
    report: Report,
    *,
    tag: str = "<BT>",
    device: str = "cpu",
    fresh: bool = False,
) -> Path:
    """Writes pairs for text in the target language, with sources that a model of the other direction makes.

    Back-translation (Sennrich et al. 2016, section 3.1), each source marked with a tag (Caswell et al. 2019), so that
    the model can tell what a machine wrote.

    Args:
        recipe ([`Recipe`]): Of the model that is to be trained: its columns are written, `tokenizer.tags` holds the
            tag, `generation` is the search, `data.max_source_length` bounds the sources.
        model (`str`): Folder or Hub name of a model from target to source.
        texts (`Sequence[Path]`): Text files in UTF-8 (also `.gz`), one target a line; blank lines are left out.
        output (`Path`): JSON Lines with the recipe's columns; it appears when it is complete.
        report (`Callable[[str], None]`): Receives messages for the user.
        tag (`str`, *optional*, defaults to "<BT>"): Stands before every source; "" for none.
        device (`str`, *optional*, defaults to "cpu"): Where to run.
        fresh (`bool`, *optional*, defaults to `False`): Write an existing file again, and forget an interrupted run.

    Returns:
        `Path`: The file.

    Raises:
        OSError: If the model or a text cannot be read.
        ValueError: If the tokenizer to be trained would not know the tag, the file is there or not named .json or
            .jsonl, the texts are empty, or an interrupted run had other settings.
    """
    _check_columns(recipe.data)
    if tag and tag not in recipe.tokenizer.tags:
        raise ValueError(
            f"`tokenizer.tags` of the recipe must hold the tag {tag!r}, or the model would see its letters, got "
            f"{recipe.tokenizer.tags}. Add it, or give `--tag ''`."
        )
    _check_output(output, recipe.data, texts, fresh)
    targets = [line for file in texts for line in _lines(file)]
    if not targets:
        raise ValueError(f"There must be text to translate back, {', '.join(map(str, texts))} hold none.")
    partial = _partial(output)
    lengths = (recipe.data.max_target_length, recipe.data.max_source_length)
    outputs = _generate(recipe, model, targets, partial, lengths, device, fresh)
    marked = (f"{tag} {text}" if tag and text.strip() else text for text in outputs)
    return _write(recipe.data, zip(marked, targets, strict=True), output, report)


def _check_output(output: Path, data: DataOptions, texts: Sequence[Path], fresh: bool) -> None:
    """Refuses a name that says another form, a file that is there, and one that the pairs are made from."""
    if output.suffix not in (".json", ".jsonl"):
        raise ValueError(
            f"`--output` must be named .json or .jsonl, as JSON Lines are written, got {output}. Choose another name."
        )
    named = [name for split in (data.train, data.validation, data.test) for name in _as_list(split)]
    read = [*texts, *(Path(name) for name in named if data.dataset is None)]
    if output.resolve() in [file.resolve() for file in read]:
        raise ValueError(f"`--output` must be a new file, {output} is one that the recipe reads. Choose another name.")
    if output.exists() and not (fresh and output.is_file()):
        raise ValueError(
            f"`--output` must be a new file, {output} is there. Choose another name, or write it again with `--fresh`."
        )


def _partial(output: Path) -> Path:
    """The name under which outputs are kept until the file is complete."""
    return output.with_name(f"{output.name}.partial")


def _as_list(names: str | list[str] | None) -> list[str]:
    return [] if names is None else [names] if isinstance(names, str) else names


def _generate(
    recipe: Recipe,
    name: str,
    texts: Sequence[str],
    partial: Path,
    lengths: tuple[int, int],
    device: str,
    fresh: bool,
) -> list[str]:
    """Writes a text for each; `lengths` are the most tokens that the model reads and writes."""
    longest, max_length = lengths
    search = recipe.generation
    model, tokenizer = load_model_folder(name, device=device)
    options: dict[str, Any] = {
        "num_beams": search.num_beams,
        "max_new_tokens": search.max_new_tokens or max_length,
        "no_repeat_ngram_size": search.no_repeat_ngram_size,
    }
    if search.num_beams > 1:
        options["length_penalty"] = search.length_penalty

    def generate(sources: Iterator[str]) -> Iterator[str]:
        found = generate_texts(
            model,
            tokenizer,
            sources,
            batch_size=recipe.evaluation.batch_size,
            target_tokenizer=load_target_tokenizer(name),
            truncate=True,
            max_source_length=longest,
            **options,
        )
        return (text for (text,) in found)

    settings = {"model": str(name), "max_source_length": longest, **options}
    size = recipe.evaluation.batch_size
    return kept_outputs(texts, generate, partial, settings=settings, batch_size=size, fresh=fresh)


def _write(data: DataOptions, pairs: Iterator[tuple[str, str]], output: Path, report: Report) -> Path:
    lines, num_blank = [], 0
    for source, target in pairs:
        if not source.strip() or not target.strip():
            num_blank += 1
            continue
        row: dict[str, Any] = {}
        _put(row, data.source, source)
        _put(row, data.target, target)
        lines.append(json.dumps(row, ensure_ascii=False))
    if not lines:
        raise ValueError(f"The model must write something, all {num_blank:,} outputs are blank. Train it first.")
    write_text(output, "\n".join(lines) + "\n")
    _partial(output).unlink()
    blank = f" ({num_blank:,} blank ones left out)" if num_blank else ""
    report(f"{len(lines):,} pairs are in {output}{blank}. Train on them with --train {output}")
    return output


def _check_columns(data: DataOptions) -> None:
    """A file can be written in the recipe's columns only if these are columns."""
    for name, text in {"source": data.source, "target": data.target}.items():
        if "{" in text:
            raise ValueError(
                f"`data.{name}` must be a column or a path into one for pairs to be written in it, got {text!r}. "
                f"Write the sentences into files of their own first."
            )
    if data.prefix_words is not None:
        raise ValueError(
            f"Pairs of one column cannot be written again, got `data.prefix_words` {data.prefix_words}. Use two."
        )


def _put(row: dict[str, Any], path: str, text: str) -> None:
    *parents, last = path.split(".")
    for parent in parents:
        row = row.setdefault(parent, {})
    row[last] = text


def _lines(file: Path) -> Iterator[str]:
    if not file.is_file():
        raise FileNotFoundError(f"`--text` must be text files, found none at {file}.")
    return (line.strip() for line in read_lines(file) if line.strip())
