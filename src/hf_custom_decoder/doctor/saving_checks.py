"""Whether a saved model is the one that was saved, here and in a process that only has the folder."""

import copy
import json
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from ..testing.fresh_process import outputs_of_a_fresh_process
from .config_checks import Found, tied_groups
from .examples import source_batch, target_batch
from .findings import Verdict
from .patient import Patient

PACKAGE = "hf_custom_decoder"


def check_saving(patient: Patient) -> Found:
    """A saved and loaded model has the same weights, tied as before, and bit-equal logits."""
    if patient.num_parameters > patient.limits.saved_parameters:
        return _too_large(patient)
    model = patient.original
    with tempfile.TemporaryDirectory() as folder:
        _save(model, folder)
        loader: Any = type(model)
        loaded: PreTrainedModel = loader.from_pretrained(folder, dtype=model.dtype).eval()
    before, after = model.state_dict(), loaded.state_dict()
    lost = sorted(before.keys() ^ after.keys())
    lost += [name for name in before if name in after and not torch.equal(before[name], after[name])]
    if lost:
        return Verdict.WRONG, f"After saving and loading, {len(lost)} weights are others: {', '.join(lost[:4])}."
    if tied_groups(model) != tied_groups(loaded):
        return (
            Verdict.WRONG,
            f"After saving and loading, other weights are tied: {tied_groups(model)} before, {tied_groups(loaded)} "
            "after. Make `tie_word_embeddings` say what was trained.",
        )
    expected, found = _logits(patient, model), _logits(patient, loaded)
    if not torch.equal(found, expected):
        difference = float((found - expected).abs().max())
        return (
            Verdict.WRONG,
            f"After saving and loading, equal weights give logits that differ by {difference:.2g}: something that "
            "counts is neither in the weights nor in the config.",
        )
    return (
        Verdict.RIGHT,
        f"Saved and loaded, {len(before)} tensors, their ties and the logits are the same to the bit.",
    )


def check_remote_code(patient: Patient) -> Found:
    """The folder's own code gives bit-equal logits in a new process without this package."""
    model, folder = patient.original, patient.folder
    if patient.num_parameters > patient.limits.saved_parameters:
        return _too_large(patient)
    with tempfile.TemporaryDirectory() as scratch:
        is_given = patient.trust_remote_code and folder is not None and _carries_code(folder)
        if is_given and folder is not None and not patient.has_fresh_weights:
            tried, where = folder.resolve(), "The folder"
        else:
            tried, where = Path(scratch), "A copy saved by `save_pretrained`"
            _save(model, tried)
            if not _carries_code(tried):
                return Verdict.NOT_APPLICABLE, "The folder carries no code; its class is part of transformers."
        ids, examples = patient.ids, patient.examples
        is_other = not is_given and folder is not None and _code_differs(folder, tried)
        source, target = source_batch(examples, ids), target_batch(examples, ids)["decoder_input_ids"]
        try:
            found = outputs_of_a_fresh_process(tried, source, target, hidden=[PACKAGE], dtype=model.dtype)
        except (AssertionError, subprocess.TimeoutExpired) as error:
            return Verdict.WRONG, f"{where} does not load for a stranger: {' '.join(str(error).split())[-300:]}"
    call: Any = model
    with torch.no_grad():
        expected = call(**source, decoder_input_ids=target).logits
    if not torch.equal(found["logits"], expected):
        difference = float((found["logits"] - expected).abs().max())
        return (
            Verdict.WRONG,
            f"{where} gives a stranger other logits, by up to {difference:.2g}: its code is not the code that ran "
            "here. Save the model again.",
        )
    if is_other:
        return (
            Verdict.NOTE,
            f"{where} gives a stranger the same logits to the bit, but the code in the folder is of another version: "
            "--trust_remote_code examines that one.",
        )
    return (
        Verdict.RIGHT,
        f"{where} gives a stranger, in a new process without this package, the same logits to the bit.",
    )


def _carries_code(folder: Path) -> bool:
    path = folder / "config.json"
    if not path.is_file():
        return False
    return bool(json.loads(path.read_text(encoding="utf-8")).get("auto_map")) and any(folder.glob("*.py"))


def _code_differs(folder: Path, saved: Path) -> bool:
    """Whether a file of code beside the weights is not what `save_pretrained` writes now."""
    return any(
        not (saved / path.name).is_file() or path.read_bytes() != (saved / path.name).read_bytes()
        for path in folder.glob("*.py")
    )


def _save(model: PreTrainedModel, folder: str | Path) -> None:
    """Saves with copies of the settings, as `save_pretrained` may move some from config to generation config."""
    config, generation = model.config, model.generation_config
    model.config, model.generation_config = copy.deepcopy(config), copy.deepcopy(generation)
    try:
        model.save_pretrained(folder)
    finally:
        model.config, model.generation_config = config, generation


@torch.no_grad()
def _logits(patient: Patient, model: PreTrainedModel) -> torch.Tensor:
    call: Any = model
    examples, ids = patient.examples, patient.ids
    found: torch.Tensor = call(**source_batch(examples, ids), **target_batch(examples, ids)).logits
    return found


def _too_large(patient: Patient) -> Found:
    return (
        Verdict.NOT_APPLICABLE,
        f"Skipped: the model has more than {patient.limits.saved_parameters:,} parameters.",
    )
