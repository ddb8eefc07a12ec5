"""Counting the cores that a container leaves."""

import os
from pathlib import Path

import pytest
import torch

from hf_custom_decoder.training import hardware
from hf_custom_decoder.training.hardware import describe_hardware, limit_threads, runs_on_cpu, usable_cpus


@pytest.fixture(autouse=True)
def _eight_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "sched_getaffinity", lambda process: set(range(8)), raising=False)


@pytest.mark.parametrize(
    ("quota", "expected"),
    [
        ("max 100000\n", 8),
        ("200000 100000\n", 2),
        ("150000 100000\n", 2),
        ("20000 100000\n", 1),  # a fifth of a core is still one thread
        ("6400000 100000\n", 8),
        ("nonsense", 8),
    ],
)
def test_quota_of_a_container(tmp_path: Path, quota: str, expected: int) -> None:
    file = tmp_path / "cpu.max"
    file.write_text(quota)
    assert usable_cpus(file) == expected


def test_machine_without_quota(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert usable_cpus(tmp_path / "nowhere") == 8
    monkeypatch.delattr(os, "sched_getaffinity")
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert usable_cpus(tmp_path / "nowhere") == 1


def test_threads_are_lowered_but_never_raised(monkeypatch: pytest.MonkeyPatch) -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        monkeypatch.setattr(hardware, "usable_cpus", lambda: 8)
        limit_threads()
        assert torch.get_num_threads() == 3
        monkeypatch.setattr(hardware, "usable_cpus", lambda: 2)
        limit_threads()
        assert torch.get_num_threads() == 2
        assert describe_hardware("cpu").startswith("2 threads of a CPU (")
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("device", "has_accelerator", "expected"), [("cpu", True, True), ("auto", True, False), ("auto", False, True)]
)
def test_auto_is_the_cpu_where_there_is_nothing_else(
    monkeypatch: pytest.MonkeyPatch, device: str, has_accelerator: bool, expected: bool
) -> None:
    monkeypatch.setattr(torch.accelerator, "is_available", lambda: has_accelerator)
    assert runs_on_cpu(device) is expected
