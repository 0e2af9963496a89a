"""Copies to a device that nobody waits for."""

from __future__ import annotations

import torch


def sent(value: torch.Tensor, device: torch.device) -> torch.Tensor:
    """``value`` on ``device``; from the CPU to a CUDA device through pinned memory, so that the
    copy queues behind what the device is doing and the caller goes on."""
    if (value.device.type, device.type) != ("cpu", "cuda"):
        return value.to(device)
    return value.pin_memory().to(device, non_blocking=True)
