"""
What can be had without a model on the test data of a recipe, scored as `evaluate` scores the model.

    python -m benchmarks.simple_baselines examples/recipes/e2e.yaml

- nearest: the target of the training pair with the largest share of words in common (the first of equals);
- first: the first sentence of the source;
- closest: the sentence of the source, after `context:` where that stands in it, that shares most words with the rest.
"""

import argparse
import re
from collections import defaultdict
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hf_custom_decoder.data.pair_tables import merge_references, read_pairs
from hf_custom_decoder.evaluation.text_metrics import Score, score_texts
from hf_custom_decoder.training.recipe_reading import read_recipe

CONTEXT = "context:"

Guess = Callable[[str], str]


def words_of(text: str) -> frozenset[str]:
    """Words, numbers and what stands between brackets, in lower case."""
    return frozenset(re.findall(r"\w+", text.lower()))


def sentences_of(text: str) -> list[str]:
    """At full stops, question and exclamation marks before white space."""
    return re.split(r"(?<=[.!?])\s+", text.strip())


def nearest(pairs: Sequence[dict[str, Any]]) -> Guess:
    """Learns from training pairs of `source` and `references`."""
    targets: dict[frozenset[str], str] = {}
    for pair in pairs:
        targets.setdefault(words_of(pair["source"]), str(pair["references"][0]))
    sources = list(targets)
    holders: dict[str, list[int]] = defaultdict(list)
    for idx, words in enumerate(sources):
        for word in words:
            holders[word].append(idx)
    places = {word: np.array(held) for word, held in holders.items()}
    sizes = np.array([len(words) for words in sources])

    def guess(source: str) -> str:
        wanted = words_of(source)
        shared = np.zeros(len(sources))
        for word in wanted & places.keys():
            shared[places[word]] += 1
        return targets[sources[int((shared / np.maximum(len(wanted) + sizes - shared, 1)).argmax())]]

    return guess


def first(source: str) -> str:
    """The first sentence."""
    return sentences_of(source)[0]


def closest(source: str) -> str:
    """The sentence of the context that shares most words with the question before it, or with the whole source."""
    question, mark, context = source.partition(CONTEXT)
    wanted = words_of(question if mark else source)
    return max(sentences_of(context if mark else source), key=lambda sentence: len(wanted & words_of(sentence)))


def baselines(recipe_file: Path, overrides: dict[str, str] | None = None) -> dict[str, dict[str, Score]]:
    """The scores of each baseline by metric, on the recipe's test data."""
    recipe = read_recipe(recipe_file, overrides or {})
    metrics = [name for name in recipe.evaluation.metrics if name != "perplexity"]
    entries = read_pairs(recipe.data, "test")
    entries = merge_references(entries) if recipe.data.merge_references else list(entries)
    guesses = {"nearest": nearest(read_pairs(recipe.data, "train")), "first": first, "closest": closest}
    references = [entry["references"] for entry in entries]
    return {
        name: score_texts(metrics, [guess(entry["source"]) for entry in entries], references)
        for name, guess in guesses.items()
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", type=Path, help="YAML file")
    for name, scores in baselines(parser.parse_args().recipe).items():
        shown = ", ".join(f"{metric} {score.value:.2f}" for metric, score in scores.items())
        print(f"{name}: {shown}", flush=True)


if __name__ == "__main__":
    main()
