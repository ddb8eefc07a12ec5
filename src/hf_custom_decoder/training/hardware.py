"""What a run may use of the machine, and how to name it."""

import os
import platform
from pathlib import Path

import torch

_CONTAINER_QUOTA = Path("/sys/fs/cgroup/cpu.max")


def usable_cpus(quota_file: Path = _CONTAINER_QUOTA) -> int:
    """Counts the CPU cores that this process may use, which in a container can be far fewer than there are.

    Args:
        quota_file (`Path`, *optional*): Where Linux keeps the container's quota: microseconds of CPU time (or "max"),
            and the period in microseconds to which they belong.

    Returns:
        `int`: At least 1.
    """
    count = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        quota, period = quota_file.read_text().split()
        allowed = round(int(quota) / int(period))
    except (OSError, ValueError):  # no Linux container, or no limit
        return count
    return max(1, min(count, allowed))


def runs_on_cpu(device: str) -> bool:
    """Whether "cpu" was chosen, or "auto" finds no accelerator."""
    return device == "cpu" or not torch.accelerator.is_available()


def check_device(device: str | torch.device) -> None:
    """Checks that torch can compute on a device.

    Args:
        device (`str` or `torch.device`): "cpu", "cuda", "cuda:1", "mps", or another name that torch knows.

    Raises:
        ValueError: If there is no such device here; names those that there are.
    """
    available = ["cpu"]
    if torch.cuda.is_available():
        available += ["cuda", *(f"cuda:{idx}" for idx in range(torch.cuda.device_count()))]
    if torch.backends.mps.is_available():
        available.append("mps")
    others = torch.accelerator.current_accelerator() if torch.accelerator.is_available() else None
    if others is not None and others.type not in ("cuda", "mps"):
        available += [others.type, *(f"{others.type}:{idx}" for idx in range(torch.accelerator.device_count()))]
    if str(device) not in available:
        raise ValueError(
            f"`device` must be one that torch finds here ({', '.join(available)}), got '{device}'. Choose one of them."
        )


def limit_threads() -> None:
    """Gives torch no more threads than there are usable cores; it counts those of the whole machine."""
    torch.set_num_threads(min(torch.get_num_threads(), usable_cpus()))


def describe_hardware(device: str) -> str:
    """Names what a run on "cpu", "cuda" or "mps" uses, for tables and model cards."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    if device == "cpu":
        return f"{torch.get_num_threads()} threads of a CPU ({platform.machine()})"
    return device
