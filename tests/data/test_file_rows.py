"""What stands in a file is what is trained on, and a file that cannot be read is named."""

import bz2
import gzip
import json
import lzma
import os
from pathlib import Path
from typing import Any

import pytest

from hf_custom_decoder.data.pair_tables import read_pairs
from hf_custom_decoder.data.text_windows import read_texts
from hf_custom_decoder.training.recipe_options import DataOptions

datasets = pytest.importorskip("datasets")

BOTH = pytest.mark.parametrize("streaming", [False, True])
WRITTEN = [("007", "1979-05-03"), ("1.50", "1980-01-01"), ("true", "2001-12-31 08:00:00"), ("1e5", "NA")]


def options(folder: Path, *files: Path, **changes: Any) -> DataOptions:
    names = [str(file) for file in files]
    given = {"source": "en", "target": "de", "cache_dir": str(folder / "cache"), **changes}
    return DataOptions(train=names[0] if len(names) == 1 else names, **given)


def pairs(folder: Path, *files: Path, streaming: bool = False, **changes: Any) -> list[tuple[str, str]]:
    rows = read_pairs(options(folder, *files, **changes), "train", streaming=streaming)
    return [(row["source"], row["target"]) for row in rows]


def write_lines(path: Path, *rows: Any) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def write_pairs(path: Path, written: list[tuple[str, str]]) -> Path:
    return write_lines(path, *({"en": en, "de": de} for en, de in written))


@BOTH
@pytest.mark.parametrize("form", ["jsonl", "csv", "tsv"])
@pytest.mark.parametrize("num_rows", [1, 3, 4])
def test_strings_stay_as_written(tmp_path: Path, form: str, num_rows: int, streaming: bool) -> None:
    file = tmp_path / f"rows.{form}"
    if form == "jsonl":
        write_pairs(file, WRITTEN[:num_rows])
    else:
        blank = "," if form == "csv" else "\t"
        file.write_text("".join(f"{en}{blank}{de}\n" for en, de in [("en", "de"), *WRITTEN[:num_rows]]))
    assert pairs(tmp_path, file, streaming=streaming) == WRITTEN[:num_rows]


@BOTH
def test_lists_of_dates_stay_as_written(tmp_path: Path, streaming: bool) -> None:
    file = write_lines(tmp_path / "rows.jsonl", {"q": {"en": "when"}, "a": ["1979-05-03", "1979-05-04"]})
    rows = read_pairs(options(tmp_path, file, source="q.en", target="a"), "train", streaming=streaming)
    assert next(iter(rows))["references"] == ["1979-05-03", "1979-05-04"]


@BOTH
def test_other_values_of_json(tmp_path: Path, streaming: bool) -> None:
    rows = [
        {"en": 7, "de": {"x": "a"}},
        {"en": "007", "de": {"y": "b", "x": "c"}},
        {"en": 1.5, "de": {"y": "d"}},
        {"de": {"x": "e"}, "late": 1},
        {"en": None, "de": {"x": "f"}},
        {"en": True, "de": {"x": ["g", "h"]}},
    ]
    file = write_lines(tmp_path / "rows.jsonl", *rows)
    found = pairs(tmp_path, file, target="de.x", streaming=streaming)
    assert found == [("7", "a"), ("007", "c"), ("True", "g")]


@BOTH
@pytest.mark.parametrize(
    "content",
    [
        '[{"en": "007", "de": "1979-05-03"}]',
        '[\n  {\n    "en": "007",\n    "de": "1979-05-03"\n  }\n]\n',
        '{\n"en": ["007"],\n"de": ["1979-05-03"]\n}',
        '{\n"en": {"0": "007"},\n"de": {"0": "1979-05-03"}\n}',
    ],
)
def test_json_of_one_value(tmp_path: Path, content: str, streaming: bool) -> None:
    file = tmp_path / "rows.json"
    file.write_text(content)
    assert pairs(tmp_path, file, streaming=streaming) == [("007", "1979-05-03")]


@BOTH
@pytest.mark.parametrize(
    "name", ["tr*.jsonl", "train[1].jsonl", "a::b.jsonl", "{a,b}?.jsonl", "**.csv", "t[1].parquet"]
)
def test_a_name_is_no_pattern(tmp_path: Path, name: str, streaming: bool) -> None:
    write_pairs(tmp_path / "train.jsonl", [("other", "other")])
    file = tmp_path / name
    if name.endswith("parquet"):
        datasets.Dataset.from_list([{"en": "a", "de": "b"}]).to_parquet(file)
    elif name.endswith("csv"):
        file.write_text("en,de\na,b\n")
    else:
        write_pairs(file, [("a", "b")])
    assert pairs(tmp_path, file, streaming=streaming) == [("a", "b")]


def test_a_pattern_is_no_name(tmp_path: Path) -> None:
    write_pairs(tmp_path / "train.jsonl", [("a", "b")])
    with pytest.raises(FileNotFoundError, match=r"found none at .*tr\*\.jsonl"):
        pairs(tmp_path, tmp_path / "tr*.jsonl")


@BOTH
@pytest.mark.parametrize("name", ["a.jsonl", "a.csv", "a.tsv", "a.txt"])
def test_an_empty_file_is_named(tmp_path: Path, name: str, streaming: bool) -> None:
    file = tmp_path / name
    file.touch()
    with pytest.raises(ValueError, match=rf"{name}.* (is empty|could not be read)"):
        pairs(tmp_path, file, streaming=streaming, format="text" if name == "a.txt" else None)


@BOTH
def test_files_whose_values_differ_in_kind(tmp_path: Path, streaming: bool) -> None:
    first = write_lines(tmp_path / "a.jsonl", {"en": 1, "de": "x"})
    empty = write_lines(tmp_path / "b.jsonl")
    last = write_lines(tmp_path / "c.jsonl", {"de": "y", "en": ["two"], "id": 5})
    assert pairs(tmp_path, first, empty, last, streaming=streaming) == [("1", "x"), ("two", "y")]


@BOTH
@pytest.mark.parametrize("form", ["jsonl", "csv"])
def test_files_whose_columns_differ(tmp_path: Path, form: str, streaming: bool) -> None:
    for name, columns in (("a", "en,de"), ("b", "en,nl"), ("c", "x,y")):
        file = tmp_path / f"{name}.{form}"
        if form == "csv":
            file.write_text(f"{columns}\n1,2\n")
        else:
            write_lines(file, dict.fromkeys(columns.split(","), "1"))
    first, second, third = (tmp_path / f"{name}.{form}" for name in "abc")
    with pytest.raises(ValueError, match=r"column 'de', but .*a\.\w+ \(en, de\), .*b\.\w+ \(en, nl\) has 'en'"):
        pairs(tmp_path, first, second, streaming=streaming)
    with pytest.raises(ValueError, match=r"columns in common, got .*a\.\w+ \(en, de\), .*c\.\w+ \(x, y\)"):
        pairs(tmp_path, first, third, streaming=streaming)


@BOTH
@pytest.mark.parametrize("form", ["jsonl", "csv", "parallel"])
def test_a_byte_order_mark_is_no_text(tmp_path: Path, form: str, streaming: bool) -> None:
    contents = {"jsonl": ['{"en": "a", "de": "b"}\n'], "csv": ["en,de\na,b\n"], "parallel": ["a\n", "b\n"]}
    files = [tmp_path / f"{idx}.{form}" for idx, _ in enumerate(contents[form])]
    for file, content in zip(files, contents[form], strict=True):
        file.write_text(content, encoding="utf-8-sig")
    assert pairs(tmp_path, *files, streaming=streaming) == [("a", "b")]


@BOTH
def test_plain_text_has_no_byte_order_mark(tmp_path: Path, streaming: bool) -> None:
    file = tmp_path / "corpus.txt"
    file.write_text("a b\n\n1979-05-03\n", encoding="utf-8-sig")
    rows = read_texts(options(tmp_path, file, format="text"), "train", ["text"], "texts", streaming=streaming)
    assert [row["text"] for row in rows] == ["a b", "1979-05-03"]


@BOTH
@pytest.mark.parametrize(("start", "place"), [(b"ab\ncd", 5), (b"\xef\xbb\xbfab\ncd", 8), (b"\xef\xbb\xbfa", 4)])
def test_the_first_byte_that_is_not_utf8_is_told(tmp_path: Path, start: bytes, place: int, streaming: bool) -> None:
    sources, targets = tmp_path / "a.en", tmp_path / "a.de"
    sources.write_bytes(start + b"\xe9\nrest\n")
    targets.write_bytes(b"1\n" * (2 + start.count(b"\n")))
    with pytest.raises(ValueError, match=rf"must be UTF-8, but byte {place} of .*a\.en is 0xe9"):
        pairs(tmp_path, sources, targets, streaming=streaming)


@BOTH
@pytest.mark.parametrize("form", ["jsonl", "csv", "parallel"])
@pytest.mark.parametrize("is_cut", [False, True])
def test_a_broken_compressed_file_is_named(tmp_path: Path, form: str, is_cut: bool, streaming: bool) -> None:
    file = tmp_path / f"a.{form}.gz"
    file.write_bytes(gzip.compress(b'{"en": "a", "de": "b"}\n' * 9)[:-9] if is_cut else b"no, text")
    with pytest.raises(ValueError, match=rf"a\.{form}\.gz could not be"):
        pairs(tmp_path, *([file, file] if form == "parallel" else [file]), streaming=streaming)


@pytest.mark.parametrize(("ending", "pack"), [("gz", gzip.compress), ("bz2", bz2.compress), ("xz", lzma.compress)])
def test_compressed_files(tmp_path: Path, ending: str, pack: Any) -> None:
    file = tmp_path / f"rows.json.{ending}"
    file.write_bytes(pack(b'{"en": "a", "de": "b"}\n'))
    assert pairs(tmp_path, file, format="json") == [("a", "b")]


@BOTH
@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{broken", "line 3, could not be read as json: Expecting"),
        ('["a", "b"]', "line 3, must be a row"),
        ('{"en": "\\ud83d", "de": "b"}', "line 3, could not be read as json: .*surrogates not allowed"),
    ],
)
def test_a_broken_line_is_told(tmp_path: Path, line: str, message: str, streaming: bool) -> None:
    file = tmp_path / "rows.jsonl"
    file.write_text('{"en": "a", "de": "b"}\n\n' + line)
    with pytest.raises(ValueError, match=rf"rows\.jsonl, {message}"):
        pairs(tmp_path, file, streaming=streaming)


def test_a_changed_file_is_read_again(tmp_path: Path) -> None:
    file = write_pairs(tmp_path / "rows.jsonl", [("a", "b")])
    assert pairs(tmp_path, file) == [("a", "b")]
    write_pairs(file, [("c", "d")])
    os.utime(file, ns=(1, 1))
    assert pairs(tmp_path, file) == [("c", "d")]
    assert len(list((tmp_path / "cache" / "text_files").iterdir())) == 2
    assert pairs(tmp_path, file) == [("c", "d")]
    assert len(list((tmp_path / "cache" / "text_files").iterdir())) == 2
