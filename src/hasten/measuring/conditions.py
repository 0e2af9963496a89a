"""The machine a number was measured on."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

import torch

from hasten.core.report import Conditions


def conditions(
    device: torch.device | str = "cpu",
    dtype: str = "float32",
    versions: dict[str, str] | None = None,
) -> Conditions:
    """Device, the dtype computed in, threads and versions, as every Report carries them."""
    return {
        "device": device_name(device),
        "dtype": dtype,
        "threads": torch.get_num_threads(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        **{name: _version(name) for name in ("hasten", "torch", "diffusers")},
        **(versions or {}),
    }


def device_name(device: torch.device | str = "cpu") -> str:
    """``cuda: NVIDIA ...`` or ``cpu: AMD ...``."""
    kind = torch.device(device).type
    if kind == "cuda":
        return f"cuda: {torch.cuda.get_device_name(device)}"
    return f"{kind}: {_processor()}" if kind == "cpu" else kind


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()


def _version(name: str) -> str:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return "not installed"
