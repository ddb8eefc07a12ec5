"""
Size, quality and decoding speed of the numbers that a model can be loaded with, on the CPU.

    hf-custom-decoder quickstart                                       # a trained model
    python -m benchmarks.low_precision --model runs/quickstart         # prints the tables
    python -m benchmarks.low_precision --model runs/quickstart --write # puts them into docs/quantization.md

Quality is that of the quickstart's model on its test words, greedy. Speed is the processor time of `generate()` on one
thread with fresh weights of two sizes, as median of the ratios to float32 within rounds in which each takes its turn.
"""

import argparse
import copy
import re
import statistics
import time
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer, PreTrainedModel

from hf_custom_decoder import (
    CustomSeq2SeqConfig,
    CustomSeq2SeqForConditionalGeneration,
    TransformerDecoderConfig,
    TransformerEncoderConfig,
)
from hf_custom_decoder.atomic_files import write_text
from hf_custom_decoder.data.pronunciation_dictionary import load_cmudict, split_entries
from hf_custom_decoder.evaluation.decoding_precision import PRECISIONS, set_decoding_precision
from hf_custom_decoder.evaluation.error_rates import pronunciation_error_rates
from hf_custom_decoder.models import int8_linear_custom_seq2seq
from hf_custom_decoder.quickstart.run_quickstart import pronounce

DOCUMENT = Path(__file__).parents[1] / "docs" / "quantization.md"
BEGIN, END = "<!-- tables: python -m benchmarks.low_precision --write -->", "<!-- end of the tables -->"
SIZES: dict[str, dict[str, Any]] = {
    "tiny": {
        "vocab_size": 8000,
        "hidden_size": 256,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "intermediate_size": 1024,
    },
    "base": {
        "vocab_size": 32000,
        "hidden_size": 512,
        "num_hidden_layers": 6,
        "num_attention_heads": 8,
        "intermediate_size": 2048,
    },
}
SHAPES = (("batch 1, greedy", 1, 1), ("batch 1, 4 beams", 1, 4), ("batch 8, greedy", 8, 1))
NEW_TOKENS = 24


def loaders(folder: str) -> dict[str, Callable[[], PreTrainedModel]]:
    """How the model is loaded, by what the table calls it."""

    def load(**options: Any) -> PreTrainedModel:
        model: PreTrainedModel = AutoModelForSeq2SeqLM.from_pretrained(folder, **options)
        return model

    found: dict[str, Callable[[], PreTrainedModel]] = {
        f"precision {name}": lambda name=name: set_decoding_precision(load(), name)  # type: ignore[misc]
        for name in PRECISIONS
    }
    found["float16"] = lambda: load(dtype=torch.float16)
    if find_spec("torchao") is not None:
        from torchao.quantization import Int8WeightOnlyConfig, IntxWeightOnlyConfig, PerGroup
        from transformers import TorchAoConfig

        four = IntxWeightOnlyConfig(weight_dtype=torch.int4, granularity=PerGroup(32))  # type: ignore[attr-defined]
        found["torchao, 8 bits"] = lambda: load(quantization_config=TorchAoConfig(Int8WeightOnlyConfig()))
        found["torchao, 4 bits (groups of 32)"] = lambda: load(quantization_config=TorchAoConfig(four))
    if find_spec("bitsandbytes") is not None:
        from transformers import BitsAndBytesConfig

        eight = BitsAndBytesConfig(load_in_8bit=True)
        nf4 = BitsAndBytesConfig(load_in_4bit=True, bnb_4bit_quant_type="nf4")
        found["bitsandbytes, 8 bits"] = lambda: load(quantization_config=eight)
        found["bitsandbytes, 4 bits (nf4)"] = lambda: load(quantization_config=nf4)
    return found


def num_bytes(model: torch.nn.Module) -> int:
    """Bytes of all weights, those inside of tensor subclasses included, each once."""
    storages: dict[int, int] = {}

    def add(tensor: Any) -> None:
        if hasattr(tensor, "__tensor_flatten__"):
            for name in tensor.__tensor_flatten__()[0]:
                add(getattr(tensor, name))
        else:
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()

    for one in [*model.parameters(), *model.buffers()]:
        add(one)
    return sum(storages.values())


def quality_table(folder: str, num_words: int) -> list[str]:
    """One line a way of loading. `int8` rounds small matrices too here, as the model has no large ones."""
    int8_linear_custom_seq2seq.MIN_WEIGHTS = 1
    entries = split_entries(load_cmudict())["test"][:num_words]
    tokenizer = AutoTokenizer.from_pretrained(folder)
    lines = ["| loaded as | MiB of weights | words wrong, % | phonemes wrong, % |", "| --- | --- | --- | --- |"]
    for name, load in loaders(folder).items():
        try:
            model = load().eval()
            rates = pronunciation_error_rates(
                pronounce(model, tokenizer, entries, num_beams=1), [entry.pronunciations for entry in entries]
            )
        except (AssertionError, NotImplementedError, RuntimeError, ValueError) as error:
            lines.append(f"| {name} | fails: {str(error).splitlines()[0][:80]} | | |")
            continue
        words, phonemes = rates.word_error_rate, rates.phoneme_error_rate
        lines.append(f"| {name} | {num_bytes(model) / 2**20:.1f} | {100 * words:.1f} | {100 * phonemes:.1f} |")
    return lines


def speed_table(num_rounds: int) -> list[str]:
    """One line a size and shape."""
    lines = ["| | " + " | ".join(PRECISIONS[1:]) + " |", "| --- |" + " --- |" * len(PRECISIONS[1:])]
    for size, fields in SIZES.items():
        torch.manual_seed(0)
        encoder, decoder = TransformerEncoderConfig(**fields), TransformerDecoderConfig(**fields)
        plain = CustomSeq2SeqForConditionalGeneration(CustomSeq2SeqConfig(encoder=encoder, decoder=decoder))
        plain.train(False)
        models = {name: set_decoding_precision(copy.deepcopy(plain), name) for name in PRECISIONS}
        for shape, batch_size, num_beams in SHAPES:
            ids = torch.randint(3, fields["vocab_size"], (batch_size, 32))
            times: dict[str, list[float]] = {name: [] for name in models}
            for _ in range(num_rounds + 1):  # the first one warms up
                for name, model in models.items():
                    start = time.process_time()
                    model.generate(  # type: ignore[operator]
                        ids,
                        attention_mask=torch.ones_like(ids),
                        num_beams=num_beams,
                        max_new_tokens=NEW_TOKENS,
                        min_new_tokens=NEW_TOKENS,
                    )
                    times[name].append(time.process_time() - start)
            cells = []
            for name in PRECISIONS[1:]:
                ratios = [one / other for one, other in zip(times["fp32"][1:], times[name][1:], strict=True)]
                cells.append(f"{statistics.median(ratios):.2f} ({min(ratios):.2f} to {max(ratios):.2f})")
            lines.append(f"| {size}, {shape} | {' | '.join(cells)} |")
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of the quickstart")
    parser.add_argument("--words", type=int, default=1000, help="test words")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--write", action="store_true", help="put the tables into docs/quantization.md")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    speed = speed_table(arguments.rounds)
    quality = quality_table(arguments.model, arguments.words)
    text = "\n".join(
        [
            f"Quality of the quickstart's model on {arguments.words:,} test words, greedy:",
            "",
            *quality,
            "",
            f"`generate()` beside float32, above 1 is faster (median of {arguments.rounds}, least, greatest):",
            "",
            *speed,
        ]
    )
    print(text)
    if arguments.write:
        before = DOCUMENT.read_text(encoding="utf-8")
        pattern = f"{re.escape(BEGIN)}.*{re.escape(END)}"
        write_text(DOCUMENT, re.sub(pattern, lambda _: f"{BEGIN}\n\n{text}\n\n{END}", before, flags=re.DOTALL))


if __name__ == "__main__":
    main()
