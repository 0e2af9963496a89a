"""The calls of a round, shared out over processes (torch.distributed; gloo or nccl)."""

from __future__ import annotations

import atexit
import functools
import os
from collections.abc import Sequence
from datetime import timedelta
from typing import Any

import torch
from torch import distributed

from hasten.core.call import Answer, Call, Denoiser
from hasten.core.errors import HastenError, UserError
from hasten.core.executor import Executor

PATIENCE = timedelta(seconds=20)  # that a process may be behind the others in one round


class RankError(HastenError):
    """Another process of the group died, or fell behind."""


class Distributed:
    """A denoiser of whose calls each process answers its share; all answers are gathered by every
    process.

    Every process runs the same plan with the same seed, makes the same calls, and ends with the
    same picture. Before answers are gathered each process reports to the first one, so one that has
    died ends the others instead of leaving them to wait.
    """

    def __init__(self, denoiser: Denoiser) -> None:
        self.denoiser = denoiser

    def __call__(self, calls: Sequence[Call]) -> list[Answer]:
        size, rank, watched = _group(calls[0].x.device.type)
        share = -(-len(calls) // size)
        # All shares are of one size, as gathering needs; the last ones repeat the last call.
        mine = [min(place, len(calls) - 1) for place in range(rank * share, (rank + 1) * share)]
        answers = self.denoiser([calls[place] for place in mine])
        ours = torch.stack([answer.x0 for answer in answers])
        every = [torch.empty_like(ours) for _ in range(size)]
        try:
            distributed.monitored_barrier(watched, PATIENCE)
            distributed.all_gather(every, ours)
        except RuntimeError as error:
            raise RankError(
                f"process {rank} of {size} waited for another that died or is more than "
                f"{PATIENCE.seconds} s behind; start all of them again ({_first(error)})."
            ) from error
        return [Answer(x0=x0) for x0 in torch.cat(every)[: len(calls)].unbind()]


def shared_out(denoiser: Denoiser, executor: Executor) -> Denoiser:
    """``denoiser``, shared out over a group of processes where there is one to share.

    It is shared where the executor makes many calls at once, and torch.distributed is running or
    the environment (WORLD_SIZE, as torchrun sets it) says that there are several processes.
    """
    if not executor.wide:
        return denoiser
    running = distributed.is_available() and distributed.is_initialized()
    size = distributed.get_world_size() if running else _asked("WORLD_SIZE", 1)
    return Distributed(denoiser) if size > 1 else denoiser


def _asked(name: str, default: int) -> int:
    try:
        return int(os.environ.get(name, default))
    except ValueError as error:
        text = os.environ[name]
        raise UserError(f"the environment's {name} is {text!r}; it takes a number.") from error


@functools.cache
def _group(kind: str) -> tuple[int, int, Any]:
    """How many processes there are, which one this is, and the group by which they are watched."""
    if not distributed.is_initialized():
        backend = "cpu:gloo,cuda:nccl" if kind == "cuda" else "gloo"
        try:
            distributed.init_process_group(backend, timeout=PATIENCE)
        except (ValueError, RuntimeError) as error:
            raise UserError(
                f"WORLD_SIZE is {os.environ.get('WORLD_SIZE')}, but the processes did not meet "
                f"({_first(error)}); start them with torchrun, or unset WORLD_SIZE."
            ) from error
        atexit.register(distributed.destroy_process_group)
    watched = distributed.new_group(backend="gloo", timeout=PATIENCE)
    return distributed.get_world_size(), distributed.get_rank(), watched


def _first(error: Exception) -> str:
    """What the runtime says, in one line."""
    return (str(error).splitlines() or [type(error).__name__])[0].strip().rstrip(".")[:160]
