"""Shards as tasks on a Ray cluster: an actor for each slot, which loads the model once.

The nodes share the folder, and have hasten installed.
"""

from __future__ import annotations

import functools
import importlib
from collections.abc import Iterator, Sequence
from types import ModuleType
from typing import cast

import torch

from hasten.core.errors import HastenError, UserError
from hasten.core.files import JsonObject
from hasten.generating.job import Job
from hasten.generating.maker import Maker, Outcome, Progress, State


class Slot:
    """What runs on the cluster."""

    def __init__(self, job: Job) -> None:
        self._job = job

    def identity(self) -> JsonObject:
        """Of the job."""
        return self._maker.identity

    def make(self, shard: int) -> tuple[str, str]:
        """What became of a shard, and why it failed."""
        outcome = self._maker.make(shard, lambda *_: None)
        return str(outcome.state), outcome.message

    @functools.cached_property
    def _maker(self) -> Maker:
        """Made by the first call, because Ray hands on the errors of calls as they are."""
        torch.set_num_threads(self._job.threads)
        return Maker(self._job)


class RayPool:
    """Makes shards on the cluster at ``address``, on ``count`` slots; by default as many as it has
    GPUs, or processors for the job's threads.

    Raises:
        UserError: ray is not installed, or there is no cluster at that address.
    """

    def __init__(self, job: Job, address: str, count: int | None = None) -> None:
        self._ray = ray = _ray()
        self._connected = not ray.is_initialized()
        try:
            if self._connected:
                ray.init(address=address, log_to_driver=False)
        except Exception as error:
            text = " ".join(str(error).split())[:160]
            raise UserError(f"ray: no cluster at {address!r} ({text}); start one.") from error
        on_gpu = job.device.startswith("cuda")
        needs = {"num_gpus": 1} if on_gpu else {"num_cpus": job.threads}
        has = ray.cluster_resources()
        room = int(has.get("GPU", 0)) if on_gpu else int(has.get("CPU", 0)) // job.threads
        count = min(count or room, room)
        if count < 1:
            raise UserError(f"ray: the cluster has no room for {needs}; see --threads, --device.")
        actor = ray.remote(**needs)(Slot)
        self._slots = [actor.remote(job) for _ in range(count)]
        try:
            self.identity = cast(JsonObject, self._of(self._slots[0].identity.remote()))
        except BaseException:
            self.close()
            raise

    def run(self, shards: Sequence[int], progress: Progress) -> Iterator[Outcome]:
        todo, idle, at = list(reversed(shards)), list(self._slots), {}
        while todo or at:
            while todo and idle:
                slot, shard = idle.pop(), todo.pop()
                at[slot.make.remote(shard)] = slot, shard
            (ready, *_), _ = self._ray.wait(list(at), num_returns=1)
            slot, shard = at.pop(ready)
            try:
                state, message = cast(tuple[str, str], self._of(ready))
                idle.append(slot)
            except self._ray.exceptions.RayActorError as error:
                self._slots.remove(slot)
                if not self._slots:
                    raise HastenError("ray: every actor has died; start again.") from error
                state, message = "failed", f"shard {shard}: its actor has died"
            yield Outcome(shard=shard, state=State(state), message=message)

    def close(self) -> None:
        for slot in self._slots:
            self._ray.kill(slot)
        self._slots = []
        if self._connected:
            self._ray.shutdown()

    def _of(self, answer: object) -> object:
        """The value of ``answer``; an error as it was raised, not as ray wraps it."""
        try:
            return self._ray.get(answer)
        except self._ray.exceptions.RayTaskError as error:
            raise (error.cause or error) from None


def _ray() -> ModuleType:
    try:
        return importlib.import_module("ray")
    except ImportError as error:
        raise UserError("--ray needs ray: pip install 'hasten[ray]'.") from error
