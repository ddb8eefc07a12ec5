"""Checkpoints that are whole: written under another name and renamed, checked before they are used."""

import hashlib
import json
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from ..atomic_files import write_json

_PREFIX = "step-"
_CONTENTS_FILE = "contents.json"


def whole_checkpoints(folder: Path, report: Callable[[str], None]) -> list[Path]:
    """Finds the checkpoints that can be gone on from, oldest first.

    Args:
        folder (`Path`): Where [`WholeCheckpoints`] writes.
        report (`Callable[[str], None]`): Receives a message for every damaged one, which is passed over.
    """
    whole = []
    for path in checkpoints_in(folder):
        problem = damage(path)
        if problem is None:
            whole.append(path)
        else:
            report(f"Passing over the damaged checkpoint {path}: {problem}.")
    return whole


def checkpoints_in(folder: Path) -> list[Path]:
    """Returns all checkpoints, damaged or not, oldest first."""
    return sorted((path for path in folder.glob(f"{_PREFIX}*") if path.is_dir()), key=step_of)


def damage(checkpoint: Path) -> str | None:
    """Says what is wrong with a checkpoint, or returns None: every file must have the bytes it was written with."""
    try:
        contents: dict[str, str] = json.loads((checkpoint / _CONTENTS_FILE).read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return f"no readable {_CONTENTS_FILE}"
    if not isinstance(contents, dict):
        return f"{_CONTENTS_FILE} is no object"
    for name, digest in contents.items():
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"{_CONTENTS_FILE} names {name!r}, no file of the checkpoint"
        if not (checkpoint / name).is_file():
            return f"{name} is missing"
        if _digest(checkpoint / name) != digest:
            return f"{name} is not as it was written"
    return None


def step_of(checkpoint: Path) -> int:
    """Returns the optimizer steps that were done when a checkpoint was written."""
    return int(checkpoint.name.removeprefix(_PREFIX))


def without_stops(checkpoints: list[Path], save_steps: float) -> list[Path]:
    """Those at whole multiples of `save_steps` and the newest: what a run that was never stopped has written too."""
    return [path for path in checkpoints if step_of(path) % save_steps == 0 or path == checkpoints[-1]]


def remove_torn(folder: Path) -> None:
    """Removes what a killed process has left half-written."""
    for torn in [*folder.glob("checkpoint-*"), *folder.glob("*.partial")]:
        if torn.is_dir():
            shutil.rmtree(torn)


class WholeCheckpoints(TrainerCallback):
    """Makes a checkpoint of the Trainer appear in one piece, as `step-N`.

    The Trainer writes into `checkpoint-N`, file by file and process by process. When all have finished, the first
    process notes every file with its SHA-256, renames the folder and removes older ones. That of a stop is removed
    first: it is there to go on from, and a run that was never stopped has none.

    Args:
        folder (`Path`): The Trainer's `output_dir`; give it no `save_total_limit`.
        keep (`int`, *optional*, defaults to 1): How many of the newest checkpoints stay.
        add (`Callable[[Path], None]`, *optional*): Writes more into each checkpoint; called in the first process.
        wait (`Callable[[], None]`, *optional*): Returns when all processes have called it.
    """

    def __init__(
        self,
        folder: Path,
        *,
        keep: int = 1,
        add: Callable[[Path], None] | None = None,
        wait: Callable[[], None] | None = None,
    ) -> None:
        self.folder = folder
        self._keep = keep
        self._add = add
        self._wait = wait

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        written = self.folder / f"checkpoint-{state.global_step}"
        if self._wait is not None:
            self._wait()
        if state.is_world_process_zero:
            if self._add is not None:
                self._add(written)
            files = sorted(path for path in written.rglob("*") if path.is_file())
            contents = {str(path.relative_to(written)): _digest(path) for path in files}
            write_json(written / _CONTENTS_FILE, contents)
            final = self.folder / f"{_PREFIX}{state.global_step}"
            if final.exists():  # a damaged one that was passed over
                shutil.rmtree(final)
            os.replace(written, final)
            written_so_far = checkpoints_in(self.folder)
            kept = without_stops(written_so_far, args.save_steps)[-self._keep :]
            for path in written_so_far:
                if path not in kept:
                    shutil.rmtree(path)
        if self._wait is not None:
            self._wait()


def _digest(path: Path) -> str:
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
