"""Where input texts come from."""

import gzip
import itertools
from pathlib import Path

import pytest

from hf_custom_decoder.data.text_sources import read_sources


def test_arguments_win_over_the_pipe() -> None:
    assert list(read_sources(["one", "two"], None, [b"three"])) == ["one", "two"]


def test_file_wins_over_the_pipe_and_keeps_blank_lines(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes("é\r\n\nlast".encode())
    assert list(read_sources([], file, [b"three"])) == ["é", "", "last"]


def test_pipe_is_read_only_as_far_as_needed() -> None:
    lines = iter([b"0\n", b"1\n", b"2\n"])
    assert list(itertools.islice(read_sources([], None, lines), 2)) == ["0", "1"]
    assert next(lines) == b"2\n"


def test_arguments_and_file_together_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="not both: got 1 texts"):
        read_sources(["a"], tmp_path / "b", [])


def test_blank_argument_is_refused() -> None:
    with pytest.raises(ValueError, match="must hold some characters, got ' '"):
        read_sources(["a", " "], None, [])


def test_missing_file_is_named_before_anything_is_read(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere.txt"):
        read_sources([], tmp_path / "nowhere.txt", [])


@pytest.mark.parametrize("lines", [[], ["\n", "  \n"]])
def test_nothing_at_all_is_refused(lines: list[str], tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="got nothing from standard input"):
        list(read_sources([], None, [line.encode() for line in lines]))
    file = tmp_path / "empty.txt"
    file.write_text("".join(lines))
    with pytest.raises(ValueError, match=r"got nothing from .*empty\.txt"):
        list(read_sources([], file, []))


def test_a_byte_order_mark_is_no_text(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_text("one\ntwo\n", encoding="utf-8-sig")
    assert list(read_sources([], file, [])) == ["one", "two"]


def test_a_packed_file(tmp_path: Path) -> None:
    file = tmp_path / "words.txt.gz"
    file.write_bytes(gzip.compress("one\n\nzwölf\n".encode()))
    assert list(read_sources([], file, [])) == ["one", "", "zwölf"]


def test_a_file_in_another_encoding_is_named(tmp_path: Path) -> None:
    file = tmp_path / "words.txt"
    file.write_bytes("eins\nzwölf\n".encode("latin-1"))
    with pytest.raises(ValueError, match=r"byte 7 of .*words\.txt is 0xf6.*iconv"):
        list(read_sources([], file, []))


def test_the_pipe_is_read_as_files_are() -> None:
    assert list(read_sources([], None, [b"\xef\xbb\xbfone\n", "zwölf\u2028\r13\r\n".encode()])) == [
        "one",
        "zwölf\u2028\r13",
    ]
    with pytest.raises(ValueError, match=r"byte 7 of standard input is 0xf6, in line 2\..*iconv"):
        list(read_sources([], None, [b"eins\n", b"zw\xf6lf\n"]))


def test_an_argument_in_another_encoding_is_named() -> None:
    with pytest.raises(ValueError, match=r"must be UTF-8, got 'T\\udcfcr' with the byte 0xfc.*iconv"):
        read_sources(["ok", "T\udcfcr"], None, [])
