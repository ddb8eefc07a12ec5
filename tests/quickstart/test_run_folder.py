"""The run's folders: nothing half done, nothing of others touched."""

from pathlib import Path
from typing import Any

import pytest

from hf_custom_decoder.quickstart.run_folder import RunFolder

FINGERPRINT: dict[str, Any] = {"seed": 1, "limit": None}


def finish(folder: RunFolder, content: str = "{}") -> None:
    with folder.new_trained_folder() as temporary:
        (temporary / "config.json").write_text("{}")
        (temporary / "results.json").write_text(content)
    folder.publish(folder.trained)


def test_output_appears_when_published(tmp_path: Path) -> None:
    output = tmp_path / "runs" / "first"
    folder = RunFolder(output, FINGERPRINT, fresh=False)
    assert not folder.is_finished
    assert not output.exists()
    finish(folder, '{"a": 1}')
    assert sorted(path.name for path in output.iterdir()) == ["config.json", "results.json"]
    assert [path.name for path in output.parent.iterdir()] == ["first"]
    again = RunFolder(output, {"seed": 2}, fresh=False)
    assert again.is_finished
    assert again.results() == {"a": 1}


def test_trained_folder_appears_complete_or_not_at_all(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out", FINGERPRINT, fresh=False)

    def tear() -> None:
        with folder.new_trained_folder() as temporary:
            (temporary / "half").write_text("")
            raise RuntimeError("torn")

    with pytest.raises(RuntimeError, match="torn"):
        tear()
    assert not folder.trained.exists()
    with folder.new_trained_folder() as temporary:
        (temporary / "whole").write_text("")
    assert [path.name for path in folder.trained.iterdir()] == ["whole"]


def test_empty_folder_may_be_there_already(tmp_path: Path) -> None:
    finish(RunFolder(tmp_path, FINGERPRINT, fresh=False))
    assert (tmp_path / "config.json").exists()


@pytest.mark.parametrize("fresh", [False, True])
def test_files_of_others_are_never_touched(tmp_path: Path, fresh: bool) -> None:
    (tmp_path / "thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="`output` must be a new folder or that of an earlier quickstart"):
        RunFolder(tmp_path, FINGERPRINT, fresh=fresh)
    assert (tmp_path / "thesis.txt").read_text() == "years of work"


@pytest.mark.parametrize("fresh", [False, True])
def test_a_folder_beside_the_output_that_is_no_run_is_left_alone(tmp_path: Path, fresh: bool) -> None:
    notes = tmp_path / "out.training" / "thesis.txt"
    notes.parent.mkdir()
    notes.write_text("years of work")
    with pytest.raises(ValueError, match=r"leave room for its working folder, but .*out\.training holds other files"):
        RunFolder(tmp_path / "out", FINGERPRINT, fresh=fresh)
    assert [path.name for path in notes.parent.iterdir()] == ["thesis.txt"]
    notes.unlink()
    RunFolder(tmp_path / "out", FINGERPRINT, fresh=fresh)


def test_an_interrupted_fresh_run_goes_on_although_the_old_result_is_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    finish(RunFolder(output, FINGERPRINT, fresh=False), '{"run": 1}')
    (RunFolder(output, FINGERPRINT, fresh=True).work / "step-5").mkdir()
    folder = RunFolder(output, FINGERPRINT, fresh=False)
    assert not folder.is_finished
    assert (folder.work / "step-5").exists()


def test_a_torn_removal_is_known_as_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    output = tmp_path / "out"
    folder = RunFolder(output, FINGERPRINT, fresh=False)
    for name in ("step-5", "step-6"):
        (folder.work / name).mkdir()
    removed: list[Any] = []

    def tear(path: Any) -> None:
        if removed:
            raise KeyboardInterrupt
        removed.append(path)
        path.rmdir()

    monkeypatch.setattr("hf_custom_decoder.training.work_folder.shutil.rmtree", tear)
    with pytest.raises(KeyboardInterrupt):
        folder.clear()
    monkeypatch.undo()
    folder = RunFolder(output, FINGERPRINT, fresh=True)
    assert [path.name for path in folder.work.iterdir()] == ["settings.json"]


def test_file_is_no_folder(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_text("x")
    with pytest.raises(ValueError, match="`output` must be a new folder"):
        RunFolder(path, FINGERPRINT, fresh=False)


def test_fresh_keeps_the_old_result_until_the_new_one_is_there(tmp_path: Path) -> None:
    output = tmp_path / "out"
    finish(RunFolder(output, FINGERPRINT, fresh=False), '{"run": 1}')
    folder = RunFolder(output, FINGERPRINT, fresh=True)
    assert not folder.is_finished
    assert folder.results() == {"run": 1}
    finish(folder, '{"run": 2}')
    assert folder.results() == {"run": 2}
    assert [path.name for path in tmp_path.iterdir()] == ["out"]


def test_fresh_forgets_an_unfinished_run(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out", FINGERPRINT, fresh=False)
    (folder.work / "step-5").mkdir()
    RunFolder(tmp_path / "out", {**FINGERPRINT, "seed": 9}, fresh=True)
    assert not (folder.work / "step-5").exists()


def test_other_settings_are_refused_when_going_on(tmp_path: Path) -> None:
    folder = RunFolder(tmp_path / "out", FINGERPRINT, fresh=False)
    (folder.work / "step-5").mkdir()
    RunFolder(tmp_path / "out", dict(FINGERPRINT), fresh=False)
    with pytest.raises(ValueError, match=r"`seed` must be the same .* has 1, got 2\. .*--fresh"):
        RunFolder(tmp_path / "out", {**FINGERPRINT, "seed": 2}, fresh=False)
    assert (folder.work / "step-5").exists()
