"""The examples leave folders that a stranger can load, with the code that their cards show."""

import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conversion.reference_outputs import need_package, read_references

ROOT = Path(__file__).parents[2]
EXAMPLES = {  # name: how the package is imported, how it is installed
    "g2p_en": ("g2p_en", "g2p_en==2.1.0"),
    "g2p_fa": ("g2p_fa", "g2p-fa==1.1.0"),
    "netra": ("khmer_transliterator", "netra-transliterate==1.0.1"),
}


def run_example(name: str, folder: Path, capsys: pytest.CaptureFixture[str]) -> str:
    """Run an example in this process; returns what it prints."""
    need_package(*EXAMPLES[name])
    spec: Any = importlib.util.spec_from_file_location(f"convert_{name}", ROOT / "examples" / f"convert_{name}.py")
    example = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(example)
    example.main(["--output", str(folder)])
    return capsys.readouterr().out


@pytest.mark.parametrize("name", EXAMPLES)
def test_prints_what_it_says(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    printed = run_example(name, tmp_path / name, capsys).splitlines()
    head = (ROOT / "examples" / f"convert_{name}.py").read_text("utf-8").partition('"""\n\nimport')[0]
    expected = [line.strip() for line in head.splitlines() if ": " in line and line.startswith("    ")]
    assert len(expected) == 5
    assert printed[:4] == expected[:4]
    assert printed[4].partition(": ")[2] == expected[4].partition(": ")[2]


@pytest.mark.parametrize("name", EXAMPLES)
def test_card(name: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    run_example(name, tmp_path / name, capsys)
    card = (tmp_path / name / "README.md").read_text("utf-8")
    references = read_references(name)
    assert f"{references['package']} {references['version']}" in " ".join(card.split())
    assert f"{len(references['outputs']):,} words" in " ".join(card.split())
    assert re.match(r"---\nlanguage: \w\w\nlicense: (apache-2\.0|mit)\n", card)


def test_cards_load_their_models(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All three in one fresh process that cannot find this package."""
    programs, expected = [], []
    for name in EXAMPLES:
        run_example(name, tmp_path / name, capsys)
        (program,) = re.findall(r"```python\n(.*?)```", (tmp_path / name / "README.md").read_text("utf-8"), re.DOTALL)
        programs.append(program)
        (word,) = re.findall(r'tokenizer\(\["(.*?)"\]', program)
        expected.append([read_references(name)["outputs"][word]])
        auto_map = json.loads((tmp_path / name / "config.json").read_text("utf-8"))["auto_map"]
        assert "AutoModelForSeq2SeqLM" in auto_map
    hide = "import sys\nsys.modules['hf_custom_decoder'] = None\n"
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "PYTHONIOENCODING": "utf-8"}
    process = subprocess.run(
        [sys.executable, "-c", hide + "\n".join(programs)],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
        encoding="utf-8",
        check=False,
    )
    assert process.returncode == 0, process.stderr[-2000:]
    assert [json.loads(line.replace("'", '"')) for line in process.stdout.splitlines()] == expected
