"""Programs of the tests in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def run_python(*arguments: str | Path, folder: Path, timeout: float = 300.0, **environment: str) -> None:
    """
    Run Python in `folder`, with this repository on its path unless `-I` says otherwise.

    Raises:
        AssertionError: It fails; the message is the end of its errors.
    """
    process = subprocess.run(
        [sys.executable, *map(str, arguments)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]), **environment},
        cwd=folder,
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=timeout,
        check=False,
    )
    assert process.returncode == 0, process.stderr[-4000:]
