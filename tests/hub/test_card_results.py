"""Figures in a card's metadata: the rest stays, twice is once, and the Hub reads it."""

from dataclasses import replace
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_custom_decoder.hub.card_results import CardResult, update_card

BLEU = CardResult("translation", "local", "test2016.jsonl", "test", "bleu", "bleu", 41.02, "5 beams")
CHRF = replace(BLEU, metric_type="chrf", metric_name="chrf", value=60.5)
CARD = """---
language: de   # spoken
tags: [a,   b]
model-index:
- name: tiny
  results:
  - task:
      type: translation
    dataset:
      name: val.jsonl
      type: local
      split: validation
    metrics:
    - type: perplexity
      value: 7.5
# the end
license: mit
---

# Tiny

---
A line above, "model-index:" and ä here.
"""


def test_the_rest_stays(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(CARD, encoding="utf-8")
    assert update_card(card, [BLEU, CHRF], model_name="other")
    text = card.read_text(encoding="utf-8")
    before, after = CARD.split("model-index:", 1)[0], CARD[CARD.index("# the end") :]
    assert text.startswith(before)
    assert text.endswith(after)
    results = {
        (one.dataset_split, one.metric_type): one.metric_value for one in ModelCard.load(card).data.eval_results
    }
    assert results == {("validation", "perplexity"): 7.5, ("test", "bleu"): 41.02, ("test", "chrf"): 60.5}


def test_twice_is_once_and_new_figures_replace_old_ones(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    card.write_text(CARD, encoding="utf-8")
    update_card(card, [BLEU, CHRF], model_name="tiny")
    once, written = card.read_bytes(), card.stat().st_mtime_ns
    assert not update_card(card, [BLEU, CHRF], model_name="tiny")
    assert (card.read_bytes(), card.stat().st_mtime_ns) == (once, written)
    assert update_card(card, [replace(BLEU, value=42.5)], model_name="tiny")
    values = [one.metric_value for one in ModelCard.load(card).data.eval_results]
    assert values == [7.5, 42.5, 60.5]
    update_card(card, [BLEU], model_name="tiny")
    assert card.read_bytes() == once


@pytest.mark.parametrize("text", ["# Tiny\n", "---\nlicense: mit\n---\n# Tiny\n", ""])
def test_cards_without_results(tmp_path: Path, text: str) -> None:
    card = tmp_path / "README.md"
    card.write_text(text)
    update_card(card, [BLEU], model_name="tiny")
    loaded = ModelCard.load(card)
    assert loaded.data.model_name == "tiny"
    assert [one.metric_value for one in loaded.data.eval_results] == [41.02]
    assert card.read_text().endswith(text.rpartition("---\n")[2])
    assert ("license: mit" in card.read_text()) is ("license: mit" in text)


def test_a_failed_write_leaves_the_card(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    card = tmp_path / "README.md"
    card.write_text(CARD, encoding="utf-8")

    def fail(*arguments: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("os.replace", fail)
    with pytest.raises(OSError, match="disk full"):
        update_card(card, [BLEU], model_name="tiny")
    assert card.read_text(encoding="utf-8") == CARD
    assert list(tmp_path.iterdir()) == [card]


def test_mistakes(tmp_path: Path) -> None:
    card = tmp_path / "README.md"
    with pytest.raises(FileNotFoundError, match="must be a model card, found none"):
        update_card(card, [BLEU], model_name="tiny")
    for head in ("a: [", "model-index: 3", "- a"):
        card.write_text(f"---\n{head}\n---\n")
        with pytest.raises(ValueError, match="cannot be read"):
            update_card(card, [BLEU], model_name="tiny")
    card.write_text(CARD.replace("    metrics:", "# in the middle\n    metrics:"), encoding="utf-8")
    with pytest.raises(ValueError, match="cannot be told from what follows"):
        update_card(card, [BLEU], model_name="tiny")
