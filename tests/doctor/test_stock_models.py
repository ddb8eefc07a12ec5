"""
What stock BART, Marian and T5 of this version of transformers fail; docs/doctor.md holds the same table.

A line that changes with a new version is news for that page.
"""

import re

import pytest

from hf_custom_decoder.doctor import CHECK_NAMES, Verdict, examine_model
from tests.doctor.models import tiny_stock

pytest.importorskip("accelerate")

OTHER_THAN_RIGHT = {
    "BART": {
        "special tokens": Verdict.NOTE,
        "padding before": Verdict.WRONG,
        "beams": Verdict.NOTE,
        "remote code": Verdict.NOT_APPLICABLE,
        "accumulation": Verdict.WRONG,
    },
    "Marian": {
        "special tokens": Verdict.NOTE,
        "padding before": Verdict.WRONG,
        "beams": Verdict.NOTE,
        "remote code": Verdict.NOT_APPLICABLE,
        "accumulation": Verdict.WRONG,
    },
    "T5": {
        "special tokens": Verdict.NOTE,
        "beams": Verdict.NOTE,
        "remote code": Verdict.NOT_APPLICABLE,
        "accumulation": Verdict.WRONG,
    },
}


@pytest.mark.parametrize("name", list(OTHER_THAN_RIGHT))
def test_what_stock_models_fail(name: str) -> None:
    report = examine_model(tiny_stock(name))
    expected = {**dict.fromkeys(CHECK_NAMES, Verdict.RIGHT), **OTHER_THAN_RIGHT[name]}
    assert report.verdicts() == expected, str(report)
    texts = {finding.name: finding.text for finding in report.findings}
    assert "20 tokens" in texts["special tokens"]
    factor = float(re.findall(r"gradient (\d+\.\d+) times", texts["accumulation"])[0])
    assert factor == pytest.approx(4, rel=0.1)  # four batches: the sum of their means, for one mean
