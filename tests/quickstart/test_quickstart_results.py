"""Figures, table and card of the quickstart."""

import dataclasses
import json
import re

import pytest
from huggingface_hub import ModelCard

from hf_custom_decoder.data.pronunciation_dictionary import WordEntry
from hf_custom_decoder.evaluation.error_rates import ErrorRates
from hf_custom_decoder.hub.model_card import render_model_card
from hf_custom_decoder.quickstart.quickstart_card import card_contents
from hf_custom_decoder.quickstart.quickstart_results import (
    DecodingFigures,
    QuickstartResults,
    TrainingFigures,
    format_table,
    score_by_length,
)

RESULTS = QuickstartResults(
    decoder="gru",
    training=TrainingFigures(
        num_parameters=1_234_567,
        num_words=100,
        num_pairs=110,
        num_steps=42,
        batch_size=8,
        num_tokens=4500,
        seconds=90.0,
        seed=5,
        hardware="two abaci",
    ),
    decoding=DecodingFigures(num_beams=4, num_tokens=22_000, seconds=16.0, hardware="one abacus"),
    table_seconds=120.0,
    groups={
        "up to 5 letters": ErrorRates(num_words=3, num_wrong_words=1, num_edits=2, num_phonemes=10),
        "all": ErrorRates(num_words=2000, num_wrong_words=500, num_edits=1230, num_phonemes=10_000),
    },
    pronunciations={"blorp": "B L AO R P"},
)


def test_words_are_grouped_by_length() -> None:
    entries = [
        WordEntry("abcdefghi", (("A", "B"),)),
        WordEntry("abcde", (("A",),)),
        WordEntry("abcd", (("A",), ("B", "C"))),
    ]
    groups = score_by_length(entries, [("A", "X"), ("A",), ("B", "X")])
    assert list(groups) == ["up to 5 letters", "9 letters and more", "all"]  # nothing has 6 to 8 letters
    assert groups["up to 5 letters"] == ErrorRates(num_words=2, num_wrong_words=1, num_edits=1, num_phonemes=3)
    assert groups["9 letters and more"] == ErrorRates(num_words=1, num_wrong_words=1, num_edits=1, num_phonemes=2)
    assert groups["all"] == ErrorRates(num_words=3, num_wrong_words=2, num_edits=2, num_phonemes=5)


def test_table_shows_both_rates() -> None:
    lines = format_table(RESULTS).splitlines()
    assert [re.split(r"\s{2,}", line) for line in lines if "-" not in line] == [
        ["held out", "words", "words wrong", "phoneme errors"],
        ["up to 5 letters", "3", "33.3%", "20.0%"],
        ["all", "2,000", "25.0%", "12.3%"],
    ]
    assert len({len(line) for line in lines}) == 1


def test_results_survive_json() -> None:
    stored = json.loads(json.dumps(RESULTS.to_dict()))
    assert stored["groups"]["all"]["word_error_rate"] == 0.25
    assert stored["groups"]["all"]["phoneme_error_rate"] == 0.123
    assert stored["training"]["tokens_per_second"] == 50.0
    assert stored["decoding"]["tokens_per_second"] == 1375.0
    assert stored["decoder"] == "gru"
    assert QuickstartResults.from_dict(stored) == RESULTS


def test_results_of_an_earlier_version_are_refused() -> None:
    stored = {name: value for name, value in RESULTS.to_dict().items() if name not in ("decoder", "decoding")}
    with pytest.raises(ValueError, match=r"`content` must hold all figures .* no decoder, decoding: .*--fresh"):
        QuickstartResults.from_dict(stored)


def test_card_is_filled_from_the_results() -> None:
    text = render_model_card(card_contents(RESULTS, picture="attention.png"))
    card = ModelCard(text)
    assert {(result.metric_type, result.metric_value) for result in card.data.eval_results} == {
        ("wer", 25.0),
        ("per", 12.3),
    }
    for expected in (
        "1,234,567 parameters",
        "# English pronunciation with GRU decoder",
        "A bidirectional GRU encoder of 2 layers, and a decoder of 1 GRU layer with dot attention",
        "50 tokens a second (letters, phonemes and end tokens, no padding)",
        "1,375 tokens a second (phonemes and end tokens, beam search with 4 beams) on one abacus",
        "100 words with 110 pronunciations; 42 steps of 8 pairs",
        "seed 5",
        "1:30 minutes on two abaci",
        "| 25.00 | beam search with 4 beams, all 2,000 test words",
        "| blorp | B L AO R P |",
        "![cross-attention](attention.png)",
        "trust_remote_code=True",
        "Carnegie Mellon",
    ):
        assert expected in text
    greedy = render_model_card(
        card_contents(
            dataclasses.replace(RESULTS, decoding=dataclasses.replace(RESULTS.decoding, num_beams=1)), picture="a.png"
        )
    )
    assert "greedy search" in greedy
    assert "beam" not in greedy
