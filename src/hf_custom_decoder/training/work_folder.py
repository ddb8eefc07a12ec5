"""The folder that a run leaves, and the one beside it where it works: nothing half done, nothing of others touched."""

import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class WorkFolder:
    """The folder that a run shall leave, and the one beside it (`NAME.training`) where it works until then.

    Both are known by a file in them, the work by its settings and the output by its results; without it they are
    taken for somebody else's and left alone. An earlier result stays until the new one is there.

    Args:
        output (`Path`): The folder to leave.
        results_file (`str`): Lies, beside `config.json`, in every finished folder.
        settings_file (`str`): Lies in every working folder.
        kind (`str`): What an earlier run is called in messages.
        fresh (`bool`): Do not go on with what earlier runs have left.

    Raises:
        ValueError: If one of the two is there and is no run's.
    """

    def __init__(self, output: Path, *, results_file: str, settings_file: str, kind: str, fresh: bool) -> None:
        self.output = output.resolve()
        self.work = self.output.with_name(f"{self.output.name}.training")
        self.settings_file = self.work / settings_file
        self._fresh = fresh
        has_result = holds_result(self.output, results_file)
        if self.output.exists() and not has_result and not is_empty_folder(self.output):
            raise ValueError(
                f"`output` must be a new folder or that of an earlier {kind}, but {output} holds other files. Choose "
                "another folder."
            )
        self.is_finished = has_result and not fresh and not self.settings_file.is_file()
        is_ours = self.settings_file.is_file() or is_empty_folder(self.work)
        if self.work.exists() and not is_ours and not self.is_finished:
            raise ValueError(
                f"`output` must leave room for its working folder, but {self.work} holds other files. Choose another "
                "folder, or move that one away."
            )

    def clear(self) -> None:
        """Makes the working folder empty."""
        if self.work.exists():
            self.close()
        self.work.mkdir(parents=True)

    @contextmanager
    def whole(self, folder: Path) -> Iterator[Path]:
        """Gives a folder to write to, and moves it to `folder` when the block ends well."""
        partial = self.work / f"{folder.name}.partial"
        if partial.exists():
            shutil.rmtree(partial)
        partial.mkdir(parents=True)
        yield partial
        os.replace(partial, folder)

    def publish(self, finished: Path) -> None:
        """Moves a finished folder to `output`, in place of an earlier one, and removes the working folder."""
        if self.output.exists():
            previous = self.work / "previous"
            if previous.exists():
                shutil.rmtree(previous)
            os.replace(self.output, previous)
        os.replace(finished, self.output)
        self.close()

    def close(self) -> None:
        """Removes the working folder; the file by which it is known goes last, so that a torn removal is known too."""
        for path in self.work.iterdir():
            if path.is_dir() and not path.is_symlink():
                shutil.rmtree(path)
            elif path != self.settings_file:
                path.unlink()
        self.settings_file.unlink(missing_ok=True)
        self.work.rmdir()


def holds_result(folder: Path, results_file: str) -> bool:
    """Tells whether a finished run has left its model in `folder`."""
    has_model = any((folder / name).is_file() for name in ("config.json", "adapter_config.json"))
    return has_model and (folder / results_file).is_file()


def is_empty_folder(folder: Path) -> bool:
    """Tells whether `folder` is there and nothing is in it."""
    return folder.is_dir() and not any(folder.iterdir())
