"""
How fast trained models decode one and the same text, as their folders say (beams, longest output).

    recipes=examples/recipes
    python -m benchmarks.model_decoding runs/multi30k-tiny runs/multi30k-lstm --recipe $recipes/multi30k_tiny.yaml

One process, one thread, A B A B; the time of a round is the processor time for all sources, tokenizing included. The
work that is equal is the sources: every model writes what it writes, until its own end.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.data.pair_tables import read_pairs
from hf_custom_decoder.evaluation.batched_generation import generate_texts
from hf_custom_decoder.training.recipe_reading import read_recipe
from hf_custom_decoder.training.recipe_tokenizers import load_target_tokenizer

from .interleaved import MIN_ROUNDS, Contestant, Race, race


def contestant(folder: Path, sources: Sequence[str], batch_size: int, written: dict[str, list[str]]) -> Contestant:
    """
    One model that writes what belongs to all sources; it returns how many they were.

    Args:
        folder (`Path`): Of a model and its tokenizers.
        sources (`Sequence[str]`): Texts.
        batch_size (`int`): Sources of a batch.
        written (`dict[str, list[str]]`): Takes the texts that were written, by folder.
    """
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    tokenizer, target_tokenizer = AutoTokenizer.from_pretrained(folder), load_target_tokenizer(folder)

    def run() -> int:
        texts = generate_texts(model, tokenizer, sources, batch_size=batch_size, target_tokenizer=target_tokenizer)
        written[str(folder)] = [text for (text,) in texts]
        return len(written[str(folder)])

    return run


def compare(folders: Sequence[Path], sources: Sequence[str], batch_size: int, rounds: int) -> tuple[Race, list[float]]:
    """The race of all folders, and the mean number of words that each wrote for a source."""
    written: dict[str, list[str]] = {}
    runs = {str(folder): contestant(folder, sources, batch_size, written) for folder in folders}
    result = race(runs, rounds=rounds)
    return result, [sum(len(text.split()) for text in written[name]) / len(sources) for name in runs]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folders", type=Path, nargs="+", help="models; ratios are to the first")
    parser.add_argument("--recipe", type=Path, required=True, help="its test data are the sources")
    parser.add_argument("--sources", type=int, default=64, help="how many of them")
    parser.add_argument("--batch_sizes", type=int, nargs="+", default=[1, 32])
    parser.add_argument("--rounds", type=int, default=MIN_ROUNDS)
    options = parser.parse_args()
    torch.set_num_threads(1)
    entries = read_pairs(read_recipe(options.recipe, {}).data, "test")
    sources = [entries[index]["source"] for index in range(min(options.sources, len(entries)))]
    sources.sort(key=len, reverse=True)  # as `evaluate` does
    for batch_size in options.batch_sizes:
        result, words = compare(options.folders, sources, batch_size, options.rounds)
        for folder, count in zip(options.folders, words, strict=True):
            ratio = result.speedup(str(folder), str(options.folders[0]))
            print(
                f"batch {batch_size}: {folder}: {result.tokens_per_second(str(folder)):.1f} sources/s, "
                f"{ratio.median:.2f} [{ratio.lower:.2f}, {ratio.upper:.2f}] of the first, {count:.1f} words a source",
                flush=True,
            )


if __name__ == "__main__":
    main()
