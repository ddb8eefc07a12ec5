"""CPU time of a fresh Python that imports a model class."""

import os
import resource
import subprocess
import sys

from .interleaved import MIN_ROUNDS, Race
from .results import Figure, speed_figure

IMPORTS = {
    "transformers' BART": "from transformers import BartForConditionalGeneration",
    "ours": "from hf_custom_decoder import CustomSeq2SeqForConditionalGeneration",
}


def import_seconds(statement: str) -> float:
    """CPU seconds of a Python process that runs `statement`, its start included."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, "-c", statement], check=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def measure_start_up(rounds: int = MIN_ROUNDS) -> list[Figure]:
    """Imports a second, ours against BART of transformers."""
    seconds: dict[str, list[float]] = {name: [] for name in IMPORTS}
    for statement in IMPORTS.values():
        import_seconds(statement)  # files are in the disk cache from here on
    for _ in range(rounds):
        for name, statement in IMPORTS.items():
            seconds[name].append(import_seconds(statement))
    result = Race(1, seconds)
    return [speed_figure("import in a fresh process", result, "ours", "transformers' BART", unit="imports/s")]
