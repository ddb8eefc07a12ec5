"""Program: opens each folder in a child of its own with little memory and disk, and reports how that ended.

Reads a list of jobs (`door`, `folder`) from stdin; writes one outcome a job to the file it is given, as JSON.
"""

import json
import os
import resource
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import transformers
from transformers import AutoModelForSeq2SeqLM
from transformers.utils import logging

import hf_custom_decoder
from hf_custom_decoder.cli import USER_ERRORS
from hf_custom_decoder.hub.model_folder import load_model_folder
from hf_custom_decoder.hub.push import check_folder

SPARE_BYTES = 400 * 2**20
"""Address space that a child may take beyond what the imports have taken."""

FILE_BYTES = 50 * 2**20
SECONDS = 60


def open_at(door: str, folder: str) -> str:
    """Opens a folder as a user would; returns what a door that does not raise has said."""
    if door == "from_pretrained":
        AutoModelForSeq2SeqLM.from_pretrained(folder)
    elif door == "trusting":
        AutoModelForSeq2SeqLM.from_pretrained(folder, trust_remote_code=True)
    elif door == "load_model_folder":
        load_model_folder(folder)
    elif door == "push":
        problems = check_folder(folder, loads_model=False).problems
        found = [one for some in problems.values() for one in some]
        if found:
            raise ValueError(" ".join(found))
    return "opened"


def outcome_of(door: str, folder: str) -> dict[str, Any]:
    """What became of it: the kind of error and its words, whether it is one for users, seconds of the processor, MiB."""
    start, before = time.process_time(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    try:
        outcome = {"error": None, "words": open_at(door, folder), "is_clear": False}
    except BaseException as error:
        is_clear = isinstance(error, (*USER_ERRORS, TypeError)) and not isinstance(error, MemoryError)
        outcome = {"error": type(error).__name__, "words": str(error), "is_clear": is_clear}
    mebibytes = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return {**outcome, "seconds": time.process_time() - start, "mebibytes": mebibytes}


def in_a_child(door: str, folder: str) -> dict[str, Any]:
    """The outcome under limits of memory, disk and time; a child that was killed has none."""
    reads, writes = os.pipe()
    child = os.fork()
    if child == 0:
        try:
            used = int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
            resource.setrlimit(resource.RLIMIT_AS, (used + SPARE_BYTES, used + SPARE_BYTES))
            resource.setrlimit(resource.RLIMIT_FSIZE, (FILE_BYTES, FILE_BYTES))
            resource.setrlimit(resource.RLIMIT_CPU, (SECONDS, SECONDS))
            os.write(writes, json.dumps(outcome_of(door, folder)).encode()[:60000])
        finally:
            os._exit(0)
    os.close(writes)
    with os.fdopen(reads, "rb") as stream:
        answer = stream.read()
    _, status = os.waitpid(child, 0)
    if not answer:
        return {"error": "killed", "words": f"status {status}", "is_clear": False, "seconds": 0.0, "mebibytes": 0.0}
    outcome: dict[str, Any] = json.loads(answer)
    return outcome


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    assert transformers is not None
    assert hf_custom_decoder is not None
    jobs = json.load(sys.stdin)
    Path(sys.argv[1]).write_text(json.dumps([in_a_child(job["door"], job["folder"]) for job in jobs]))
