"""Proof that a saved folder works for a stranger: loads it in a fresh process that cannot import this package."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

# `-I` ignores PYTHONPATH and the working directory; hiding the package from every finder covers an installed one.
_PROGRAM = """
import importlib.util, json, sys

hidden = "hf_custom_decoder"

class Blind:
    def __init__(self, finder):
        self._finder = finder
    def __getattr__(self, name):
        return getattr(self._finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] == hidden else self._finder.find_spec(name, path, target)

sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]
is_hidden = importlib.util.find_spec(hidden) is None

from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

task = json.load(sys.stdin)
model = AutoModelForSeq2SeqLM.from_pretrained(task["folder"], trust_remote_code=True).eval()
tokenizer = AutoTokenizer.from_pretrained(task["folder"], trust_remote_code=True)
inputs = tokenizer(task["sources"], padding=True, return_tensors="pt")
ids = model.generate(**inputs, **task["generation_options"])
answer = {
    "package_is_hidden": is_hidden and hidden not in sys.modules,
    "model_class": type(model).__module__ + "." + type(model).__name__,
    "texts": tokenizer.batch_decode(ids, skip_special_tokens=True),
}
print("\\n" + json.dumps(answer))
"""


@dataclass(frozen=True)
class IsolatedReload:
    """What the fresh process found.

    Attributes:
        package_is_hidden (`bool`): Whether `importlib.util.find_spec("hf_custom_decoder")` was None there.
        model_class (`str`): Full name of the class that was loaded; it begins with "transformers_modules".
        texts (`list[str]`): What it generated.
    """

    package_is_hidden: bool
    model_class: str
    texts: list[str]


def reload_in_isolation(
    folder: str | Path, sources: Sequence[str], *, timeout: float = 300.0, **generation_options: Any
) -> IsolatedReload:
    """Loads a folder with `trust_remote_code=True` in a fresh process without this package, and generates there.

    The process runs on the CPU, offline, and with an empty cache for downloaded modules, so it can only use the code
    in the folder.

    Args:
        folder (`str` or `Path`): A folder written by `save_pretrained` of model and tokenizer.
        sources (`Sequence[str]`): Inputs, generated in one batch.
        timeout (`float`, *optional*, defaults to 300.0): Seconds after which the process is stopped.
        generation_options: Passed to `generate`; whatever JSON can hold.

    Returns:
        [`IsolatedReload`]: The generated texts and what was loaded.

    Raises:
        RuntimeError: If the process fails; the message ends with the last lines of its errors.
    """
    task = {"folder": str(Path(folder).resolve()), "sources": list(sources), "generation_options": generation_options}
    with tempfile.TemporaryDirectory(prefix="hf_modules_") as modules_cache:
        environment = {
            **os.environ,
            "HF_MODULES_CACHE": modules_cache,
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),  # torch counts all cores, also in a small container
        }
        try:
            process = subprocess.run(
                [sys.executable, "-I", "-c", _PROGRAM],
                input=json.dumps(task),
                env=environment,
                cwd=modules_cache,
                capture_output=True,
                text=True,
                timeout=timeout,
                check=False,
            )
        except subprocess.TimeoutExpired as error:
            raise RuntimeError(f"Loading {folder} in a fresh process took more than {timeout:.0f} seconds.") from error
    if process.returncode != 0:
        last_lines = "\n".join(line[:300] for line in process.stderr.strip().splitlines()[-20:])
        raise RuntimeError(f"Loading {folder} in a fresh process without this package failed:\n{last_lines}")
    return IsolatedReload(**json.loads(process.stdout.strip().splitlines()[-1]))
