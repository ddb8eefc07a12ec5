"""The network of netra-transliterate answers as the package does with one beam."""

import json
import pickle
import shutil
import sys
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.conversion import convert_netra, netra_tokenizer
from hf_custom_decoder.conversion.installed_packages import package_folder
from hf_custom_decoder.conversion.netra_transliterate import ASSETS, MODEL, PACKAGE, REQUIREMENT
from tests.conversion.reference_outputs import (
    assert_same_outputs,
    assert_same_steps,
    generated_texts,
    need_package,
    read_references,
)


@pytest.fixture(scope="module")
def model() -> Any:
    need_package(PACKAGE, REQUIREMENT)
    need_package("h5py", "h5py")
    return convert_netra()


@pytest.fixture(scope="module")
def tokenizer(model: Any) -> Any:
    return netra_tokenizer()


@pytest.fixture
def copied_package(model: Any, tmp_path: Path) -> Path:
    """The files of the package that are read, to be spoiled."""
    source = package_folder(PACKAGE, REQUIREMENT, None, files=(MODEL, ASSETS), owner="test")
    for file in (MODEL, ASSETS):
        (tmp_path / file).parent.mkdir(exist_ok=True)
        shutil.copy(source / file, tmp_path / file)
    return tmp_path


def test_outputs(model: Any, tokenizer: Any) -> None:
    references = read_references("netra")
    assert f"{references['package']}=={references['version']}" == REQUIREMENT
    assert_same_outputs(model, tokenizer, references["outputs"])
    assert "tensorflow" not in sys.modules
    assert PACKAGE not in sys.modules


def test_log_probabilities(model: Any, tokenizer: Any) -> None:
    assert_same_steps(model, tokenizer, read_references("netra")["steps"], are_logs=True)


def _largest(logits: torch.Tensor, count: int) -> list[list[tuple[float, int]]]:
    """The largest probabilities of each row with their ids."""
    values, ids = logits.softmax(-1).topk(count)
    return [list(zip(*pair, strict=True)) for pair in zip(values.tolist(), ids.tolist(), strict=True)]


def package_search(model: Any, tokenizer: Any, words: list[str], width: int) -> list[str]:
    """The package's beam search on our model, all words at once; prefixes are read anew at every step."""
    start, end, limit = model.config.start_token_id, model.config.eos_token_id, model.generation_config.max_length
    source = model.get_encoder()(**tokenizer(words, return_tensors="pt")).last_hidden_state
    live: list[list[tuple[float, list[int]]]] = [[(1.0, [start])] for _ in words]
    finished: list[list[tuple[float, list[int]]]] = [[] for _ in words]
    while rows := [(row, *beam) for row, beams in enumerate(live) if len(finished[row]) < width for beam in beams]:
        prefixes = torch.tensor([sequence for _, _, sequence in rows])
        states = (source[[row for row, _, _ in rows]],)
        logits = model(encoder_outputs=states, decoder_input_ids=prefixes, logits_to_keep=1).logits[:, 0]
        for row in {row for row, _, _ in rows}:
            live[row] = []
        for (row, probability, sequence), best in zip(rows, _largest(logits, width), strict=True):
            for token_probability, token_id in best:
                beam = (probability * token_probability, [*sequence, token_id])
                is_done = token_id == end or len(beam[1]) >= limit
                if token_probability > 1e-8:
                    (finished if is_done else live)[row].append(beam)
        live = [sorted(beams, key=lambda beam: -beam[0])[:width] for beams in live]
    winners = [max(one + two, key=lambda beam: beam[0])[1] for one, two in zip(finished, live, strict=True)]
    return tokenizer.batch_decode(winners, skip_special_tokens=True)


@torch.no_grad()
def test_search_of_the_package(model: Any, tokenizer: Any) -> None:
    """Its default, three beams, is another search than that of transformers, on the same network."""
    expected = read_references("netra")["beams"]
    assert len(expected) > 300
    texts = package_search(model, tokenizer, list(expected), width=3)
    assert dict(zip(expected, texts, strict=True)) == expected


def test_needs_no_mask(model: Any, tokenizer: Any) -> None:
    inputs = tokenizer(["brodae", "phnompenh"], return_tensors="pt")
    assert torch.equal(model.generate(inputs.input_ids), model.generate(**inputs))


def test_attention_reads_the_fills(model: Any, tokenizer: Any) -> None:
    inputs = tokenizer(["bok"], return_tensors="pt")
    weights = model(**inputs, decoder_input_ids=torch.tensor([[79]]), output_attentions=True).cross_attentions[0]
    assert weights.shape == (1, 1, 1, 25)
    assert weights[..., 3:].min() > 0


def test_saved_folder(model: Any, tokenizer: Any, tmp_path: Path) -> None:
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    expected = dict(list(read_references("netra")["outputs"].items())[:20])
    loaded, reloaded = AutoModelForSeq2SeqLM.from_pretrained(tmp_path), AutoTokenizer.from_pretrained(tmp_path)
    assert generated_texts(loaded, reloaded, list(expected)) == list(expected.values())


@pytest.mark.parametrize(
    ("text", "tokens"),
    [
        ("Bok", [*"bok", *["<fill>"] * 22]),
        (" b-o k2é\n", [*"bok", *["<fill>"] * 22]),
        ("a" + "bcdef" * 5, [*"bcdef" * 5]),
        ("!?", ["<fill>"] * 25),
        ("ប្រដែ", [*"ប្រដែ", "</s>"]),
        ("aប្រដែb", ["a", "b", *["<fill>"] * 23]),
        ("", []),
    ],
)
def test_tokens(tokenizer: Any, text: str, tokens: list[str]) -> None:
    encoded = tokenizer(text)
    assert tokenizer.convert_ids_to_tokens(encoded.input_ids) == tokens
    assert encoded.attention_mask == [1] * len(tokens)


def test_target_round_trip(model: Any, tokenizer: Any) -> None:
    inputs = tokenizer(["brodae"], text_target=["ប្រដែ"], return_tensors="pt")
    assert tokenizer.decode(inputs["labels"][0], skip_special_tokens=True) == "ប្រដែ"
    assert model(**inputs).loss < 0.5  # nats a character; at random it is 4.4


@pytest.mark.parametrize(
    ("layer", "name", "value"),
    [
        ("time_distributed_9", "activation", "relu"),
        ("gru_7", "reset_after", False),
        ("bidirectional_3", "recurrent_activation", "hard_sigmoid"),
        ("additive_attention_5", "use_scale", False),
        ("embedding_8", "mask_zero", True),
    ],
)
def test_another_network_is_refused(copied_package: Path, layer: str, name: str, value: Any) -> None:
    with zipfile.ZipFile(copied_package / MODEL) as archive:
        contents = {one: archive.read(one) for one in archive.namelist()}
    config = json.loads(contents["config.json"])
    (found,) = [one for one in config["config"]["layers"] if one["config"]["name"] == layer]
    target = found["config"] if name in found["config"] else found["config"]["layer"]["config"]
    assert target[name] != value
    target[name] = value
    contents["config.json"] = json.dumps(config).encode()
    with zipfile.ZipFile(copied_package / MODEL, "w") as archive:
        for one, content in contents.items():
            archive.writestr(one, content)
    with pytest.raises(ValueError, match=rf"convert_netra: `{name}` of the layer .* must be .*, got {value!r}"):
        convert_netra(copied_package)


class _Harmful:
    def __reduce__(self) -> Any:
        return print, ("run by a pickle",)


def test_pickle_runs_nothing(copied_package: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (copied_package / ASSETS).write_bytes(pickle.dumps({"eng_tokenizer": _Harmful()}))
    with pytest.raises(ValueError, match="containers, numbers and strings only, got builtins.print"):
        netra_tokenizer(copied_package)
    assert capsys.readouterr().out == ""
