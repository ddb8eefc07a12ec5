"""
Runs `evaluate` several times as one of two processes: `evaluation_worker.py CASES.json OUTCOMES`.

A case is a line of arguments ({rank} stands for the number of the process), the launcher's port, so that the processes
join anew each time, and the number of the process that is to fail, if any.
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


def outcome(case: dict[str, Any]) -> dict[str, Any]:
    os.environ["MASTER_PORT"] = str(case["port"])
    stdout, stderr = StringIO(), StringIO()
    fails = case["fails"] == int(os.environ["RANK"])
    generate = fail if fails else run_evaluation.generate_texts
    with redirect_stdout(stdout), redirect_stderr(stderr), patch.object(run_evaluation, "generate_texts", generate):
        try:
            status: int | str = main([part.replace("{rank}", os.environ["RANK"]) for part in case["line"]])
        except RuntimeError as error:
            status = str(error)
    return {"status": status, "stdout": stdout.getvalue(), "stderr": stderr.getvalue()}


if __name__ == "__main__":
    cases = json.loads(Path(sys.argv[1]).read_text())
    outcomes = {name: outcome(case) for name, case in cases.items()}
    Path(f"{sys.argv[2]}.{os.environ['RANK']}").write_text(json.dumps(outcomes))
