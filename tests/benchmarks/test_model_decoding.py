"""Decoding speed of trained models: one text, every model its own tokenizer, ratios to the first."""

from pathlib import Path

import pytest
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from benchmarks.interleaved import MIN_ROUNDS
from benchmarks.model_decoding import compare
from hf_custom_decoder.cli import main
from tests.tiny_recipes import write_recipe

pytest.importorskip("datasets")


def test_every_model_writes_for_all_sources(tmp_path: Path) -> None:
    folders = []
    for seed, name in enumerate(("first", "second")):
        (tmp_path / name).mkdir()
        recipe = write_recipe(tmp_path / name, training__max_steps=2, training__seed=seed)
        assert main(["train", str(recipe)]) == 0
        folders.append(tmp_path / name / "run")
    sources = ["rote Katze", "alte Tür singt heute", "hier"]
    found, words = compare(folders, sources, 2, MIN_ROUNDS)
    assert found.tokens == len(sources)
    assert set(found.seconds) == {str(folder) for folder in folders}
    assert words[0] != words[1]
    for folder, count in zip(folders, words, strict=True):
        model, tokenizer = AutoModelForSeq2SeqLM.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
        alone = [
            tokenizer.decode(model.generate(**tokenizer(source, return_tensors="pt"))[0], skip_special_tokens=True)
            for source in sources
        ]
        assert count == pytest.approx(sum(len(text.split()) for text in alone) / len(sources))
