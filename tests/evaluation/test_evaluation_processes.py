"""`evaluate` on two processes: the files of one process, and both end where one fails."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from hf_custom_decoder.cli import main
from hf_custom_decoder.evaluation.processes import deal, joined_processes
from tests.fresh_python import ROOT
from tests.tiny_recipes import write_recipe

pytest.importorskip("datasets")

SAME: dict[str, list[str]] = {
    "seven, n-best lists": [
        "--generation.num_beams=4",
        "--num_return_sequences=4",
        "--evaluation.batch_size=3",
        "--metrics=token_f1,error_rates,perplexity",
    ],
    "seven, minimum risk": [
        "--generation.num_beams=4",
        "--num_return_sequences=4",
        "--minimum_risk=bleu",
        "--metrics=chrf",
        "--evaluation.batch_size=2",
    ],
    "seven, drawn in bf16": [
        "--num_beams=1",
        "--do_sample=true",
        "--num_return_sequences=3",
        "--precision=bf16",
        "--evaluation.batch_size=2",
        "--metrics=token_f1",
    ],
    "seven, merged from eight": [
        "--max_rows=8",
        "--merge_references=true",
        "--evaluation.batch_size=1",
        "--metrics=token_f1,perplexity",
    ],
    "one": ["--max_rows=1", "--metrics=token_f1,perplexity"],
    "perplexity": ["--metrics=perplexity", "--evaluation.batch_size=2"],
}
"""Options of evaluations that must leave the same files on one and on two processes."""
RUN = {name: options for name, options in SAME.items() if name != "seven, minimum risk" or find_spec("sacrebleu")}


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    assert main(["train", str(write_recipe(folder, data__validation=None)), "--max_steps=20"]) == 0
    with (folder / "test.jsonl").open("a") as stream:  # the first row has a second reference
        stream.write(json.dumps({"en": json.loads((folder / "test.jsonl").open().readline())["en"], "de": "oft"}))
    (folder / "bad.jsonl").write_text('{"en": "hier", "de": "hier"}\nno JSON\n')
    return folder


def line(trained: Path, place: str, *options: str) -> list[str]:
    data = trained / "test.jsonl"
    fixed = ["--update_card=false", "--generation.max_new_tokens=10", "--predictions", str(trained / place)]
    return ["evaluate", "--model", str(trained / "run"), "--data", str(data), "--max_rows=7", *fixed, *options]


@pytest.fixture(scope="module")
def alone(trained: Path) -> Iterator[None]:
    """Each evaluation on one process, with as many threads as the two have."""
    num_threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for name, options in RUN.items():
        assert main(line(trained, f"alone/{name}", *options)) == 0
    yield
    torch.set_num_threads(num_threads)


@pytest.fixture(scope="module")
def outcomes(trained: Path) -> list[dict[str, Any]]:
    """What both processes said, by evaluation; one launch for all."""
    lines = {name: line(trained, f"{name}/{{rank}}", *options) for name, options in RUN.items()}
    lines["bad row"] = [*line(trained, "bad/{rank}", "--metrics=token_f1"), "--data", str(trained / "bad.jsonl")]
    lines["second fails"] = line(trained, "failed/{rank}", "--metrics=token_f1", "--evaluation.batch_size=3")
    lines["first fails"] = lines["second fails"]
    failing = {"second fails": 1, "first fails": 0}
    cases = {
        name: {"line": case, "port": port, "fails": failing.get(name), "by_mpirun": name == "perplexity"}
        for (name, case), port in zip(lines.items(), free_ports(len(lines)), strict=True)
    }
    (trained / "cases.json").write_text(json.dumps(cases))
    worker = [sys.executable, str(Path(__file__).with_name("evaluation_worker.py"))]
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "src")]),
        "OMP_NUM_THREADS": "1",
        "WORLD_SIZE": "2",
        "MASTER_ADDR": "127.0.0.1",
    }
    started = [
        subprocess.Popen(
            [*worker, str(trained / "cases.json"), str(trained / "outcomes")],
            env={**environment, "RANK": str(rank), "LOCAL_RANK": str(rank)},
            stderr=subprocess.PIPE,
        )
        for rank in range(2)
    ]
    try:
        for process in started:
            _, errors = process.communicate(timeout=300)
            assert process.returncode == 0, errors.decode()[-4000:]
    finally:
        for process in started:
            process.kill()
    return [json.loads((trained / f"outcomes.{rank}").read_text()) for rank in range(2)]


def free_ports(count: int) -> list[int]:
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for one in sockets:
            one.bind(("127.0.0.1", 0))
        return [one.getsockname()[1] for one in sockets]


@pytest.mark.parametrize("name", SAME)
def test_two_processes_write_what_one_writes(
    name: str, trained: Path, alone: None, outcomes: list[dict[str, Any]]
) -> None:
    if name not in RUN:
        pytest.importorskip("sacrebleu")
    first, second = outcomes[0][name], outcomes[1][name]
    assert (first["status"], second["status"]) == (0, 0), (first["stderr"], second["stderr"])
    expected = {path.name: path.read_bytes() for path in (trained / "alone" / name).iterdir()}
    assert {path.name: path.read_bytes() for path in (trained / name / "0").iterdir()} == expected
    assert "results.json" in expected
    assert "outputs and figures are in" in first["stdout"]
    assert not (trained / name / "1").exists()
    assert (second["stdout"], second["stderr"]) == ("", "")


def test_each_process_has_a_share(trained: Path, outcomes: list[dict[str, Any]]) -> None:
    """Seven texts in batches of three: the first process writes one batch, the other two."""
    assert "3/3" in outcomes[0]["seven, n-best lists"]["stderr"]
    rows, merged = (
        (trained / name / "0" / "predictions.jsonl").read_text().splitlines()
        for name in ("seven, drawn in bf16", "seven, merged from eight")
    )
    assert len({tuple(json.loads(row)["n_best"]) for row in rows}) > 3  # else no order would be wrong
    assert (len(rows), len(merged)) == (7, 7)


def test_a_bad_row_ends_both(outcomes: list[dict[str, Any]], trained: Path) -> None:
    first, second = outcomes[0]["bad row"], outcomes[1]["bad row"]
    assert (first["status"], second["status"]) == (2, 2)
    assert "bad.jsonl, line 2, could not be read as json" in first["stderr"]
    assert "Process 0 of 2 (counted from 0) has failed" in second["stderr"]
    assert not (trained / "bad").exists()


@pytest.mark.parametrize(("case", "failing"), [("first fails", 0), ("second fails", 1)])
def test_a_failure_in_the_work_ends_both(
    case: str, failing: int, outcomes: list[dict[str, Any]], trained: Path
) -> None:
    assert outcomes[failing][case]["status"] == "out of memory, says this test"
    other = outcomes[1 - failing][case]
    assert other["status"] == 2
    assert f"Process {failing} of 2 (counted from 0) has failed" in other["stderr"]
    assert "RuntimeError: out of memory, says this test" in other["stderr"]
    assert not (trained / "failed").exists()


@pytest.mark.parametrize("name", ["WORLD_SIZE", "OMPI_COMM_WORLD_SIZE"])
def test_processes_that_were_not_told_their_place(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, "2")
    with pytest.raises(ValueError, match="One of 2 processes must be told its number"), joined_processes():
        pass


@pytest.mark.parametrize(
    "command",
    [
        ["generate", "--model", "RUN", "hier"],
        ["distill", "RECIPE", "--teacher", "RUN", "--output", "FILE"],
        ["back-translate", "RECIPE", "--model", "RUN", "--text", "FILE", "--output", "FILE"],
    ],
    ids=lambda command: command[0],
)
def test_commands_that_do_not_share(
    command: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "3")
    assert main(command) == 2
    assert f"`{command[0]}` runs in one process, got 3" in capsys.readouterr().err


@pytest.mark.parametrize("num_processes", [1, 2, 3, 8])
def test_every_piece_is_dealt_once(num_processes: int) -> None:
    shares = deal(7, num_processes)
    assert sorted(number for share in shares for number in share) == list(range(7))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1
    assert all(share == sorted(share) for share in shares)
