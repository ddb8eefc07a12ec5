"""A process that pushes to whatever `HF_ENDPOINT` names, twice, and loads by revision; run with folder and file."""

import json
import sys
from pathlib import Path

import torch
from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

from hf_custom_decoder.hub.push import push

IDS = [[5, 6, 7]]


def main(folder: str, report_file: str) -> None:
    first = push(folder, "someone/model", private=True, sources=["w5 w6"])
    model = AutoModelForSeq2SeqLM.from_pretrained(folder)
    expected = model(torch.tensor(IDS), decoder_input_ids=torch.tensor(IDS)).logits
    with torch.no_grad():
        model.lm_head.weight.mul_(2)
    second = model.push_to_hub("someone/model")
    found = {}
    for name, revision in (("pinned", first.revision), ("newest", "main")):
        loaded = AutoModelForSeq2SeqLM.from_pretrained("someone/model", revision=revision)
        logits = loaded(torch.tensor(IDS), decoder_input_ids=torch.tensor(IDS)).logits
        found[name] = torch.equal(logits, expected)
    tokenizer = AutoTokenizer.from_pretrained("someone/model", revision=first.revision)
    report = {
        "same logits": found,
        "ids": tokenizer(["w5 w6"])["input_ids"],
        "report": str(first),
        "revisions": [first.revision, second.oid],
    }
    Path(report_file).write_text(json.dumps(report), encoding="utf-8")


if __name__ == "__main__":
    main(*sys.argv[1:])
