"""Memory: of weights, the most that was held, and the most that will be."""

from __future__ import annotations

import contextlib
import copy
import sys
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch.utils._python_dispatch import TorchDispatchMode

from hasten.core.condition import COND
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.core.plan import Plan

SCRATCH = 1.2  # what kernels hold beside tensors, as a share; measured 1.05 to 1.6
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")


def weights_mb(net: torch.nn.Module) -> float:
    """Megabytes of a network's parameters and buffers."""
    tensors = [*net.parameters(), *net.buffers()]
    return round(sum(value.numel() * value.element_size() for value in tensors) / 1e6, 3)


def peak_mb(device: torch.device | str = "cpu") -> float:
    """The most that was held since :func:`forget_peak`: by the device's allocator, or on a CPU by
    the whole process (its resident size, Python and libraries included)."""
    if torch.device(device).type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 1e6, 1)
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = STATUS.read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("VmHWM:"))
        return round(int(line.split()[1]) * 1024 / 1e6, 1)
    try:
        import resource
    except ImportError:  # Windows
        return float("nan")
    unit = 1 if sys.platform == "darwin" else 1024
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6, 1)


def forget_peak(device: torch.device | str = "cpu") -> None:
    """Begin a new peak where the device or the operating system can (CUDA, Linux)."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return
    with contextlib.suppress(OSError):
        RESET.write_text("5", encoding="ascii")  # proc(5): resets the peak resident size


def require_memory(model: Model, plan: Plan, batch: int) -> None:
    """Refuse a batch whose network calls will not fit.

    Raises:
        UserError: with how much is needed, how much is free, and a batch that fits.
    """
    free = free_mb(model.device)
    single, whole = predicted_mb(model, plan, 1), predicted_mb(model, plan, batch)
    if whole is None or single is None or whole <= free:
        return
    fits = int((free - single) / max((whole - single) / max(batch - 1, 1), 1e-9)) + 1
    advice = f"use {fits} or fewer" if fits > 0 else "free some, or use a smaller network"
    raise UserError(
        f"batch is {batch}, whose network calls need about {whole:.0f} MB, and {free:.0f} MB are "
        f"free; {advice}."
    )


def predicted_mb(model: Model, plan: Plan, batch: int) -> float | None:
    """About how many megabytes a network call will hold beside the model's own weights.

    The network runs on shapes alone (torch's meta device) while the storages alive are counted;
    None where it cannot (its code looks at values).
    """
    rows = batch * (2 if plan.guidance != 1.0 else 1)
    try:
        activations = _activations(model, rows)
    except Exception:  # whatever a network of unknown make raises on shapes alone
        return None
    narrow = 2 if plan.dtype != "float32" else 1
    own = weights_mb(model.net) if plan.engine != "eager" or narrow == 2 else 0.0
    latents = 4 * batch * 4 * _numel(model.shape) / 1e6  # four registers are alive in most programs
    return own + SCRATCH * activations / narrow / 1e6 + latents


def training_mb(model: Model, batch: int) -> float | None:
    """About how many megabytes a training step of ``batch`` pictures will hold beside the model:
    gradients, Adam's moments, the averaged weights, and what backward needs of one call; None where
    the network cannot be run on shapes alone."""
    try:
        activations = _activations(model, batch, backward=True)
    except Exception:  # whatever a network of unknown make raises on shapes alone
        return None
    weights = 4 * sum(value.numel() for value in model.net.parameters()) / 1e6
    return 4 * weights + SCRATCH * activations / 1e6


def free_mb(device: torch.device | str = "cpu") -> float:
    """Megabytes that can be had now; endless where the system does not say."""
    if torch.device(device).type == "cuda":
        return torch.cuda.mem_get_info(device)[0] / 1e6
    limits = [float("inf")]
    with contextlib.suppress(OSError, StopIteration, ValueError):
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
        line = next(line for line in lines if line.startswith("MemAvailable:"))
        limits.append(int(line.split()[1]) * 1024 / 1e6)
    with contextlib.suppress(OSError, ValueError):  # "max" where a container sets no limit
        group = Path("/sys/fs/cgroup")
        limit, used = (int((group / f"memory.{name}").read_text()) for name in ("max", "current"))
        limits.append((limit - used) / 1e6)
    return min(limits)


def _activations(model: Model, rows: int, backward: bool = False) -> int:
    """The most bytes alive at once in one network call, inputs and answer included, and what the
    way back needs where there is one."""
    shapes: dict[int, torch.Tensor] = {
        id(buffer): buffer.to("meta") for buffer in model.net.buffers()
    }
    for parameter in model.net.parameters():
        shapes[id(parameter)] = torch.nn.Parameter(
            parameter.detach().to("meta"), requires_grad=backward
        )
    net = copy.deepcopy(model.net, shapes)
    condition = model.condition(rows).branch(COND).to("meta")
    count = _Alive()
    with torch.set_grad_enabled(backward), count:
        x = torch.empty(rows, *model.shape, device="meta")
        answer = net(x, torch.empty(rows, device="meta"), condition)
        most = count.most
    del answer
    return most


class _Alive(TorchDispatchMode):
    """Counts the bytes of storages from the operator that makes them until they are dropped."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: weakref.WeakSet[torch.UntypedStorage] = weakref.WeakSet()

    def __torch_dispatch__(
        self,
        func: Callable[..., object],
        types: object,
        args: tuple[object, ...] = (),
        kwargs: Mapping[str, object] | None = None,
    ) -> object:
        out = func(*args, **(kwargs or {}))
        for value in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(value, torch.Tensor):
                self._count(value.untyped_storage())
        return out

    def _count(self, storage: torch.UntypedStorage) -> None:
        if storage in self._known:
            return
        self._known.add(storage)
        size = storage.nbytes()
        self.now += size
        self.most = max(self.most, self.now)
        weakref.finalize(storage, self._drop, size)

    def _drop(self, size: int) -> None:
        self.now -= size


def _numel(shape: tuple[int, ...]) -> int:
    out = 1
    for size in shape:
        out *= size
    return out
