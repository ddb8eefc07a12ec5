"""Every metric through `evaluate.load`, without a network, on one process and on two."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from hf_custom_decoder.evaluation.evaluate_module import METRICS_FOLDER, MODULE_NAMES, metric_path
from hf_custom_decoder.evaluation.text_metrics import MAIN_SCORES, score_texts
from tests.evaluation.test_sentence_scores import needs, texts

HYPOTHESES = [*texts(0, 9), "the cat sat on the mat"]
REFERENCES = [*[[one, other] for one, other in zip(texts(1, 9), texts(2, 9), strict=True)], ["the cat sat on the mat"]]


@pytest.fixture(scope="module", autouse=True)
def _own_caches(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Nothing is written to the user's caches, and no loaded code stays behind."""
    evaluate = pytest.importorskip("evaluate")
    folder, path = tmp_path_factory.mktemp("caches"), list(sys.path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(evaluate.config, "HF_METRICS_CACHE", folder / "metrics")
        patch.setattr(evaluate.config, "HF_MODULES_CACHE", str(folder / "modules"))
        yield
    sys.path[:] = path
    for name in [name for name in sys.modules if name.partition(".")[0] == "evaluate_modules"]:
        del sys.modules[name]


def test_every_metric_has_a_folder() -> None:
    assert sorted(path.name for path in METRICS_FOLDER.iterdir() if path.is_dir()) == sorted(MODULE_NAMES)
    with pytest.raises(ValueError, match="must be one of bleu.*got 'meteor'"):
        metric_path("meteor")


@pytest.mark.parametrize("name", list(MAIN_SCORES))
def test_figures_are_those_of_the_package(name: str) -> None:
    import evaluate

    needs(name)
    expected = score_texts([name], HYPOTHESES, REFERENCES)
    module = evaluate.load(metric_path(name))
    found = module.compute(predictions=HYPOTHESES, references=REFERENCES)
    assert found.pop("settings") == expected[MAIN_SCORES[name]].settings
    assert found == pytest.approx({key: score.value for key, score in expected.items()})
    assert any(found.values())
    firsts = [one[0] for one in REFERENCES]
    for start in (0, 5):  # one reference as a text, in batches
        module.add_batch(predictions=HYPOTHESES[start : start + 5], references=firsts[start : start + 5])
    single = score_texts([name], HYPOTHESES, [[one] for one in firsts])
    assert module.compute()[MAIN_SCORES[name]] == pytest.approx(single[MAIN_SCORES[name]].value)


def test_the_language_reaches_sacrebleu() -> None:
    import evaluate

    needs("bleu")
    module = evaluate.load(metric_path("bleu"))
    assert "tok:zh" in module.compute(predictions=["我 在"], references=["我在"], language="zh")["settings"]


def test_perplexity() -> None:
    import evaluate

    module = evaluate.load(metric_path("perplexity"))
    found = module.compute(nats=[2.0, 4.0], num_tokens=[2, 1], texts=["ab", "ä"])
    assert found["perplexity"] == pytest.approx(2.718281828459045**2)
    assert found["perplexity_per_byte"] == pytest.approx(2.718281828459045**1.5)
    with pytest.raises(ValueError, match="got 1 and 0"):
        module.compute(nats=[1.0], num_tokens=[1], texts=[""])


PROCESS = """
import json, sys
import evaluate
from hf_custom_decoder.evaluation.evaluate_module import metric_path
task = json.load(sys.stdin)
module = evaluate.load(metric_path("error_rates"), cache_dir=task["cache"], experiment_id="one",
                       num_process=2, process_id=task["process"])
found = module.compute(predictions=task["predictions"], references=task["references"])
print(json.dumps(found))
"""


def test_two_processes_are_one(tmp_path: Path) -> None:
    """Unequal shares; only the first process gets the figures."""
    shares = [slice(0, 7), slice(7, 10)]
    running = []
    for number, share in enumerate(shares):
        process = subprocess.Popen(
            [sys.executable, "-c", PROCESS],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            env={
                **os.environ,
                "PYTHONPATH": str(METRICS_FOLDER.parents[2]),
                "HF_MODULES_CACHE": str(tmp_path / f"modules{number}"),
            },
        )
        task = {"cache": str(tmp_path / "shared"), "process": number, "predictions": HYPOTHESES[share]}
        assert process.stdin is not None
        process.stdin.write(json.dumps({**task, "references": REFERENCES[share]}))
        process.stdin.close()
        process.stdin = None
        running.append(process)
    outputs = [process.communicate(timeout=200) for process in running]
    assert [process.returncode for process in running] == [0, 0], outputs
    found = json.loads(outputs[0][0].splitlines()[-1])
    expected = score_texts(["error_rates"], HYPOTHESES, REFERENCES)
    assert {name: found[name] for name in expected} == pytest.approx({n: score.value for n, score in expected.items()})
    assert outputs[1][0].splitlines()[-1] == "null"
