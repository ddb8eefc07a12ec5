"""
The stranger of `test_remote_code.py`: a fresh process that loads saved folders and cannot import the package.

It is run as `python -I remote_process.py <source folder of the package> <task file> <report file>`. The package is put
on the path, as an editable installation does, and then hidden from every finder.
"""

import importlib.util
import json
import sys
import tempfile
from pathlib import Path
from typing import Any

PACKAGE = "hf_custom_decoder"


class Blind:
    """A finder of the import system that does not find the package."""

    def __init__(self, finder: Any) -> None:
        self._finder = finder

    def __getattr__(self, name: str) -> Any:
        return getattr(self._finder, name)

    def find_spec(self, name: str, path: Any = None, target: Any = None) -> Any:
        return None if name.partition(".")[0] == PACKAGE else self._finder.find_spec(name, path, target)


def hide_package(source: str) -> dict[str, bool]:
    sys.path.insert(0, source)
    before = importlib.util.find_spec(PACKAGE) is not None
    sys.meta_path[:] = [Blind(finder) for finder in sys.meta_path]
    return {"importable before": before, "hidden": importlib.util.find_spec(PACKAGE) is None}


def python_files(folder: Path) -> dict[str, str]:
    return {file.name: file.read_text() for file in folder.glob("*.py")}


def read_config(folder: Path) -> dict[str, Any]:
    """A saved config, but for the dtype of its parts, which transformers writes down once a checkpoint was loaded."""
    config: dict[str, Any] = json.loads((folder / "config.json").read_text())
    for part in ("encoder", "decoder"):
        config.get(part, {}).pop("dtype", None)
    return config


def is_refused(load: Any, folder: str) -> bool:
    try:
        load(folder)
    except ValueError as error:
        return "trust_remote_code=True" in str(error)
    return False


def outputs(model: Any, task: dict[str, Any]) -> dict[str, Any]:
    """What the parent computed before it saved: logits or states, and beams where the class generates."""
    import torch

    with torch.no_grad():
        found = {"output": model(**task["inputs"])[task["field"]]}
    if task["generation"] is not None:
        found["beams"] = model.generate(**task["source"], **task["generation"])
    return found


def uses_decoding_steps(model: Any, task: dict[str, Any]) -> bool:
    """Whether `generate()` of the travelling code takes its fast way."""
    mixin = next(one for one in type(model).__mro__ if one.__module__.endswith(".generation_custom_seq2seq"))
    module: Any = sys.modules[mixin.__module__]
    can_step, answers = module.can_step, []

    def watch(*arguments: Any) -> bool:
        answers.append(can_step(*arguments))
        return bool(answers[-1])

    module.can_step = watch
    model.generate(**task["source"], **task["generation"])
    module.can_step = can_step
    return answers == [True]


def differences(found: dict[str, Any], task: dict[str, Any]) -> list[str]:
    import torch

    wrong = []
    if not torch.allclose(found["output"], task["output"], rtol=1e-5, atol=1e-6):
        wrong.append(f"output differs by {float((found['output'] - task['output']).abs().max())}")
    if task["generation"] is not None and not torch.equal(found["beams"], task["beams"]):
        wrong.append(f"beams differ: {found['beams'].tolist()}")
    return wrong


def visit(task: dict[str, Any], again: Path) -> dict[str, Any]:
    """Load a folder, compare, save it elsewhere, load that, compare again."""
    import transformers

    load = getattr(transformers, task["auto_class"]).from_pretrained
    folder = task["folder"]
    report = {
        "refused without trust": is_refused(load, folder),
        "refused with trust False": is_refused(lambda name: load(name, trust_remote_code=False), folder),
        "config refused": is_refused(transformers.AutoConfig.from_pretrained, folder),
    }
    model = load(folder, trust_remote_code=True)
    report["class"] = f"{type(model).__module__}.{type(model).__name__}"
    report["is in evaluation mode"] = not model.training
    report["differences"] = differences(outputs(model, task), task)
    report["decoding steps"] = task["generation"] is None or uses_decoding_steps(model, task)

    model.save_pretrained(again)
    report["same code again"] = python_files(again) == python_files(Path(folder))
    configs = [read_config(place) for place in (Path(folder), again)]
    report["config differences"] = [
        key for key in configs[0] | configs[1] if configs[0].get(key) != configs[1].get(key)
    ]
    second = load(again, trust_remote_code=True)
    report["second class"] = f"{type(second).__module__}.{type(second).__name__}"
    report["differences again"] = differences(outputs(second, task), task)
    report["decoding steps again"] = task["generation"] is None or uses_decoding_steps(second, task)
    return report


def visit_adapter(task: dict[str, Any]) -> dict[str, Any]:
    """A LoRA adapter on its base, in the two ways that peft and transformers offer."""
    from peft import PeftModel
    from transformers import AutoModelForSeq2SeqLM

    base = AutoModelForSeq2SeqLM.from_pretrained(task["base"], trust_remote_code=True)
    by_peft = PeftModel.from_pretrained(base, task["folder"]).eval()
    by_transformers = AutoModelForSeq2SeqLM.from_pretrained(task["folder"], trust_remote_code=True)
    return {
        "by peft": differences(outputs(by_peft, task), task),
        "by transformers": differences(outputs(by_transformers, task), task),
    }


def visit_tokenizer(folder: str, texts: list[str]) -> list[list[int]]:
    from transformers import AutoTokenizer

    ids: list[list[int]] = AutoTokenizer.from_pretrained(folder)(texts)["input_ids"]
    return ids


def smoothed_loss(task: dict[str, Any], factor: float) -> float:
    """The loss of a language model under the Trainer's label smoothing, which shifts labels by the class's name."""
    from transformers import AutoModelForCausalLM, Trainer, TrainingArguments

    model = AutoModelForCausalLM.from_pretrained(task["folder"], trust_remote_code=True)
    with tempfile.TemporaryDirectory() as folder:
        arguments = TrainingArguments(folder, label_smoothing_factor=factor, use_cpu=True, report_to="none")
        ids = task["inputs"]["input_ids"]
        return float(Trainer(model, arguments).compute_loss(model, {"input_ids": ids, "labels": ids}))


def pretrained_encoder(tasks: dict[str, Any], again: Path) -> bool:
    """Our own encoder's folder under a fresh decoder, by a class that came from another folder."""
    import torch
    from transformers import AutoModelForSeq2SeqLM

    parent = AutoModelForSeq2SeqLM.from_pretrained(tasks["ours"]["folder"], trust_remote_code=True)
    decoder = {**parent.config.decoder.to_dict(), "num_hidden_layers": 1}
    model = type(parent).from_encoder_pretrained(tasks["encoder"]["folder"], decoder=decoder, trust_remote_code=True)
    with torch.no_grad():
        states = model.get_encoder()(**tasks["encoder"]["inputs"]).last_hidden_state
    model.save_pretrained(again)
    loaded = AutoModelForSeq2SeqLM.from_pretrained(again, trust_remote_code=True)
    with torch.no_grad():
        reloaded = loaded.get_encoder()(**tasks["encoder"]["inputs"]).last_hidden_state
    expected = tasks["encoder"]["output"]
    return torch.allclose(states, expected, atol=1e-6) and torch.allclose(reloaded, expected, atol=1e-6)


def main(source: str, task_file: str, report_file: str) -> None:
    report: dict[str, Any] = hide_package(source)

    import torch

    tasks = torch.load(task_file)
    with tempfile.TemporaryDirectory() as scratch:
        report["folders"] = {
            name: visit(task, Path(scratch) / f"{name}_again") for name, task in tasks["folders"].items()
        }
        report["pretrained encoder"] = pretrained_encoder(tasks["folders"], Path(scratch) / "pretrained")
    report["adapter"] = visit_adapter(tasks["adapter"])
    report["token ids"] = visit_tokenizer(tasks["folders"]["ours"]["folder"], tasks["texts"])
    report["smoothed loss"] = smoothed_loss(tasks["folders"]["causal"], tasks["smoothing"])
    report["hidden to the end"] = PACKAGE not in sys.modules and importlib.util.find_spec(PACKAGE) is None
    Path(report_file).write_text(json.dumps(report))


if __name__ == "__main__":
    main(*sys.argv[1:])
