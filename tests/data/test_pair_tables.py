"""Pairs from every form of file, and the mistakes that end before training."""

import csv
import gzip
import json
from pathlib import Path
from typing import Any

import pytest

from hf_custom_decoder.data.column_paths import ColumnText
from hf_custom_decoder.data.pair_tables import merge_references, read_pairs
from hf_custom_decoder.training.recipe_options import DataOptions

datasets = pytest.importorskip("datasets")

ROWS = [("a dog", 'ein "Hund"'), ("None", "NA"), ("two\u2028parts", "zwei Teile")]


def options(folder: Path, train: Any, **changes: Any) -> DataOptions:
    return DataOptions(train=train, **{"source": "en", "target": "de", "cache_dir": str(folder / "cache"), **changes})


def texts(pairs: Any) -> list[tuple[str, str]]:
    return [(pair["source"], pair["target"]) for pair in pairs]


def write(folder: Path, form: str) -> Any:
    lines = [json.dumps({"en": en, "de": de}) for en, de in ROWS]
    if form == "parquet":
        path = folder / "rows.parquet"
        datasets.Dataset.from_list([json.loads(line) for line in lines]).to_parquet(path)
        return str(path)
    if form == "csv":
        with (folder / "rows.csv").open("w", newline="") as stream:
            csv.writer(stream).writerows([("en", "de"), *ROWS])
        return str(folder / "rows.csv")
    if form == "tsv.gz":
        with gzip.open(folder / "rows.tsv.gz", "wt", encoding="utf-8") as stream:
            stream.write("".join(f"{en}\t{de}\n" for en, de in [("en", "de"), *ROWS]))
        return str(folder / "rows.tsv.gz")
    if form == "parallel":
        for side, name in enumerate(("text.en", "text.de.gz")):
            opened = gzip.open if name.endswith("gz") else open
            with opened(folder / name, "wt", encoding="utf-8") as stream:
                stream.write("".join(f"{row[side]}\n" for row in ROWS))
        return [str(folder / "text.en"), str(folder / "text.de.gz")]
    path = folder / ("rows.jsonl.gz" if form == "jsonl.gz" else "rows.jsonl")
    opened = gzip.open if form == "jsonl.gz" else open
    with opened(path, "wt", encoding="utf-8") as stream:
        stream.write("\n".join(lines))
    return str(path)


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("form", ["jsonl", "jsonl.gz", "csv", "tsv.gz", "parquet", "parallel"])
def test_forms(tmp_path: Path, form: str, streaming: bool) -> None:
    rows = read_pairs(options(tmp_path, write(tmp_path, form)), "train", streaming=streaming)
    assert texts(rows) == ROWS


def test_paths_sentences_and_lists(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    rows = [
        {"t": {"en": "A", "de": "B"}, "answers": {"text": ["x", "Y"]}, "q": "who"},
        {"t": {"en": " ", "de": "B"}, "answers": {"text": []}, "q": "what"},
    ]
    path.write_text("\n".join(map(json.dumps, rows)))
    nested = read_pairs(options(tmp_path, str(path), source="t.en", target="t.de", lowercase=True), "train")
    assert texts(nested) == [("a", "b")]
    asked = options(tmp_path, str(path), source="{q}: {t.en}", target="answers.text")
    assert list(read_pairs(asked, "train")) == [{"source": "who: A", "target": "x", "references": ["x", "Y"]}]
    assert texts(read_pairs(asked, "train", expand_targets=True)) == [("who: A", "x"), ("who: A", "Y")]


def test_references_of_equal_sources_are_merged() -> None:
    pairs = [
        {"source": s, "target": t, "references": [t]} for s, t in [("a", "1"), ("b", "2"), ("a", "3"), ("a", "1")]
    ]
    assert [(pair["source"], pair["references"]) for pair in merge_references(pairs)] == [
        ("a", ["1", "3"]),
        ("b", ["2"]),
    ]


def test_a_limit_of_rows(tmp_path: Path) -> None:
    for streaming in (False, True):
        rows = read_pairs(options(tmp_path, write(tmp_path, "jsonl"), max_rows=2), "train", streaming=streaming)
        assert texts(rows) == ROWS[:2]


@pytest.mark.parametrize(
    ("changes", "error", "message"),
    [
        ({"source": "english"}, ValueError, "`data.source` names the column 'english', but .* has 'en', 'de'"),
        ({"target": "{nl}"}, ValueError, "`data.target` names the column 'nl'"),
        ({"target": "de.text"}, ValueError, "`data.target` leads to 'de.text'"),
        ({"train": "nowhere.jsonl"}, FileNotFoundError, "found none at nowhere.jsonl"),
        ({"train": None}, ValueError, "`data.train` must name the train data"),
        ({"dataset": "nobody/nothing"}, FileNotFoundError, "'nobody/nothing' could not be read.*HF_HUB_OFFLINE"),
    ],
)
def test_mistakes(tmp_path: Path, changes: dict[str, Any], error: type[Exception], message: str) -> None:
    given = {"train": write(tmp_path, "jsonl"), **changes}
    with pytest.raises(error, match=message):
        read_pairs(options(tmp_path, **given), "train")


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("rows.xyz", "", "must be told by its name.*Set `data.format`"),
        ("rows.jsonl", '{"en": "", "de": "a"}', "must hold pairs of text, but in all 1 rows"),
        ("rows.jsonl", "{broken", "could not be read as json"),
        ("rows.csv", "en,de\n", "must hold some rows|could not be read as csv"),
    ],
)
def test_files_without_pairs(tmp_path: Path, name: str, content: str, message: str) -> None:
    (tmp_path / name).write_text(content)
    with pytest.raises(ValueError, match=message):
        read_pairs(options(tmp_path, str(tmp_path / name)), "train")


def test_parallel_text_of_unequal_length(tmp_path: Path) -> None:
    (tmp_path / "a.en").write_text("1\n2\n")
    (tmp_path / "a.de").write_text("1\n")
    with pytest.raises(ValueError, match="equally many lines"):
        read_pairs(options(tmp_path, [str(tmp_path / "a.en"), str(tmp_path / "a.de")]), "train")


def test_a_list_inside_a_sentence() -> None:
    with pytest.raises(ValueError, match="must be one text there"):
        ColumnText("say {x}", "data.source").texts({"x": ["a"]})


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize(
    ("name", "content", "expected"),
    [
        ("a.tsv", b"en\tde\na\rb\tc\n", [("a\rb", "c")]),
        ("a.csv", b"en,de\r\n a ,b\r\n\r\nc,\r\nd,e\r\n", [(" a ", "b"), ("d", "e")]),
        ("a.csv", b'de,en\r\n"x\r\ny","b"\r\n', [("b", "x\r\ny")]),
        ("a.csv", b"en,de,more\r\na,b\r\n", [("a", "b")]),  # a row that ends early
        ("a.csv", b",en,de\n0,a,b\n", [("a", "b")]),  # numbers of rows under no name
        ("a.tsv", b"en\tde\ra\tb\n", []),  # lines end as they did before 2001
    ],
)
def test_line_ends_and_fields_of_tables(
    tmp_path: Path, name: str, content: bytes, expected: list[Any], streaming: bool
) -> None:
    (tmp_path / name).write_bytes(content)
    if not expected:
        with pytest.raises(ValueError, match="must hold some rows, .* is empty"):
            read_pairs(options(tmp_path, str(tmp_path / name)), "train", streaming=streaming)
        return
    assert texts(read_pairs(options(tmp_path, str(tmp_path / name)), "train", streaming=streaming)) == expected


@pytest.mark.parametrize("content", ["en\tde\ncat\tKatze\t0.9\n", "en\tde\ncat\tKatze\t\n"])
def test_a_field_without_a_name_moves_no_other(tmp_path: Path, content: str) -> None:
    (tmp_path / "a.tsv").write_text(content)
    with pytest.raises(ValueError, match=r"a\.tsv must have a name for every field, .*row has 3 .*names 'en', 'de'"):
        list(read_pairs(options(tmp_path, str(tmp_path / "a.tsv")), "train"))


@pytest.mark.parametrize("streaming", [False, True])
@pytest.mark.parametrize("order", [1, -1])
def test_parquet_files_whose_columns_differ(tmp_path: Path, order: int, streaming: bool) -> None:
    for name, row in (("a", {"en": "a", "de": "b"}), ("b", {"en": "c", "score": 0.5, "de": "d"})):
        datasets.Dataset.from_list([row]).to_parquet(tmp_path / f"{name}.parquet")
    files = [str(tmp_path / "a.parquet"), str(tmp_path / "b.parquet")][::order]
    rows = read_pairs(options(tmp_path, files), "train", streaming=streaming)
    assert texts(rows) == [("a", "b"), ("c", "d")][::order]
    with pytest.raises(
        ValueError, match=r"names the column 'score', but .*b\.parquet \(en, score, de\).* has 'en', 'de'"
    ):
        read_pairs(options(tmp_path, files, source="score"), "train", streaming=streaming)


def test_parallel_text_in_a_sentence(tmp_path: Path) -> None:
    files = write(tmp_path, "parallel")
    rows = read_pairs(options(tmp_path, files, source="translate: {en}"), "train")
    assert texts(rows) == [(f"translate: {en}", de) for en, de in ROWS]
    for changes, message in (
        ({"source": "de"}, "must name parallel texts differently, got 'de' for both"),
        ({"target": "{en} {de}"}, "`data.target` must name one column for parallel text"),
        ({"source": "translation.en"}, "`data.source` must name one column for parallel text, without a path"),
    ):
        with pytest.raises(ValueError, match=message):
            read_pairs(options(tmp_path, files, **changes), "train")


@pytest.mark.parametrize(
    "row", [{"translation": None}, {"translation": {"en": None}}, {"translation": {"en": float("nan")}}]
)
def test_what_a_row_lacks_is_empty(row: dict[str, Any]) -> None:
    assert ColumnText("translation.en", "data.source").texts(row) == []
    assert ColumnText("x {translation.en}", "data.source").texts(row) == []


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ({"text": ["b"], "answer_start": [1]}, r"got the fields 'text', 'answer_start'. .* such as 'de\.text'"),
        ([{"text": "b"}], r"got the fields 'text'"),
        ([["b"]], "got a list in a list"),
        (b"b", "got bytes"),
    ],
)
@pytest.mark.parametrize("text", ["de", "x {de}"])
def test_what_is_no_text_is_not_written_as_one(value: Any, message: str, text: str) -> None:
    if isinstance(value, list) and text != "de":
        message = "must be one text there"
    with pytest.raises(ValueError, match=f"`data.target` .*{message}"):
        ColumnText(text, "data.target").texts({"de": value})
