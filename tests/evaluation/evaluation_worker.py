"""
Runs `evaluate` several times as one of two processes: `evaluation_worker.py CASES.json OUTCOMES`.

A case is a line of arguments ({rank} stands for the number of the process), the launcher's port, so that the processes
join anew each time, the number of the process that is to fail, if any, and whether mpirun is the launcher.
"""

import json
import os
import sys
from collections.abc import Iterator
from contextlib import redirect_stderr, redirect_stdout
from io import StringIO
from pathlib import Path
from typing import Any
from unittest.mock import patch

from hf_custom_decoder.cli import main
from hf_custom_decoder.evaluation import run_evaluation


def fail(*args: Any, **options: Any) -> Iterator[list[str]]:
    raise RuntimeError("out of memory, says this test")


RANK = os.environ["RANK"]
AS_OPEN_MPI = {"OMPI_COMM_WORLD_SIZE": os.environ["WORLD_SIZE"], "OMPI_COMM_WORLD_RANK": RANK}


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    stdout, stderr = StringIO(), StringIO()
    generate = fail if case["fails"] == int(RANK) else run_evaluation.generate_texts
    with (
        patch.dict(os.environ, {"MASTER_PORT": str(case["port"])}),
        patch.object(run_evaluation, "generate_texts", generate),
        redirect_stdout(stdout),
        redirect_stderr(stderr),
    ):
        if case["by_mpirun"]:
            os.environ.update(AS_OPEN_MPI)
            del os.environ["WORLD_SIZE"], os.environ["RANK"]
        try:
            status: int | str = main([part.replace("{rank}", RANK) for part in case["line"]])
        except RuntimeError as error:
            status = str(error)
    return {"status": status, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}


if __name__ == "__main__":
    cases = json.loads(Path(sys.argv[1]).read_text())
    outcomes = {name: outcome(case) for name, case in cases.items()}
    Path(f"{sys.argv[2]}.{RANK}").write_text(json.dumps(outcomes))
