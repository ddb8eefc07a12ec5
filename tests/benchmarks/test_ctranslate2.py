"""CTranslate2 beside ours: the same words for the same weights, equally many, and left out where it is missing."""

import importlib.util
from dataclasses import replace
from typing import Any

import pytest
import torch

from benchmarks import ctranslate2_speed, full_mode
from benchmarks.batches import source_batch
from benchmarks.ctranslate2_speed import measure_ctranslate2
from benchmarks.decoding_speed import Decoding
from benchmarks.interleaved import UnequalWorkError
from benchmarks.peers_ctranslate2 import CTranslate2Decoding, build_ctranslate2, has_ctranslate2, words_of
from benchmarks.peers_transformers import build_bart, build_ours
from benchmarks.sizes import TRIAL_TINY

SMALL = replace(TRIAL_TINY, vocab=60)
SOURCE = source_batch([4, 2], SMALL.vocab, seed=0)


class FixedTranslator:
    """Answers every source with the same words."""

    def __init__(self, *words: str) -> None:
        self.words, self.sources = list(words), []

    def translate_batch(self, sources: list[list[str]], **settings: Any) -> list[Any]:
        self.sources.append(sources)
        result = type("Result", (), {"hypotheses": [self.words]})
        return [result for _ in sources]


def test_ids_become_words_without_padding_and_words_become_ids() -> None:
    translator = FixedTranslator("w5", "</s>", "<s>")
    run = CTranslate2Decoding(translator, SOURCE, SMALL.vocab, new_tokens=3)
    assert run() == 6
    assert run.write().tolist() == [[1, 5, 2, 1]] * 2
    words = [[f"w{index}" for index in row if index] for row in SOURCE["input_ids"].tolist()]
    assert translator.sources == [words, words]
    assert [len(row) for row in words] == [4, 2]
    assert words_of(4) == ["<pad>", "<s>", "</s>", "w3"]


def test_rows_that_end_early_are_refused() -> None:
    run = CTranslate2Decoding(FixedTranslator("w5"), SOURCE, SMALL.vocab, new_tokens=3)
    with pytest.raises(UnequalWorkError, match=r"3 tokens in every row, got \[1\]"):
        run()


def test_it_is_left_out_with_a_line_where_it_is_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(full_mode, "has_ctranslate2", lambda: False)
    assert "CTranslate2: it was not installed." in full_mode.missing_peers()
    assert not [name for name, _ in full_mode.full_measurements(0, 5) if "CTranslate2" in name]
    monkeypatch.setattr(full_mode, "has_ctranslate2", lambda: True)
    assert "CTranslate2: it was not installed." not in full_mode.missing_peers()
    assert len([name for name, _ in full_mode.full_measurements(0, 5) if "CTranslate2" in name]) == 8
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert not has_ctranslate2()


@pytest.mark.parametrize("beams", [1, 4])
def test_ours_and_ctranslate2_write_the_same(beams: int) -> None:
    if not has_ctranslate2():
        pytest.skip("ctranslate2 is not installed")
    bart = build_bart(SMALL, seed=0)
    for weight in bart.parameters():
        torch.nn.init.normal_(weight, std=0.5)  # words that depend on the source
    ours = Decoding(build_ours(bart), SOURCE, new_tokens=7, beams=beams)
    other = CTranslate2Decoding(build_ctranslate2(bart, "float32"), SOURCE, SMALL.vocab, new_tokens=7, beams=beams)
    assert ours() == other() == 14
    assert other.write().tolist() == ours.write().tolist()
    assert other.write()[0].tolist() != other.write()[1].tolist()


def test_each_precision_is_compared_with_its_like(monkeypatch: pytest.MonkeyPatch) -> None:
    built: list[str] = []

    def build(bart: Any, compute_type: str) -> FixedTranslator:
        built.append(compute_type)
        return FixedTranslator("w5", "w6")

    monkeypatch.setattr(ctranslate2_speed, "build_ctranslate2", build)
    monkeypatch.setattr(ctranslate2_speed, "NEW_TOKENS", 2)
    figures = measure_ctranslate2(TRIAL_TINY, beams=4, batch_size=1, seed=0, rounds=5)
    assert built == ["float32", "int8"]
    assert [figure.reference_name for figure in figures] == ["CTranslate2, fp32", "CTranslate2, int8"]
    assert [figure.name[-4:] for figure in figures] == ["fp32", "int8"]
    assert all("tiny: 4 beams, batch 1, 32 source tokens" in figure.name for figure in figures)
