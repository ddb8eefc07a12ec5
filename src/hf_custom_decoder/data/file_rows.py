"""Rows of local files: as tables that are mapped into memory, or as streams."""

import glob
import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import islice, zip_longest
from pathlib import Path
from typing import Any

from ..atomic_files import temporary_name
from .json_rows import JSON_COLUMN, JsonRows, json_lines, merged, shape_of
from .text_files import UNREADABLE, open_bytes, read_lines

Row = dict[str, Any]
_ROWS_AT_ONCE = 10_000
_LOOKED_AT = 10_000_000  # characters of JSON whose keys are the columns


@dataclass(frozen=True)
class FileReader:
    """A way to make rows of files.

    Args:
        name (`str`): Tells its tables from those of other readers of the same files.
        read (`Callable`): Yields the rows of files that belong together, with these columns.
    """

    name: str
    read: Callable[[tuple[Path, ...], tuple[str, ...]], Iterator[Row]]


def plain_rows(batch: Mapping[str, list[Any]]) -> Iterator[Row]:
    """Yields the rows of a batch of columns."""
    for values in zip(*batch.values(), strict=True):
        yield dict(zip(batch, values, strict=True))


@dataclass(frozen=True)
class SplitRows:
    """One split as it is.

    Args:
        table (`datasets.Dataset` or `datasets.IterableDataset`): With the columns `stored`.
        stored (`list[str]`): Columns of the table.
        columns (`list[str]`): Columns of the rows that `read_batch` makes of a batch of the table.
        name (`str`): What the split is called in messages.
        read_batch (`Callable`, *optional*): Makes rows of a batch of the table; by default they are as stored.
    """

    table: Any
    stored: list[str]
    columns: list[str]
    name: str
    read_batch: Callable[[Mapping[str, list[Any]]], Iterator[Row]] = plain_rows


def read_json(datasets: Any, files: list[Path], cache_dir: str | None, streaming: bool) -> SplitRows:
    """Reads JSON, a row stored as a line; the columns are those that every file has."""
    shapes = [shape_of(json_lines(file), _LOOKED_AT // len(files)) for file in files]
    name, columns = _columns_in_all(files, [list(shape) for shape in shapes])
    table = _table(
        datasets, FileReader("json", _json_rows), [(file,) for file in files], (JSON_COLUMN,), cache_dir, streaming
    )
    return SplitRows(table, [JSON_COLUMN], columns, name, JsonRows(merged(shapes)))


def read_separated(
    datasets: Any, files: list[Path], cache_dir: str | None, streaming: bool, *, settings: dict[str, Any]
) -> SplitRows:
    """Reads CSV or TSV, every value as text; `settings` are those of `pandas.read_csv`."""
    name, columns = _columns_in_all(files, [_header(file, settings) for file in files])
    reader = FileReader(f"separated, a line feed ends a row {settings}", partial(_separated_rows, settings=settings))
    table = _table(datasets, reader, [(file,) for file in files], tuple(columns), cache_dir, streaming)
    return SplitRows(table, columns, columns, name)


def read_text(datasets: Any, files: list[Path], cache_dir: str | None, streaming: bool) -> SplitRows:
    """Reads a text a line, in the column `text`."""
    table = _table(
        datasets, FileReader("text", _text_rows), [(file,) for file in files], ("text",), cache_dir, streaming
    )
    return SplitRows(table, ["text"], ["text"], _names(files))


def read_parallel(
    datasets: Any, files: list[Path], cache_dir: str | None, streaming: bool, *, columns: tuple[str, str]
) -> SplitRows:
    """Reads sources and targets, paired line by line, into columns of these names, which differ."""
    if len(files) != 2:
        raise ValueError(f"Parallel text must be two files, sources and targets, got {len(files)}: {_names(files)}.")
    table = _table(datasets, FileReader("parallel", _parallel_rows), [tuple(files)], columns, cache_dir, streaming)
    return SplitRows(table, list(columns), list(columns), _names(files))


def read_parquet(datasets: Any, files: list[Path], cache_dir: str | None, streaming: bool) -> SplitRows:
    """Reads Parquet, whose columns have types of their own; the columns are those that every file has."""
    import pyarrow.parquet  # type: ignore[import-untyped]

    names = [glob.escape(str(file.resolve())) for file in files]
    try:
        shapes = [pyarrow.parquet.read_schema(file).names for file in files]
        called, columns = _columns_in_all(files, shapes)
        are_all = all(set(shape) == set(columns) for shape in shapes)
        some = {} if are_all else {"columns": columns}
        table = datasets.load_dataset(
            "parquet", data_files=names, split="train", streaming=streaming, cache_dir=cache_dir, **some
        )
        columns = table.column_names or list(next(iter(table), {}))
    except (datasets.exceptions.DatasetGenerationError, ValueError, TypeError) as error:
        reason = " ".join(str(error.__cause__ or error).split())
        raise ValueError(f"{_names(files)} could not be read as parquet: {reason}") from error
    return SplitRows(table, columns, columns, called)


def _separated_rows(files: tuple[Path, ...], columns: tuple[str, ...], *, settings: dict[str, Any]) -> Iterator[Row]:
    import pandas  # type: ignore[import-untyped]

    for frame in _frames(files[0], {**settings, "chunksize": _ROWS_AT_ONCE}):
        if not isinstance(frame.index, pandas.RangeIndex):  # pandas takes the first fields for names of rows
            count = len(frame.columns) + frame.index.nlevels
            raise ValueError(
                f"{files[0]} must have a name for every field, but its first row has {count} and its header names "
                f"{', '.join(map(repr, frame.columns))}. Name the others too, or take them out."
            )
        for row in zip(*(frame[column] for column in frame.columns), strict=True):
            values = _without_line_end(row)
            if values:
                named = dict(zip(frame.columns, values, strict=True))
                yield {column: named[column] for column in columns}


def _without_line_end(row: tuple[Any, ...]) -> list[str | None]:
    """The fields of a row without the carriage return of its line end; none of a blank line."""
    values = [value if isinstance(value, str) else None for value in row]
    last = max((place for place, value in enumerate(values) if value), default=0)
    value = values[last]
    if value is not None and value.endswith("\r"):
        if value == "\r" and last == 0:
            return []
        values[last] = value[:-1]
    return values


def _header(file: Path, settings: dict[str, Any]) -> list[str]:
    (frame,) = _frames(file, {**settings, "nrows": 0})
    return [str(column) for column in frame.columns]


def _frames(file: Path, settings: dict[str, Any]) -> Iterator[Any]:
    """Parts of a table; only a line feed, with or without a carriage return before it, ends a row."""
    import pandas

    settings = {"dtype": str, "keep_default_na": False, "encoding": "utf-8-sig", "lineterminator": "\n", **settings}
    try:
        with open_bytes(file) as stream:
            found = pandas.read_csv(stream, **settings)
            for frame in found if "chunksize" in settings else [found]:
                if len(frame.columns):
                    last = str(frame.columns[-1])
                    frame.columns = [*frame.columns[:-1], last.removesuffix("\r")]
                yield frame
    except (ValueError, *UNREADABLE) as error:  # the errors of pandas are ValueErrors
        raise ValueError(f"{file} could not be read as a table: {' '.join(str(error).split())}") from error


def _json_rows(files: tuple[Path, ...], columns: tuple[str, ...]) -> Iterator[Row]:
    return ({columns[0]: line} for line in json_lines(files[0]))


def _text_rows(files: tuple[Path, ...], columns: tuple[str, ...]) -> Iterator[Row]:
    return ({columns[0]: line} for line in read_lines(files[0]))


def _parallel_rows(files: tuple[Path, ...], columns: tuple[str, ...]) -> Iterator[Row]:
    for source, target in zip_longest(*map(read_lines, files)):
        if source is None or target is None:
            raise ValueError(f"Parallel text must have equally many lines: {files[0]} and {files[1]} differ.")
        yield {columns[0]: source, columns[1]: target}


def _table(
    datasets: Any,
    reader: FileReader,
    parts: list[tuple[Path, ...]],
    columns: tuple[str, ...],
    cache_dir: str | None,
    streaming: bool,
) -> Any:
    """Makes a stream, or a table that is kept for as long as the files stay as they are, of texts."""
    if streaming:
        return datasets.IterableDataset.from_generator(
            _rows_of_parts, gen_kwargs={"parts": parts, "columns": columns, "reader": reader}
        )
    import pyarrow as pa

    known = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for part in parts for file in part]
    key = hashlib.sha256(repr((known, columns, reader.name)).encode()).hexdigest()[:32]
    path = Path(cache_dir or datasets.config.HF_DATASETS_CACHE).expanduser() / "text_files" / key / "rows.arrow"
    if not path.is_file():
        schema = pa.schema([(column, pa.string()) for column in columns])
        rows = _rows_of_parts(parts, columns, reader)
        with temporary_name(path) as temporary, pa.ipc.new_stream(str(temporary), schema) as writer:
            while some := list(islice(rows, _ROWS_AT_ONCE)):
                writer.write_batch(pa.RecordBatch.from_pylist(some, schema=schema))
    return datasets.Dataset.from_file(str(path))


def _rows_of_parts(parts: list[tuple[Path, ...]], columns: tuple[str, ...], reader: FileReader) -> Iterator[Row]:
    for part in parts:
        yield from reader.read(part, columns)


def _columns_in_all(files: list[Path], found: list[list[str]]) -> tuple[str, list[str]]:
    """Returns what the files are called, with their columns if these differ, and the columns that all have."""
    filled = {file: columns for file, columns in zip(files, found, strict=True) if columns}
    first = next(iter(filled.values()), [])
    if all(set(columns) == set(first) for columns in filled.values()):
        return _names(files), first
    name = ", ".join(f"{file} ({', '.join(columns)})" for file, columns in filled.items())
    common = [column for column in first if all(column in columns for columns in filled.values())]
    if not common:
        raise ValueError(f"Files of one split must have columns in common, got {name}.")
    return name, common


def _names(files: Iterable[Path]) -> str:
    return ", ".join(map(str, files))
