"""`model.dropout`: a model to go on from with another dropout than its own."""

from pathlib import Path
from typing import Any

import pytest
from torch import nn
from transformers import AutoModelForSeq2SeqLM, BartConfig, BertConfig, PreTrainedConfig, T5Config

from hf_custom_decoder import CustomSeq2SeqConfig
from hf_custom_decoder.cli import main
from hf_custom_decoder.training.recipe_model import _set_dropout
from hf_custom_decoder.training.recipe_options import ModelOptions
from tests.tiny_recipes import write_recipe


def test_it_is_that_of_the_whole_run_and_of_the_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", str(write_recipe(tmp_path)), "--max_steps", "1"]) == 0
    first = tmp_path / "run"
    before = AutoModelForSeq2SeqLM.from_pretrained(first).config
    (tmp_path / "next").mkdir()
    recipe = write_recipe(tmp_path / "next", model={}, model__pretrained=str(first), model__dropout=0.45)
    assert main(["train", str(recipe), "--max_steps", "1"]) == 0
    model = AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "next" / "run")
    assert model.config.encoder.dropout == model.config.decoder.dropout == 0.45 != before.decoder.dropout
    assert {one.dropout for one in model.modules() if hasattr(one, "dropout") and not isinstance(one, nn.Dropout)} == {
        0.45
    }
    assert main(["train", str(recipe), "--max_steps", "1", "--model.dropout", "1", "--fresh"]) == 2
    assert "`model.dropout` must be from 0 to below 1, got 1.0" in capsys.readouterr().err


SIDE: dict[str, Any] = {"vocab_size": 20, "hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2}


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (BartConfig(), {"dropout": 0.25, "attention_dropout": 0.0}),
        (T5Config(), {"dropout_rate": 0.25}),
        (
            CustomSeq2SeqConfig(encoder=BertConfig(), decoder={**SIDE, "attention_dropout": 0.125}),
            {
                "encoder.hidden_dropout_prob": 0.25,
                "encoder.attention_probs_dropout_prob": 0.1,
                "decoder.dropout": 0.25,
                "decoder.attention_dropout": 0.125,
            },
        ),
    ],
    ids=["bart", "t5", "ours over bert"],
)
def test_what_configs_call_it(config: PreTrainedConfig, expected: dict[str, float]) -> None:
    _set_dropout(config, 0.25)
    for path, value in expected.items():
        found: Any = config
        for name in path.split("."):
            found = getattr(found, name)
        assert found == value


def test_refused() -> None:
    with pytest.raises(ValueError, match=r"`model\.dropout` changes that of `model\.pretrained`, which is not given"):
        ModelOptions(preset="transformer-tiny", dropout=0.1)
    with pytest.raises(ValueError, match=r"`model\.dropout` sets dropout, dropout_rate or hidden_dropout_prob, but"):
        _set_dropout(PreTrainedConfig(), 0.1)
