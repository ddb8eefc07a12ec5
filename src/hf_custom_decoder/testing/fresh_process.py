"""Whether a checkpoint loads where neither this package nor the decoder's module can be imported."""

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from .decoder_case import DecoderCase

# `-I` ignores PYTHONPATH and the working directory; hiding covers packages that are installed.
_PROGRAM = """
import importlib.util, json, sys

task = json.load(sys.stdin)

class Blind:
    def __init__(self, finder):
        self._finder = finder
    def __getattr__(self, name):
        return getattr(self._finder, name)
    def find_spec(self, name, path=None, target=None):
        return None if name.partition(".")[0] in task["hidden"] else self._finder.find_spec(name, path, target)

sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]

import torch
from transformers import AutoModelForSeq2SeqLM

dtype = getattr(torch, task["dtype"])
model = AutoModelForSeq2SeqLM.from_pretrained(task["folder"], trust_remote_code=True, dtype=dtype).eval()
inputs = {name: torch.tensor(ids) for name, ids in task["inputs"].items()}
with torch.no_grad():
    logits = model(**inputs, decoder_input_ids=torch.tensor(task["target"])).logits
    beams = model.generate(**inputs, num_beams=3, max_length=10)
torch.save({"logits": logits, "beams": beams}, task["answer"])
print(json.dumps([name for name in task["hidden"] if importlib.util.find_spec(name) or name in sys.modules]))
"""


@torch.no_grad()
def loads_in_a_fresh_process(case: DecoderCase, *, timeout: float = 300.0) -> None:
    """A saved model loads from its own code in a new process, and computes the same there.

    Args:
        case ([`DecoderCase`]): What to save and load.
        timeout (`float`, *optional*, defaults to 300.0): Seconds after which the process is stopped.

    Raises:
        AssertionError: It does not load, or gives other logits or beams; the message ends with the process's errors.
    """
    model: Any = case.model
    hidden = ["hf_custom_decoder", type(model.get_decoder()).__module__.partition(".")[0]]
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "model"
        case.build().save_pretrained(folder)
        found = outputs_of_a_fresh_process(
            folder, case.source, case.target, hidden=hidden, dtype=torch.float64, timeout=timeout
        )
    expected = model(**case.source, decoder_input_ids=case.target).logits
    if not torch.allclose(found["logits"], expected, rtol=0.0, atol=1e-10):
        raise AssertionError("The saved model gives other logits in a new process.")
    if not torch.equal(found["beams"], model.generate(**case.source, num_beams=3, max_length=10)):
        raise AssertionError("The saved model gives other beams in a new process.")


def outputs_of_a_fresh_process(
    folder: Path,
    source: dict[str, torch.Tensor],
    target: torch.Tensor,
    *,
    hidden: Sequence[str],
    dtype: torch.dtype,
    timeout: float = 300.0,
) -> dict[str, torch.Tensor]:
    """Loads a folder with its own code in a new process on the CPU and runs it there.

    Args:
        folder (`Path`): Written by `save_pretrained`.
        source (`dict[str, torch.Tensor]`): `input_ids` and `attention_mask`, `(B, S)`.
        target (`torch.Tensor` of shape `(B, T)`): `decoder_input_ids`.
        hidden (`Sequence[str]`): Top-level modules that cannot be imported there.
        dtype (`torch.dtype`): That the weights are loaded in.
        timeout (`float`, *optional*, defaults to 300.0): Seconds after which the process is stopped.

    Returns:
        `dict[str, torch.Tensor]`: `logits` `(B, T, V)`, and `beams`, the ids of a search with three beams.

    Raises:
        AssertionError: It does not load, or a hidden module could be imported after all.
        subprocess.TimeoutExpired: It takes longer.
    """
    with tempfile.TemporaryDirectory() as scratch:
        answer = Path(scratch) / "answer.pt"
        task = {
            "folder": str(folder),
            "answer": str(answer),
            "hidden": list(hidden),
            "dtype": str(dtype).removeprefix("torch."),
            "inputs": {name: value.tolist() for name, value in source.items()},
            "target": target.tolist(),
        }
        environment = {
            **os.environ,
            "HF_MODULES_CACHE": str(Path(scratch) / "modules"),
            "HF_HUB_OFFLINE": "1",
            "OMP_NUM_THREADS": str(torch.get_num_threads()),  # other numbers of threads add up in other orders
        }
        process = subprocess.run(
            [sys.executable, "-I", "-c", _PROGRAM],
            input=json.dumps(task),
            env=environment,
            cwd=scratch,
            capture_output=True,
            text=True,
            timeout=timeout,
            check=False,
        )
        if process.returncode != 0:
            last_lines = "\n".join(process.stderr.strip().splitlines()[-8:])
            raise AssertionError(
                "The saved model does not load in a new process from the code beside it. The decoder's file must "
                f"import only installed packages and files beside it (`from .name import ...`).\n{last_lines}"
            )
        found: dict[str, torch.Tensor] = torch.load(answer, weights_only=True)
        still_there = json.loads(process.stdout.strip().splitlines()[-1])
    if still_there:
        raise AssertionError(f"These modules could still be imported in the new process: {still_there}.")
    return found
