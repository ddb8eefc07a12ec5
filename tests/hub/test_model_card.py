"""The model card says all it has to, in a form that the Hub reads."""

import dataclasses
from pathlib import Path

import pytest
from huggingface_hub import ModelCard

from hf_custom_decoder.hub.model_card import Measurement, ModelCardContents, render_model_card, write_model_card

CONTENTS = ModelCardContents(
    title="A model: of words",
    summary="It turns words around.",
    language="en",
    license="apache-2.0",
    task="text2text-generation",
    dataset_id="words",
    dataset_name="All Words",
    dataset_split="test",
    loading_code="print('loading code')",
    data="Collected by hand, public domain.",
    training="Three steps on one core.",
    evaluation="Errors are counted.",
    limits="It cannot spell.",
    measurements=[
        Measurement("wer", "word error rate (%)", 41.23456, "beam search with 4 beams"),
        Measurement("per", "phoneme error rate (%)", 10.5, "greedy search"),
    ],
)


def test_metadata_is_what_the_hub_reads(tmp_path: Path) -> None:
    card = ModelCard.load(write_model_card(tmp_path, CONTENTS))
    assert card.data.library_name == "transformers"
    assert card.data.pipeline_tag == "text2text-generation"
    assert (card.data.language, card.data.license) == ("en", "apache-2.0")
    assert card.data.datasets == ["words"]
    assert card.data.metrics == ["per", "wer"]
    assert card.data.model_name == "A model: of words"  # a colon needs quotes in YAML
    assert [(result.metric_type, result.metric_value) for result in card.data.eval_results] == [
        ("wer", 41.2346),
        ("per", 10.5),
    ]
    assert {result.dataset_name for result in card.data.eval_results} == {"All Words"}
    assert {result.dataset_split for result in card.data.eval_results} == {"test"}


def test_every_text_stands_under_its_heading() -> None:
    text = render_model_card(CONTENTS)
    sections = {part.partition("\n")[0]: part for part in text.split("\n## ")}
    assert "```python\nprint('loading code')\n```" in sections["How to load it"]
    assert "| word error rate (%) | 41.23 | beam search with 4 beams |" in sections["Results"]
    assert "Errors are counted." in sections["Results"]
    assert "public domain" in sections["Data and licence"]
    assert "Three steps" in sections["Training"]
    assert "It cannot spell." in sections["What it is bad at"]
    assert "It turns words around." in text


@pytest.mark.parametrize(
    "name", [field.name for field in dataclasses.fields(CONTENTS) if isinstance(getattr(CONTENTS, field.name), str)]
)
def test_blank_text_is_refused(name: str) -> None:
    with pytest.raises(ValueError, match=rf"found nothing in \['{name}'\]"):
        render_model_card(dataclasses.replace(CONTENTS, **{name: " \n"}))


def test_card_without_figures_is_refused() -> None:
    with pytest.raises(ValueError, match=r"found nothing in \['measurements'\]"):
        render_model_card(dataclasses.replace(CONTENTS, measurements=[]))
