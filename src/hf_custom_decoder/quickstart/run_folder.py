"""Where a quickstart keeps its state, and how its result appears in one piece."""

import json
from contextlib import AbstractContextManager
from pathlib import Path
from typing import Any

from ..atomic_files import write_json
from ..training.work_folder import WorkFolder

RESULTS_FILE = "results.json"
SETTINGS_FILE = "settings.json"


class RunFolder(WorkFolder):
    """The folder that a quickstart shall leave, and the one beside it where it works until then.

    In the working folder are checkpoints, and from the end of training on the finished model in `trained`; both
    appear by renaming, so what is there is complete.

    Args:
        output (`Path`): The folder to leave.
        fingerprint (`dict[str, Any]`): Settings that must be the same when a run is continued.
        fresh (`bool`): Forget what earlier runs have left.

    Raises:
        ValueError: If a folder holds something other than a quickstart, or the unfinished run there had other
            settings.
    """

    def __init__(self, output: Path, fingerprint: dict[str, Any], *, fresh: bool) -> None:
        super().__init__(
            output, results_file=RESULTS_FILE, settings_file=SETTINGS_FILE, kind="quickstart", fresh=fresh
        )
        self.trained = self.work / "trained"
        self.training_figures = self.work / "training_figures.json"
        if self.is_finished:
            return
        if fresh:
            self.clear()
        keep_settings(self.settings_file, fingerprint)

    def results(self) -> dict[str, Any]:
        """Returns the stored results of a finished run."""
        results: dict[str, Any] = json.loads((self.output / RESULTS_FILE).read_text(encoding="utf-8"))
        return results

    def new_trained_folder(self) -> AbstractContextManager[Path]:
        """Gives a folder to save the trained model in; it becomes `trained` when the block ends well."""
        return self.whole(self.trained)


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
