"""Impossible settings are refused at construction."""

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
    other = [QuickstartSettings(seed=7), QuickstartSettings(limit=500), QuickstartSettings(max_steps=3)]
    assert all(settings.fingerprint() == same[0].fingerprint() for settings in same)
    assert all(settings.fingerprint() != same[0].fingerprint() for settings in other)
