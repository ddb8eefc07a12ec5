"""Where a quickstart keeps its state, and how its result appears in one piece."""

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..atomic_files import write_json

RESULTS_FILE = "results.json"
_SETTINGS_FILE = "settings.json"


class RunFolder:
    """The folder that a run shall leave, and the one beside it where it works until then.

    In the working folder are checkpoints, and from the end of training on the finished model in `trained`; both
    appear by renaming, so what is there is complete.

    Args:
        output (`Path`): The folder to leave.
        fingerprint (`dict[str, Any]`): Settings that must be the same when a run is continued.
        fresh (`bool`): Forget what earlier runs have left.

    Raises:
        ValueError: If `output` holds something other than the result of a quickstart, or the unfinished run there
            had other settings.
    """

    def __init__(self, output: Path, fingerprint: dict[str, Any], *, fresh: bool) -> None:
        self.output = output.resolve()
        self.work = self.output.with_name(self.output.name + ".training")
        self.trained = self.work / "trained"
        self.training_figures = self.work / "training_figures.json"
        if self.output.exists() and not holds_result(self.output) and not is_empty_folder(self.output):
            raise ValueError(
                f"`output` must be a new folder or that of an earlier quickstart, but {output} holds other files. "
                "Choose another folder."
            )
        self.is_finished = holds_result(self.output) and not fresh
        if self.is_finished:
            return
        if fresh and self.work.exists():
            shutil.rmtree(self.work)
        self.work.mkdir(parents=True, exist_ok=True)
        keep_settings(self.work / _SETTINGS_FILE, fingerprint)

    def results(self) -> dict[str, Any]:
        """Returns the stored results of a finished run."""
        results: dict[str, Any] = json.loads((self.output / RESULTS_FILE).read_text(encoding="utf-8"))
        return results

    @contextmanager
    def new_trained_folder(self) -> Iterator[Path]:
        """Gives a folder to save the trained model in; it becomes `trained` when the block ends well."""
        temporary = self.work / "trained.partial"
        if temporary.exists():
            shutil.rmtree(temporary)
        temporary.mkdir()
        yield temporary
        os.replace(temporary, self.trained)

    def publish(self) -> None:
        """Moves the finished model to `output`, in place of an earlier one, and removes the working folder."""
        previous = self.work / "previous"
        if self.output.exists():
            os.replace(self.output, previous)
        os.replace(self.trained, self.output)
        shutil.rmtree(self.work)


def holds_result(folder: Path) -> bool:
    """Tells whether a finished run has left its model in `folder`."""
    return (folder / RESULTS_FILE).is_file() and (folder / "config.json").is_file()


def is_empty_folder(folder: Path) -> bool:
    """Tells whether `folder` is there and nothing is in it."""
    return folder.is_dir() and not any(folder.iterdir())


def keep_settings(path: Path, fingerprint: dict[str, Any]) -> None:
    """Stores the settings of a new run, or compares them with those of the run to continue.

    Args:
        path (`Path`): The file, in the run's working folder.
        fingerprint (`dict[str, Any]`): Settings that must be the same when a run is continued.

    Raises:
        ValueError: If the file is there and a setting in it is another.
    """
    if not path.exists():
        write_json(path, fingerprint)
        return
    stored = json.loads(path.read_text(encoding="utf-8"))
    for name, value in fingerprint.items():
        if stored.get(name) != value:
            raise ValueError(
                f"`{name}` must be the same when a run is continued: the one in {path.parent} has "
                f"{stored.get(name)}, got {value}. Use the earlier value, `--fresh`, or another `--output`."
            )
