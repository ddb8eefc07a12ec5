"""Files that a model writes: whole, resumable, in the recipe's columns, tagged with one token."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from hf_custom_decoder.cli import main
from hf_custom_decoder.training import generated_pairs
from hf_custom_decoder.training.kept_outputs import kept_outputs
from hf_custom_decoder.training.recipe_reading import recipe_from_dict
from hf_custom_decoder.training.run_recipe import train_recipe
from tests.tiny_recipes import tiny_recipe, write_recipe

pytest.importorskip("datasets")

TEXTS = [f"{'x' * (idx % 5)} {idx}" for idx in range(11)]


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that writes something."""
    folder = tmp_path_factory.mktemp("teacher")
    return train_recipe(
        recipe_from_dict(tiny_recipe(folder, training__max_steps=150, data__validation=None)), lambda text: None
    )


def rows(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def upper(batches: list[list[str]], stop_after: int | None = None) -> Any:
    """Stands for a model: capitals, batch by batch, which it notes."""

    def generate(sources: Iterator[str]) -> Iterator[str]:
        left = list(sources)
        for start in range(0, len(left), 3):
            batches.append(left[start : start + 3])
            for idx, text in enumerate(batches[-1]):
                if stop_after == start + idx:
                    raise KeyboardInterrupt
                yield text.upper()

    return generate


@pytest.mark.parametrize("stop_after", [0, 3, 7])
def test_outputs_go_on_with_whole_batches(tmp_path: Path, stop_after: int) -> None:
    partial = tmp_path / "kept"
    whole: list[list[str]] = []
    before: list[list[str]] = []
    after: list[list[str]] = []
    expected = kept_outputs(TEXTS, upper(whole), tmp_path / "other", settings={"beams": 2}, batch_size=3)
    assert expected == [text.upper() for text in TEXTS]
    assert [len(text) for batch in whole for text in batch] == sorted(map(len, TEXTS), reverse=True)
    with pytest.raises(KeyboardInterrupt):
        kept_outputs(TEXTS, upper(before, stop_after), partial, settings={"beams": 2}, batch_size=3)
    with partial.open("a") as stream:
        stream.write('"half a li')  # torn by a power cut
    with pytest.raises(ValueError, match="`beams` must be the same .* begun with 2, got 3"):
        kept_outputs(TEXTS, upper([]), partial, settings={"beams": 3}, batch_size=3)
    with pytest.raises(ValueError, match="`texts` must be the same"):
        kept_outputs(TEXTS[1:], upper([]), partial, settings={"beams": 2}, batch_size=3)
    assert kept_outputs(TEXTS, upper(after), partial, settings={"beams": 2}, batch_size=3) == expected
    assert after == whole[stop_after // 3 :]
    fresh: list[list[str]] = []
    kept_outputs(TEXTS, upper(fresh), partial, settings={"beams": 3}, batch_size=3, fresh=True)
    assert fresh == whole


def test_a_file_of_others_is_left_alone(tmp_path: Path) -> None:
    partial = tmp_path / "kept"
    for content in ("years of work\n", '{"a": 1}\n', ""):
        partial.write_text(content)
        for fresh in (False, True):
            with pytest.raises(ValueError, match="must be a new file or what an interrupted run has left"):
                kept_outputs(TEXTS, upper([]), partial, settings={}, batch_size=3, fresh=fresh)
        assert partial.read_text() == content


def test_distill(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, data__max_rows=9, evaluation__batch_size=4, tokenizer__min_frequency=1)
    output = tmp_path / "distilled.jsonl"
    line = ["distill", str(recipe), "--teacher", str(teacher), "--output", str(output), "--num_beams", "3"]
    assert main(line) == 0
    assert f"--train {output}" in capsys.readouterr().out
    written = rows(output)
    originals = rows(tmp_path / "train.jsonl")[:9]
    assert [row["en"] for row in written] == [row["en"] for row in originals]
    sources = tmp_path / "sources.txt"
    sources.write_text("".join(f"{row['en']}\n" for row in originals), encoding="utf-8")
    capsys.readouterr()
    options = ["--num_beams", "3", "--max_new_tokens", "10", "--batch_size", "4"]
    assert main(["generate", "--model", str(teacher), "--file", str(sources), *options]) == 0
    assert [row["de"] for row in written] == capsys.readouterr().out.splitlines()
    assert not list(tmp_path.glob("*.partial"))
    assert main(line) == 2
    assert "is there. Choose another name, or write it again with `--fresh`" in capsys.readouterr().err
    assert main([*line, "--fresh"]) == 0
    assert rows(output) == written
    for own in ("train.jsonl", "val.jsonl"):
        assert main([*line[:5], str(tmp_path / own), "--fresh"]) == 2
        assert "is one that the recipe reads" in capsys.readouterr().err
    student = ["train", str(recipe), "--max_steps", "1", "--train", str(output)]
    assert main(student) == 0


def test_an_interrupted_command_goes_on(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, data__max_rows=9, evaluation__batch_size=4)
    line = ["distill", str(recipe), "--teacher", str(teacher), "--output"]
    assert main([*line, str(tmp_path / "whole.jsonl")]) == 0
    original, numbers = generated_pairs.generate_texts, []

    def stops(model: Any, tokenizer: Any, sources: Iterator[str], **options: Any) -> Iterator[list[str]]:
        for texts in original(model, tokenizer, sources, **options):
            numbers.append(len(numbers))
            if len(numbers) == 7:
                raise KeyboardInterrupt
            yield texts

    monkeypatch.setattr(generated_pairs, "generate_texts", stops)
    output = tmp_path / "parts.jsonl"
    assert main([*line, str(output)]) == 130
    assert not output.exists()
    assert main([*line, str(output)]) == 0
    assert len(numbers) == 7 + 5  # a batch of four was kept
    assert output.read_bytes() == (tmp_path / "whole.jsonl").read_bytes()


def test_back_translation(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = tmp_path / "mono.txt"
    text.write_text("heute singt\n\nKatze läuft oft\n", encoding="utf-8-sig")  # the mark is no text
    output = tmp_path / "back.jsonl"
    recipe = write_recipe(tmp_path, data__source="pair.en", data__target="pair.de", tokenizer__vocab_size=9)
    line = ["back-translate", str(recipe), "--model", str(teacher), "--text", str(text), "--output", str(output)]
    assert main(line) == 2
    assert "`tokenizer.tags` of the recipe must hold the tag '<BT>'" in capsys.readouterr().err
    assert main([*line, "--tags", "<BT>", "--tag", "<BT>"]) == 0
    pairs = [row["pair"] for row in rows(output)]
    assert [pair["de"] for pair in pairs] == ["heute singt", "Katze läuft oft"]
    assert all(pair["en"].startswith("<BT> ") and pair["en"] != "<BT> " for pair in pairs)


def test_sources_are_cut_as_in_training(teacher: Path, tmp_path: Path) -> None:
    """A longer source is written as it is, but the teacher reads as much of it as a student would."""
    path = write_recipe(tmp_path, evaluation__batch_size=4, data__max_source_length=5)
    words = "rote Katze läuft heute hier oft".split()
    lines = [{"en": " ".join(words[:count]), "de": "x"} for count in (4, 6)]  # and the end token
    (tmp_path / "train.jsonl").write_text("".join(f"{json.dumps(line)}\n" for line in lines), encoding="utf-8")
    output = tmp_path / "distilled.jsonl"
    line = ["distill", str(path), "--teacher", str(teacher), "--output", str(output), "--num_beams", "3"]
    assert main(line) == 0
    cut, longer = rows(output)
    assert (cut["en"], longer["en"]) == tuple(row["en"] for row in lines)
    assert longer["de"] == cut["de"] != ""
    assert main([*line, "--max_source_length", "16", "--fresh"]) == 0
    assert rows(output)[1]["de"] != cut["de"]


def test_text_to_translate_back_is_cut_as_in_training(teacher: Path, tmp_path: Path) -> None:
    path = write_recipe(tmp_path, evaluation__batch_size=4, data__max_target_length=5)
    words = "rote Katze läuft heute hier oft".split()
    texts = [" ".join(words[:count]) for count in (4, 6)]
    (tmp_path / "texts.txt").write_text("\n".join(texts), encoding="utf-8")
    output = tmp_path / "back.jsonl"
    line = ["back-translate", str(path), "--model", str(teacher), "--text", str(tmp_path / "texts.txt"), "--tag", ""]
    line += ["--output", str(output), "--num_beams", "3"]
    assert main(line) == 0
    cut, longer = rows(output)
    assert [cut["de"], longer["de"]] == texts
    assert longer["en"] == cut["en"] != ""
    assert main([*line, "--max_target_length", "16", "--fresh"]) == 0
    assert rows(output)[1]["en"] != cut["en"]


@pytest.mark.parametrize("kind", ["bpe", "unigram", "byte-level", "word", "character"])
def test_a_tag_is_one_special_token(kind: str, tmp_path: Path) -> None:
    changes: dict[str, Any] = {
        "tokenizer__tags": ["<BT>", "<old>"],
        "tokenizer__vocab_size": 300,
        "tokenizer__kind": kind,
    }
    recipe = recipe_from_dict(
        tiny_recipe(tmp_path, **changes, data__max_source_length=99, data__max_target_length=99, training__max_steps=1)
    )
    recipe.training.max_tokens = 500
    folder = train_recipe(recipe, lambda text: None)
    tokenizer = AutoTokenizer.from_pretrained(folder)
    assert tokenizer.convert_tokens_to_ids(["<BT>", "<old>"]) == [4, 5]
    plain, tagged = (tokenizer(text)["input_ids"] for text in ("Katze singt", "<BT> Katze singt"))
    assert tagged[0] == 4
    assert tokenizer.decode(tagged, skip_special_tokens=True).strip() == "Katze singt"
    if kind in ("bpe", "unigram", "word"):
        assert tagged == [4, *plain]
    assert {"<BT>", "<old>"} <= set(tokenizer.all_special_tokens)


def test_tags_of_existing_tokenizers_must_be_known(
    teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    recipe = write_recipe(tmp_path, tokenizer__name=str(teacher), tokenizer__tags=["<BT>"])
    assert main(["train", str(recipe)]) == 2
    assert f"{teacher} has no '<BT>'" in capsys.readouterr().err


def test_what_cannot_be_written_is_refused(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path, data__source="translate: {en}")
    line = ["distill", str(recipe), "--teacher", str(teacher), "--output", str(tmp_path / "new.jsonl")]
    assert main(line) == 2
    assert "`data.source` must be a column or a path into one" in capsys.readouterr().err
    assert main([*line, "--source", "en", "--prefix_words", "3"]) == 2
    assert "Pairs of one column cannot be written again" in capsys.readouterr().err


def test_text_that_cannot_be_read_is_named(teacher: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    recipe = write_recipe(tmp_path)
    (tmp_path / "latin.txt").write_bytes("eins\nläuft\n".encode("latin-1"))
    (tmp_path / "plain.gz").write_bytes(b"no")
    line = ["back-translate", str(recipe), "--model", str(teacher), "--tag", "", "--output", str(tmp_path / "b.jsonl")]
    assert main([*line, "--text", str(tmp_path / "latin.txt")]) == 2
    assert "must be UTF-8, but byte 6 of" in capsys.readouterr().err
    assert main([*line, "--text", str(tmp_path / "plain.gz")]) == 2
    assert "plain.gz could not be unpacked: Not a gzipped file" in capsys.readouterr().err
