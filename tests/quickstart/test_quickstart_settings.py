"""Impossible settings are refused at construction."""

from pathlib import Path
from typing import Any

import pytest
import torch

from hf_custom_decoder.quickstart.quickstart_settings import QuickstartSettings


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("minutes", 0.0),
        ("minutes", float("nan")),
        ("max_steps", 0),
        ("seed", -1),
        ("num_beams", 0),
        ("limit", 99),
        ("device", "tpu"),
        ("decoder", "mamba"),
    ],
)
def test_value_is_named(name: str, value: Any) -> None:
    with pytest.raises(ValueError, match=rf"`{name}` must .*got '?{value}'?\.$"):
        QuickstartSettings(**{name: value})


@pytest.mark.parametrize(("device", "module"), [("cuda", torch.cuda), ("mps", torch.backends.mps)])
def test_missing_device_is_named(device: str, module: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "is_available", lambda: False)
    with pytest.raises(ValueError, match=f'`device` is "{device}", but torch finds no such device'):
        QuickstartSettings(device=device)
    monkeypatch.setattr(module, "is_available", lambda: True)
    assert QuickstartSettings(device=device).device == device


def test_continuation_may_change_only_what_training_does_not_see() -> None:
    same = [
        QuickstartSettings(),
        QuickstartSettings(num_beams=1),
        QuickstartSettings(minutes=9.0),
        QuickstartSettings(fresh=True),
    ]
    other = [
        QuickstartSettings(decoder="gru"),
        QuickstartSettings(seed=7),
        QuickstartSettings(limit=500),
        QuickstartSettings(max_steps=3),
    ]
    assert all(settings.fingerprint() == same[0].fingerprint() for settings in same)
    assert all(settings.fingerprint() != same[0].fingerprint() for settings in other)


def test_decoders_of_one_table_have_one_budget_and_one_search() -> None:
    same = QuickstartSettings(decoder="all")
    for change in ({"minutes": 9.0}, {"num_beams": 1}, {"max_steps": 3}, {"seed": 7}, {"limit": 500}):
        other = QuickstartSettings(decoder="all", **change)
        assert other.comparison_fingerprint() != same.comparison_fingerprint()
    steps = [QuickstartSettings(decoder="all", max_steps=3, minutes=minutes) for minutes in (1.0, 2.0)]
    assert steps[0].comparison_fingerprint() == steps[1].comparison_fingerprint()  # minutes are not looked at


@pytest.mark.parametrize(
    ("decoder", "folder"),
    [("transformer", "runs/quickstart"), ("gru", "runs/quickstart-gru"), ("all", "runs/quickstart-all")],
)
def test_every_decoder_has_a_folder_of_its_own(decoder: str, folder: str) -> None:
    assert QuickstartSettings(decoder=decoder).folder == Path(folder)
    assert QuickstartSettings(decoder=decoder, output=Path("mine")).folder == Path("mine")
