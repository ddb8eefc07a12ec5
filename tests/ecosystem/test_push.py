"""A folder is checked, then sent to a stand-in for the Hub through huggingface_hub itself."""

import json
import pickle
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from hf_custom_decoder.cli import main
from hf_custom_decoder.hub.folder_checks import CHECKS
from hf_custom_decoder.hub.model_card import Measurement, ModelCardContents, write_model_card
from hf_custom_decoder.hub.push import check_folder, push
from tests.ecosystem.hub_stand_in import TOKEN, running_hub
from tests.factories import tiny_seq2seq
from tests.fresh_python import run_python
from tests.integration.training_runs import word_tokenizer

CARD = ModelCardContents(
    title="Tiny",
    summary="It does nothing.",
    language="en",
    license="apache-2.0",
    task="translation",
    dataset_id="invented",
    dataset_name="Invented",
    dataset_split="test",
    loading_code='AutoModelForSeq2SeqLM.from_pretrained("someone/model", trust_remote_code=True)',
    data="Invented, CC0.",
    training="None.",
    evaluation="None.",
    limits="Everything.",
    measurements=[Measurement("wer", "Words wrong, %", 100.0, "greedy")],
)


def write_folder(folder: Path) -> Path:
    tiny_seq2seq().save_pretrained(folder)
    word_tokenizer().save_pretrained(folder)
    write_model_card(folder, CARD)
    return folder


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "model")


@pytest.fixture(scope="module")
def sent(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process that pushed twice reports, and what the stand-in then holds."""
    place = tmp_path_factory.mktemp("push")
    folder = write_folder(place / "model")
    with running_hub() as hub:
        environment = {
            "HF_ENDPOINT": hub.url,
            "HF_HUB_OFFLINE": "0",
            "HF_TOKEN": TOKEN,
            "HF_HOME": str(place / "home"),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
        }
        worker = Path(__file__).with_name("push_process.py")
        run_python(worker, folder, place / "report.json", folder=place, **environment)
        report: dict[str, Any] = json.loads((place / "report.json").read_text())
        report["history"], report["private"] = hub.repositories["someone/model"], hub.private["someone/model"]
        report["folder"] = folder
    return report


def test_what_arrives_is_what_lay_in_the_folder(sent: dict[str, Any]) -> None:
    digest, files = sent["history"][0]
    assert files == {path.name: path.read_bytes() for path in sent["folder"].iterdir()}
    assert sent["revisions"] == [digest, sent["history"][1][0]]
    assert sent["private"]
    assert "FAIL" not in sent["report"]
    assert f"revision='{digest}'" in sent["report"]


def test_a_pinned_revision_keeps_its_weights(sent: dict[str, Any]) -> None:
    assert sent["same logits"] == {"pinned": True, "newest": False}
    assert sent["ids"] == word_tokenizer()(["w5 w6"])["input_ids"]


def test_a_dry_run_lists_and_sends_nothing(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hf_custom_decoder.hub.push.reload_in_isolation", lambda *a, **k: pytest.fail("not tried"))
    (folder / "notes.txt").write_text("kept in /home/someone/notes\n")
    with running_hub() as hub:
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        report = push(folder, "someone/model", dry_run=True)
        assert not report.is_ready
        with pytest.raises(ValueError, match="not ready for the Hub, nothing was sent"):
            push(folder, "someone/model")
        assert not hub.requests
    assert "notes.txt, line 1: a path of this machine (/home/someone/notes)" in str(report)
    assert set(report.files) == {path.name for path in folder.iterdir()}
    assert report.url is None


def spoil(name: str, content: str | bytes, *, adds: bool = False) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        path = folder / name
        before = path.read_bytes() if adds else b""
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(before + (content if isinstance(content, bytes) else content.encode()))

    return change


def remove(name: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).unlink()


def without_line(start: str) -> Callable[[Path], None]:
    def change(folder: Path) -> None:
        lines = (folder / "README.md").read_text().splitlines(keepends=True)
        kept = [line for line in lines if not line.startswith(start)]
        assert len(kept) < len(lines)
        (folder / "README.md").write_text("".join(kept))

    return change


def without_map(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    del config["auto_map"]
    (folder / "config.json").write_text(json.dumps(config))


SPOILED: dict[str, tuple[Callable[[Path], None], str, str]] = {
    "no card": (remove("README.md"), "card complete", "no README.md"),
    "placeholder": (spoil("README.md", "[More Information Needed]", adds=True), "card complete", "Fill it in"),
    "how it is loaded": (without_line("AutoModel"), "card complete", "how it is loaded"),
    "limits": (without_line("## What it is bad at"), "card complete", "limits"),
    "licence": (without_line("license:"), "licence and data named", "`license`"),
    "data": (spoil("README.md", "---\nlicense: mit\n---\n"), "licence and data named", "`datasets`"),
    "no map": (without_map, "code travels", "no `auto_map`"),
    "config": (spoil("config.json", "{"), "code travels", "no JSON object"),
    "no config": (remove("config.json"), "code travels", "no config.json"),
    "module": (
        remove("modeling_transformer_decoder.py"),
        "code travels",
        "modeling_transformer_decoder.py is missing",
    ),
    "imported module": (remove("packing_custom_seq2seq.py"), "code travels", "packing_custom_seq2seq.py is missing"),
    "pickle": (spoil("training_args.bin", b"x"), "weights safe", "training_args.bin may run code"),
    "nested pickle": (spoil("deep/optimizer.PT", b"x"), "weights safe", "optimizer.PT may run code"),
    "pickle under another name": (
        spoil("model.safetensors", pickle.dumps({"a": 1})),
        "weights safe",
        "model.safetensors may run code",
    ),
    "no weights": (remove("model.safetensors"), "weights safe", "no weights"),
    "hub token": (spoil("notes.md", "hf_" + "a1B2" * 9), "nothing private", "token of the Hugging Face Hub"),
    "github token": (spoil("code.py", "x = 'ghp_" + "a1B2" * 9 + "'"), "nothing private", "GitHub token"),
    "aws key": (spoil("a.yaml", "key: AKIA" + "A1B2" * 4), "nothing private", "AWS key"),
    "private key": (spoil("a.txt", "-----BEGIN RSA PRIVATE KEY-----"), "nothing private", "private key"),
    "home": (spoil("a.json", '{"cache": "/Users/someone/models"}'), "nothing private", "/Users/someone"),
    "file address": (spoil("a.py", "x = 'file:///mnt/disk/data'"), "nothing private", "/mnt/disk"),
    "windows": (spoil("a.json", '{"cache": "C:\\\\Users\\\\someone"}'), "nothing private", r"C:\\Users"),
    "environment": (spoil(".env", "A=1"), "nothing private", ".env is a file of secrets"),
    "link": (lambda folder: (folder / "w.txt").symlink_to("/etc/hostname"), "nothing private", "w.txt is a link"),
}


def test_a_folder_of_ours_passes_every_check(folder: Path) -> None:
    report = check_folder(folder, loads_model=False)
    assert report.is_ready, str(report)
    assert list(report.problems) == [name for name, _ in CHECKS]


@pytest.mark.parametrize("case", SPOILED)
def test_what_each_check_finds(folder: Path, case: str) -> None:
    change, check, message = SPOILED[case]
    change(folder)
    report = check_folder(folder, loads_model=False)
    assert any(message in one for one in report.problems[check]), str(report)


@pytest.mark.parametrize("name", ["", "a/b/c", "../model", "some one/model", "someone/", "-x"])
def test_names_that_are_none(folder: Path, name: str) -> None:
    with pytest.raises(ValueError, match="`repo` must be a name"):
        push(folder, name)


def test_the_command_reports(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """With 0 where the folder is ready, else with 2; the trial in a clean process is that of `sent`."""
    monkeypatch.setattr("hf_custom_decoder.hub.push._load_elsewhere", lambda *arguments: [])
    command = ["push", str(folder), "--repo", "someone/model", "--dry-run"]
    assert main(command) == 0
    assert "FAIL" not in capsys.readouterr().out
    (folder / "optimizer.pt").write_bytes(b"x")
    assert main(command) == 2
    printed = capsys.readouterr()
    assert "FAIL  weights safe\n      - optimizer.pt may run code" in printed.out
    assert "is not ready for the Hub" in printed.err
    assert main(["push", str(folder / "nothing"), "--repo", "someone/model"]) == 2
    assert "must be a folder written by `save_pretrained`" in capsys.readouterr().err


def test_a_missing_folder(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="`folder` must be a folder written by `save_pretrained`"):
        check_folder(tmp_path / "nothing")
