"""Folders by strangers: refused in words, quickly, in little memory, and without running anything in them."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.ecosystem.hostile_folders import FOLDERS, LOADING, MARKER
from tests.ecosystem.test_push import write_folder

CASES = [(name, door) for name, case in FOLDERS.items() for door in case.doors]
SECONDS = 30.0
MEBIBYTES = 100.0


@pytest.fixture(scope="module")
def outcomes(tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], dict[str, Any]]:
    """Every case at each of its doors, and the unspoiled folder at all of them, in children of one process."""
    place = tmp_path_factory.mktemp("hostile")
    base = write_folder(place / "base" / "model")
    jobs = [{"door": door, "folder": str(base)} for door in (*LOADING, "push")]
    for number, (name, door) in enumerate(CASES):
        folder = place / str(number) / "model"
        shutil.copytree(base, folder)
        FOLDERS[name].change(folder)
        jobs.append({"door": door, "folder": str(folder)})
    program = Path(__file__).with_name("hostile_process.py")
    process = subprocess.run(
        [sys.executable, str(program), str(place / "outcomes.json")],
        input=json.dumps(jobs),
        capture_output=True,
        text=True,
        timeout=540,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-3000:]
    found = json.loads((place / "outcomes.json").read_text())
    for job, outcome in zip(jobs, found, strict=True):
        outcome["was run"] = (Path(job["folder"]) / MARKER).exists()
    keys = [*(("good", door) for door in (*LOADING, "push")), *CASES]
    return dict(zip(keys, found, strict=True))


@pytest.mark.parametrize("door", [*LOADING, "push"])
def test_the_unspoiled_folder_is_opened(outcomes: dict[tuple[str, str], dict[str, Any]], door: str) -> None:
    assert outcomes["good", door]["error"] is None, outcomes["good", door]


@pytest.mark.parametrize(("name", "door"), CASES, ids=[f"{name} - {door}" for name, door in CASES])
def test_a_hostile_folder(outcomes: dict[tuple[str, str], dict[str, Any]], name: str, door: str) -> None:
    outcome = outcomes[name, door]
    assert not outcome["was run"]
    assert outcome["is_clear"], outcome
    assert re.search(FOLDERS[name].words, outcome["words"], re.DOTALL), outcome
    assert outcome["seconds"] < SECONDS
    assert outcome["mebibytes"] < MEBIBYTES


def test_there_are_many_cases() -> None:
    assert len(FOLDERS) >= 30
