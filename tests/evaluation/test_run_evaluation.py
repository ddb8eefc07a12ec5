"""`evaluate`: figures, files, and where model and data come from."""

import json
import math
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from huggingface_hub import ModelCard
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.cli import main
from hf_custom_decoder.data.pair_encoding import PairTokenizers
from hf_custom_decoder.data.pair_tables import read_pairs
from hf_custom_decoder.evaluation.batched_generation import generate_texts
from hf_custom_decoder.evaluation.minimum_risk import least_risk, sentence_utility
from hf_custom_decoder.evaluation.run_evaluation import evaluation_recipe
from hf_custom_decoder.evaluation.text_metrics import score_texts
from hf_custom_decoder.training.trainer_settings import validation_scores
from hf_custom_decoder.training.training_packages import check_training_packages
from tests.tiny_recipes import write_pairs, write_recipe

pytest.importorskip("datasets")

LEARNED_POSITIONS = {"position_type": "learned", "max_position_embeddings": "5"}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    recipe = write_recipe(folder, evaluation__metrics=["error_rates", "token_f1", "perplexity"])
    assert main(["train", str(recipe), "--max_steps=300"]) == 0
    return folder


def results(folder: Path) -> dict[str, float]:
    content = json.loads((folder / "results.json").read_text())
    return {name: score["value"] for name, score in content["scores"].items()}


def test_outputs_and_figures(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    line = ["evaluate", str(trained / "recipe.yaml"), "--predictions", str(tmp_path / "scored")]
    assert main([*line, "--max_steps=300", "--evaluation.batch_size=3"]) == 0
    assert "token_f1" in capsys.readouterr().out
    rows = [json.loads(text) for text in (tmp_path / "scored" / "predictions.jsonl").read_text().splitlines()]
    pairs = [json.loads(text) for text in (trained / "test.jsonl").read_text().splitlines()]
    assert [(row["source"], row["references"]) for row in rows] == [(pair["en"], [pair["de"]]) for pair in pairs]
    model = AutoModelForSeq2SeqLM.from_pretrained(trained / "run")
    tokenizer = AutoTokenizer.from_pretrained(trained / "run")
    expected = [text for (text,) in generate_texts(model, tokenizer, [pair["en"] for pair in pairs])]
    assert [row["prediction"] for row in rows] == expected
    assert len(set(expected)) > 1
    wrong = sum(row["prediction"] != row["references"][0] for row in rows)
    assert results(tmp_path / "scored")["wrong_outputs"] == pytest.approx(100 * wrong / len(rows))
    log = json.loads((trained / "run" / "training_results.json").read_text())
    assert results(tmp_path / "scored")["perplexity"] < 3 * log["validation"]["perplexity"]


def test_a_folder_brings_its_recipe(trained: Path, tmp_path: Path) -> None:
    write_pairs(tmp_path / "other.jsonl", 5, seed=7)
    line = ["evaluate", "--model", str(trained / "run"), "--data", str(tmp_path / "other.jsonl")]
    assert main([*line, "--metrics", "token_f1,perplexity", "--num_beams=1"]) == 0
    content = json.loads((trained / "run" / "evaluation" / "results.json").read_text())
    assert content["num_entries"] == 5
    assert set(content["scores"]) == {"token_f1", "perplexity", "perplexity_per_byte"}
    assert content["generation"]["num_beams"] == 1


def test_perplexity_on_validation_is_that_of_training(trained: Path, tmp_path: Path) -> None:
    line = ["evaluate", "--model", str(trained / "run"), "--data", str(trained / "val.jsonl")]
    assert main([*line, "--metrics=perplexity", "--predictions", str(tmp_path)]) == 0
    stored = json.loads((trained / "run" / "training_results.json").read_text())["validation"]["perplexity"]
    assert results(tmp_path)["perplexity"] == pytest.approx(stored, rel=1e-5)
    assert not (tmp_path / "predictions.jsonl").exists()


def test_predictions_of_an_earlier_evaluation_are_put_aside(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """They are hours of work, but not what the new results speak of."""
    evaluated(trained, tmp_path)
    before = (tmp_path / "predictions.jsonl").read_text()
    line = ["evaluate", "--model", str(trained / "run"), "--predictions", str(tmp_path)]
    capsys.readouterr()
    assert main([*line, "--metrics=perplexity"]) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["predictions.earlier.jsonl", "results.json"]
    assert (tmp_path / "predictions.earlier.jsonl").read_text() == before
    assert f"those of an earlier evaluation are in {tmp_path / 'predictions.earlier.jsonl'}" in capsys.readouterr().out


def test_outputs_go_into_a_folder(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "out").write_text("mine")
    assert main(["evaluate", "--model", str(trained / "run"), "--predictions", str(tmp_path / "out")]) == 2
    assert "go into a folder, but" in capsys.readouterr().err
    assert (tmp_path / "out").read_text() == "mine"


@pytest.mark.parametrize("option", ["--format=json", "--data.format=json"])
def test_a_form_given_with_the_data_is_kept(trained: Path, tmp_path: Path, option: str) -> None:
    write_pairs(tmp_path / "pairs.txt", 5, seed=7)
    rows, _ = evaluated(trained, tmp_path / "out", option, data=tmp_path / "pairs.txt")
    assert len(rows) == 5
    assert evaluation_recipe(trained / "recipe.yaml", None, ["a.csv"], {"max_rows": "2"}).data.format is None


def test_sources_are_cut_as_in_training(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    positions = {f"--model.encoder.{name}": value for name, value in LEARNED_POSITIONS.items()}
    limits = {"--max_source_length": "5", "--too_long": "truncate", **positions}
    recipe = write_recipe(tmp_path, evaluation__metrics=["token_f1", "perplexity"])
    assert main(["train", str(recipe), "--max_steps=1", *(part for pair in limits.items() for part in pair)]) == 0
    capsys.readouterr()
    assert main(["evaluate", "--model", str(tmp_path / "run"), "--evaluation.batch_size=3"]) == 0
    rows = [json.loads(line) for line in (tmp_path / "run/evaluation/predictions.jsonl").read_text().splitlines()]
    num_cut = sum(len(row["source"].split()) > 4 for row in rows)  # the end token is the fifth
    assert num_cut > 0
    assert f"{num_cut} of 7 sources were cut to 5 tokens" in capsys.readouterr().out


def test_equal_sources_are_scored_once(trained: Path, tmp_path: Path) -> None:
    rows = [{"en": "alte Katze", "de": "Katze alte"}, {"en": "hier", "de": "hier"}, {"en": "alte Katze", "de": "oft"}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    line = ["evaluate", "--model", str(trained / "run"), "--data", str(tmp_path / "data.jsonl"), "--metrics=token_f1"]
    assert main([*line, "--merge_references=true", "--predictions", str(tmp_path)]) == 0
    written = [json.loads(text) for text in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    assert [row["references"] for row in written] == [["Katze alte", "oft"], ["hier"]]


@pytest.mark.parametrize("options", [[], ["--merge_references=true"], ["--bpe_joiner=e"]])
def test_the_metric_of_training_is_that_of_evaluate(trained: Path, tmp_path: Path, options: list[str]) -> None:
    """The same outputs, once as files and once as the Trainer's ids; a letter that words end with marks pieces."""
    pairs = [{"en": "alte Katze", "de": text} for text in ("Katze alte", "rote Katze", "alte Tür oft")]
    pairs += [{"en": "kleine Tür", "de": "Tür kleine"}, {"en": "alte Katze", "de": "oft Katze"}]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    _, content = evaluated(trained, tmp_path, "--metrics=error_rates", *options, data=tmp_path / "data.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "predictions.jsonl").read_text().splitlines()]
    outputs = {row["source"]: row["prediction"] for row in rows}
    tokenizer = AutoTokenizer.from_pretrained(trained / "run")
    overrides = dict(option.removeprefix("--").split("=") for option in ["--metric=error_rates", *options])
    recipe = evaluation_recipe(trained / "recipe.yaml", None, [str(tmp_path / "data.jsonl")], overrides)
    texts = [outputs[pair["en"]] for pair in pairs]
    scores = validation_scores(
        SimpleNamespace(predictions=tokenizer(texts, padding=True, return_tensors="np")["input_ids"]),
        recipe=recipe,
        tokenizers=PairTokenizers(tokenizer, tokenizer),
        validation_pairs=read_pairs(recipe.data, "test"),
    )
    assert scores["token_error_rate"] == pytest.approx(content["scores"]["token_error_rate"]["value"])
    plain = score_texts(["error_rates"], texts, [[pair["de"]] for pair in pairs])["token_error_rate"].value
    assert (scores["token_error_rate"] == pytest.approx(plain)) == (not options)


def evaluated(
    trained: Path, folder: Path, *options: str, data: Path | None = None
) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """Rows and figures of one evaluation of the test data."""
    line = ["evaluate", "--model", str(trained / "run"), "--data", str(data or trained / "test.jsonl")]
    assert main([*line, "--predictions", str(folder), "--metrics=token_f1,error_rates", *options]) == 0
    rows = [json.loads(text) for text in (folder / "predictions.jsonl").read_text().splitlines()]
    return rows, json.loads((folder / "results.json").read_text())


def test_figures_of_single_outputs_average_to_the_whole(trained: Path, tmp_path: Path) -> None:
    rows, content = evaluated(trained, tmp_path, "--metrics=token_f1,error_rates,perplexity")
    for name in ("token_f1", "wrong_outputs"):
        mean = sum(row["scores"][name] for row in rows) / len(rows)
        assert mean == pytest.approx(content["scores"][name]["value"])
    lengths = [len(row["references"][0].split()) + 1 for row in rows]  # one id a word, and the end
    nats = sum(length * row["scores"]["nats_per_token"] for length, row in zip(lengths, rows, strict=True))
    assert math.exp(nats / sum(lengths)) == pytest.approx(content["scores"]["perplexity"]["value"])
    num_bytes = sum(len(row["references"][0].encode()) for row in rows)
    assert math.exp(nats / num_bytes) == pytest.approx(content["scores"]["perplexity_per_byte"]["value"])
    assert content["scores"]["perplexity_per_byte"]["settings"] == f"{num_bytes} bytes of 7 targets, 0 tokens unknown"


def test_without_a_recipe_the_tokenizer_says_how_long_sources_are(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(trained / "run", folder)
    (folder / "recipe.yaml").unlink()
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    (tmp_path / "long.jsonl").write_text(json.dumps({"source": "Katze " * 299, "target": "Katze"}) + "\n")
    line = ["evaluate", "--model", str(folder), "--data", str(tmp_path / "long.jsonl"), "--metrics=chrf,perplexity"]
    for allowed, options, cut_to in ((400, [], None), (280, [], 280), (400, ["--max_source_length=290"], 290)):
        (folder / "tokenizer_config.json").write_text(json.dumps({**settings, "model_max_length": allowed}))
        assert main([*line, *options]) == 0
        said = capsys.readouterr().out
        assert f"1 of 1 sources were cut to {cut_to} tokens" in said if cut_to else "were cut" not in said


def test_targets_that_are_cut_have_no_bytes(trained: Path, tmp_path: Path) -> None:
    lengths = sorted(len(json.loads(line)["de"].split()) for line in (trained / "test.jsonl").read_text().splitlines())
    limit = lengths[len(lengths) // 2]  # one text just fits with its end token
    options = ["--metrics=perplexity,token_f1", f"--max_target_length={limit + 1}"]
    rows, content = evaluated(trained, tmp_path, *options)
    whole = [row["references"][0] for row in rows if len(row["references"][0].split()) <= limit]
    assert 0 < len(whole) < len(rows)
    settings = content["scores"]["perplexity_per_byte"]["settings"]
    assert settings.startswith(f"{sum(len(text.encode()) for text in whole)} bytes of {len(whole)} targets")


def test_n_best_lists_and_minimum_risk(trained: Path, tmp_path: Path) -> None:
    pytest.importorskip("sacrebleu")
    several = ["--generation.num_beams=4", "--num_return_sequences=4"]
    plain, _ = evaluated(trained, tmp_path / "plain", *several)
    assert all(len(row["n_best"]) == 4 and row["prediction"] == row["n_best"][0] for row in plain)
    assert all(len(set(row["n_best"])) > 1 for row in plain)
    chosen, content = evaluated(trained, tmp_path / "chosen", *several, "--minimum_risk=chrf")
    utility = sentence_utility("chrf")
    assert [row["n_best"] for row in chosen] == [row["n_best"] for row in plain]
    assert [row["prediction"] for row in chosen] == [
        row["n_best"][least_risk(row["n_best"], utility)] for row in plain
    ]
    assert [row["prediction"] for row in chosen] != [row["prediction"] for row in plain]
    assert content["evaluation"]["minimum_risk"] == "chrf"


def test_drawn_outputs_follow_their_seed(trained: Path, tmp_path: Path) -> None:
    drawn = ["--num_beams=1", "--do_sample=true", "--num_return_sequences=3", "--temperature=2"]
    rows = [evaluated(trained, tmp_path, *drawn, f"--evaluation.seed={seed}")[0] for seed in (1, 1, 2)]
    assert rows[0] == rows[1]
    assert [row["n_best"] for row in rows[0]] != [row["n_best"] for row in rows[2]]


def test_broken_outputs_are_counted(
    trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """One line of each kind, written in place of the model's."""

    def write(model: Any, tokenizer: Any, sources: Any, **options: Any) -> Any:
        broken = {0: lambda text: text, 1: lambda text: "oft " * 5, 2: lambda text: ""}
        for source in sources:
            row = all_sources.index(source)
            yield [broken.get(row, lambda text: "etwas ganz anderes hier")(source)]

    all_sources = ["eins zwei drei", "zwei drei vier", "drei vier", "vier fünf"]
    rows = [{"en": text, "de": f"nicht {text[::-1]}"} for text in all_sources]
    (tmp_path / "data.jsonl").write_text("\n".join(map(json.dumps, rows)))
    monkeypatch.setattr("hf_custom_decoder.evaluation.run_evaluation.generate_texts", write)
    written, content = evaluated(trained, tmp_path / "out", "--data.max_rows=4", data=tmp_path / "data.jsonl")
    assert [row["flags"] for row in written] == [["copied"], ["looping"], ["too_short"], []]
    assert content["flags"]["looping"] == {"count": 1, "rows": [2]}
    assert "too short: 1 of 4 outputs (lines 3)" in capsys.readouterr().out


def test_figures_reach_the_card(trained: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    card = trained / "run" / "README.md"
    before = card.read_text()
    _, content = evaluated(trained, tmp_path / "part", "--max_rows=2")
    evaluated(trained, tmp_path / "told", "--update_card=false")
    assert card.read_text() == before  # neither a part of the data nor against the user's word
    capsys.readouterr()
    _, content = evaluated(trained, tmp_path / "all")
    assert "The figures are in the metadata of" in capsys.readouterr().out
    data = ModelCard.load(card).data
    found = {one.metric_name: one for one in data.eval_results if one.dataset_name == "test.jsonl"}
    assert found["token_f1"].metric_value == pytest.approx(content["scores"]["token_f1"]["value"], abs=1e-4)
    assert (found["token_f1"].metric_type, found["token_f1"].task_type) == ("f1", "text-generation")
    assert found["token_f1"].metric_args["settings"].startswith("2 beams; SQuAD")
    assert card.read_text().endswith(before.partition("---\n\n")[2])
    once = card.read_bytes()
    evaluated(trained, tmp_path / "again")
    assert card.read_bytes() == once


def test_a_language_that_the_metric_of_training_does_not_know_is_refused_before_training(trained: Path) -> None:
    overrides = {"metric": "exact_match", "evaluation.language": "jp"}
    recipe = evaluation_recipe(trained / "recipe.yaml", None, None, overrides)
    with pytest.raises(ValueError, match="`language` must be one of zh, ja, ko, got 'jp'"):
        check_training_packages(recipe)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ([], "a recipe, or `--model FOLDER`"),
        (["--model", "no/such/folder", "--data", "x.jsonl", "--metrics=token_f1"], "is no folder, and the Hub"),
        (["--model", "RUN", "--data", "nowhere.jsonl"], "found none at nowhere.jsonl"),
        (["--model", "RUN", "--source=fr"], "names the column 'fr'"),
        (["--model", "RUN", "--metric=bleu2"], "`training.metric` must be one of"),
        (["--model", "RUN", "--metrics=blue"], "`evaluation.metrics` must be one of"),
        (["--model", "RUN", "--evaluation.language=jp"], "must be one of zh, ja, ko, got 'jp'"),
        (["--model", "RUN", "--num_return_sequences=3"], "at most `generation.num_beams`, got 3 and 2"),
        (["--model", "RUN", "--num_return_sequences=0"], "`generation.num_return_sequences` must be at least 1"),
        (["--model", "RUN", "--do_sample=true"], "draws and does not search, got `generation.num_beams` = 2"),
        (["--model", "RUN", "--temperature=0"], "`generation.temperature` must be above 0"),
        (["--model", "RUN", "--minimum_risk=rouge"], "`evaluation.minimum_risk` must be one of chrf, bleu"),
        (["--model", "RUN", "--minimum_risk=chrf"], "several outputs, got `generation.num_return_sequences` = 1"),
    ],
)
def test_mistakes(trained: Path, line: list[str], message: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", *(str(trained / "run") if part == "RUN" else part for part in line)]) == 2
    assert message in capsys.readouterr().err
