"""A recipe that trains in a second: invented sentences, a model of a few thousand weights."""

import json
import random
from pathlib import Path
from typing import Any

import yaml

WORDS = ("rote", "kleine", "alte", "Katze", "Tür", "Straße", "läuft", "schläft", "singt", "heute", "hier", "oft")


def write_pairs(path: Path, num_pairs: int, *, seed: int = 0) -> Path:
    """Writes JSON Lines of sentences and the same backwards."""
    generator = random.Random(seed)
    lines = []
    for _ in range(num_pairs):
        words = generator.choices(WORDS, k=generator.randint(1, 7))
        lines.append(json.dumps({"en": " ".join(words), "de": " ".join(reversed(words))}, ensure_ascii=False))
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def tiny_recipe(folder: Path, **changes: Any) -> dict[str, Any]:
    """Returns a recipe as nested dicts; `changes` are options by full name with two underscores for the dot, or whole sections."""
    side = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
    content: dict[str, Any] = {
        "output": str(folder / "run"),
        "data": {
            "train": str(write_pairs(folder / "train.jsonl", 60)),
            "validation": str(write_pairs(folder / "val.jsonl", 9, seed=1)),
            "test": str(write_pairs(folder / "test.jsonl", 7, seed=2)),
            "source": "en",
            "target": "de",
            "max_source_length": 16,
            "max_target_length": 16,
            "cache_dir": str(folder / "cache"),
        },
        "tokenizer": {"kind": "word", "vocab_size": 40},
        "model": {"encoder": dict(side), "decoder": dict(side)},
        "training": {
            "max_steps": 10,
            "max_tokens": 96,
            "learning_rate": 0.01,
            "warmup": 2,
            "save_steps": 4,
            "log_steps": 2,
            "device": "cpu",
        },
        "generation": {"num_beams": 2, "max_new_tokens": 10},
    }
    for name, value in changes.items():
        section, _, option = name.partition("__")
        if option:
            content.setdefault(section, {})[option] = value
        else:
            content[section] = value
    return content


def write_recipe(folder: Path, **changes: Any) -> Path:
    """Writes the recipe as YAML and returns the file."""
    path = folder / "recipe.yaml"
    path.write_text(yaml.safe_dump(tiny_recipe(folder, **changes)), encoding="utf-8")
    return path
