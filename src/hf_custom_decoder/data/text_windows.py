"""Unlabelled text from the Hub or from files, and the windows of tokens that it is cut into."""

from collections.abc import Callable, Iterator
from typing import Any

from transformers import PreTrainedTokenizerBase

from ..training.recipe_options import DataOptions
from .column_paths import ColumnText
from .pair_tables import load_rows

LEAST_TOKENS = 2
"""Shorter windows are left out: nothing could be hidden and something stay."""


def read_texts(options: DataOptions, split: str, columns: list[str], option: str, *, streaming: bool = False) -> Any:
    """Reads one split as unlabelled text.

    Args:
        options ([`DataOptions`]): Where the data is.
        split (`str`): "train" or "validation".
        columns (`list[str]`): Columns of text, in the forms of [`ColumnText`]; each text of a row is a document.
        option (`str`): Name of the recipe's option for them, for messages.
        streaming (`bool`, *optional*, defaults to `False`): Read rows as they are needed.

    Returns:
        `datasets.Dataset` or `datasets.IterableDataset`: With the column `text`, without blank ones.

    Raises:
        ImportError: If `datasets` is not installed.
        OSError: If a file is not there, or the Hub could not be asked.
        ValueError: If a column is missing, or no text is left.
    """
    rows = load_rows(options, split, streaming=streaming)
    chosen = [ColumnText(column, option) for column in columns]
    for column in chosen:
        column.check(rows.columns, rows.name)
    texts = rows.table.map(
        _make_texts,
        batched=True,
        remove_columns=rows.stored,
        fn_kwargs={"read_batch": rows.read_batch, "columns": chosen, "lowercase": options.lowercase},
        **({} if streaming else {"desc": f"reading {split}"}),
    )
    if not streaming and len(texts) == 0:
        raise ValueError(
            f"`{option}` must lead to text, but in all {len(rows.table)} rows of {rows.name} it is empty."
        )
    return texts


def cut_windows(
    texts: Any,
    tokenizer: PreTrainedTokenizerBase,
    *,
    window: int,
    join_documents: bool,
    split: str,
    streaming: bool = False,
) -> Any:
    """Cuts text, or a stream of text, into windows of tokens.

    A document gives windows of `window` tokens from its start on; the last one holds the rest. With `join_documents`,
    a thousand documents at a time are put one after another, an end token behind each, before they are cut. Windows of
    one token are left out.

    Returns:
        The same kind of data with `ids` (no special tokens around them) and `length` in tokens.

    Raises:
        ValueError: If no window is left; of a stream this is not known.
    """
    windows = texts.map(
        _cut,
        batched=True,
        batch_size=1000,
        remove_columns=["text"],
        fn_kwargs={"tokenizer": tokenizer, "window": window, "join_documents": join_documents},
        **({} if streaming else {"desc": f"cutting {split}"}),
    )
    if not streaming and len(windows) == 0:
        raise ValueError(
            f"The {len(texts)} texts of {split} must give windows of at least {LEAST_TOKENS} tokens, got none. Join "
            "short ones with `pretraining.join_documents: true`."
        )
    return windows


def _make_texts(
    rows: dict[str, list[Any]],
    *,
    read_batch: Callable[[dict[str, list[Any]]], Iterator[dict[str, Any]]],
    columns: list[ColumnText],
    lowercase: bool,
) -> dict[str, list[str]]:
    texts = []
    for row in read_batch(rows):
        texts += [text for column in columns for text in column.texts(row)]
    return {"text": [text.lower() for text in texts] if lowercase else texts}


def _cut(
    rows: dict[str, list[str]], *, tokenizer: PreTrainedTokenizerBase, window: int, join_documents: bool
) -> dict[str, list[Any]]:
    documents: list[list[int]] = tokenizer(
        rows["text"],
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
    )["input_ids"]
    if join_documents:
        documents = [[idx for document in documents for idx in (*document, tokenizer.eos_token_id)]]
    windows = [document[start : start + window] for document in documents for start in range(0, len(document), window)]
    windows = [ids for ids in windows if len(ids) >= LEAST_TOKENS]
    return {"ids": windows, "length": [len(ids) for ids in windows]}
