"""The table of several decoders and its files."""

import dataclasses
import json
from pathlib import Path

from hf_custom_decoder.evaluation.error_rates import ErrorRates
from hf_custom_decoder.quickstart.comparison_table import (
    describe_comparison,
    format_comparison,
    write_comparison,
)
from tests.quickstart.test_quickstart_results import RESULTS

SLOWER = dataclasses.replace(
    RESULTS,
    decoder="transformer",
    training=dataclasses.replace(RESULTS.training, num_parameters=99_000, num_tokens=450_000, num_steps=1042),
    decoding=dataclasses.replace(RESULTS.decoding, seconds=160.0),
    groups={"all": ErrorRates(num_words=2000, num_wrong_words=50, num_edits=100, num_phonemes=10_000)},
)


def test_each_decoder_has_a_line() -> None:
    assert format_comparison([SLOWER, RESULTS]).splitlines() == [
        "| decoder     | words wrong | phoneme errors | parameters | training tokens/s | decoding tokens/s |",
        "| ----------- | ----------: | -------------: | ---------: | ----------------: | ----------------: |",
        "| transformer |        2.5% |           1.0% |     99,000 |             5,000 |               138 |",
        "| gru         |       25.0% |          12.3% |  1,234,567 |                50 |             1,375 |",
    ]


def test_settings_are_told() -> None:
    text = describe_comparison([RESULTS, SLOWER])
    assert "100 words to train on, 2,000 held out; 1:30 minutes and 42 to 1,042 steps of 8 pairs a decoder" in text
    assert "seed 5; 4 beams; one abacus and two abaci." in text
    greedy = dataclasses.replace(RESULTS, decoding=dataclasses.replace(RESULTS.decoding, num_beams=1))
    assert "seed 5; greedy search;" in describe_comparison([greedy])


def test_files_hold_the_table_and_the_figures(tmp_path: Path) -> None:
    write_comparison(tmp_path, [SLOWER, RESULTS], {"seed": 5})
    assert format_comparison([SLOWER, RESULTS]) in (tmp_path / "comparison.md").read_text()
    content = json.loads((tmp_path / "comparison.json").read_text())
    assert content["settings"] == {"seed": 5}
    assert [line["decoder"] for line in content["decoders"]] == ["transformer", "gru"]
    assert content["decoders"][1] == {
        "decoder": "gru",
        "word_error_rate": 0.25,
        "phoneme_error_rate": 0.123,
        "num_parameters": 1_234_567,
        "num_steps": 42,
        "training_seconds": 90.0,
        "training_tokens_per_second": 50.0,
        "training_hardware": "two abaci",
        "decoding_tokens_per_second": 1375.0,
        "decoding_hardware": "one abacus",
        "num_beams": 4,
    }
    assert sorted(path.name for path in tmp_path.iterdir()) == ["comparison.json", "comparison.md"]
