"""Files appear complete or not at all."""

import json
import os
from pathlib import Path

import pytest

from hf_custom_decoder.atomic_files import temporary_name, write_json, write_text


def test_file_is_moved_into_place_with_its_folders(tmp_path: Path) -> None:
    path = tmp_path / "new" / "folder" / "text.txt"
    write_text(path, "ä\n")
    assert path.read_text(encoding="utf-8") == "ä\n"
    assert [entry.name for entry in path.parent.iterdir()] == ["text.txt"]


def test_failure_keeps_the_old_file_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    path.write_text("old")

    def fail() -> None:
        with temporary_name(path) as temporary:
            temporary.write_text("ne")
            raise RuntimeError("half way")

    with pytest.raises(RuntimeError, match="half way"):
        fail()
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_target_is_untouched_until_the_block_ends(tmp_path: Path) -> None:
    path = tmp_path / "text.txt"
    with temporary_name(path) as temporary:
        temporary.write_text("new")
        assert temporary.parent == path.parent  # else the move would not be atomic
        assert not path.exists()
    assert path.read_text() == "new"


def test_rights_are_those_of_any_new_file(tmp_path: Path) -> None:
    (tmp_path / "usual").write_text("")
    write_text(tmp_path / "ours", "")
    assert os.stat(tmp_path / "ours").st_mode == os.stat(tmp_path / "usual").st_mode


def test_json_is_read_back(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"x": [1, 2.5, None]})
    assert json.loads((tmp_path / "a.json").read_text()) == {"x": [1, 2.5, None]}
