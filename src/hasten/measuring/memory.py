"""Memory: of weights, and the most that was held."""

from __future__ import annotations

import sys

import torch


def weights_mb(net: torch.nn.Module) -> float:
    """Megabytes of a network's parameters and buffers."""
    held = [*net.parameters(), *net.buffers()]
    return round(sum(value.numel() * value.element_size() for value in held) / 1e6, 3)


def peak_mb(device: torch.device | str = "cpu") -> float:
    """The most the device's allocator held since :func:`forget_peak`; on a CPU the process's peak
    resident size, which nothing resets."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def forget_peak(device: torch.device | str = "cpu") -> None:
    """Begin a new peak where the device can."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
