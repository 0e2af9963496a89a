"""Shards as tasks of Ray, with a stand-in for it that calls actors at once."""

from __future__ import annotations

import sys
import types

import pytest
from bulk_reading import TWO, whole

from hasten.core.errors import UserError
from hasten.generating import UnfinishedError, generate


class TaskError(Exception):
    def __init__(self, cause: Exception) -> None:
        super().__init__("a long\ntraceback")
        self.cause = cause


class ActorError(Exception):
    """An actor has died."""


class Call:
    def __init__(self, method) -> None:
        self.method = method

    def remote(self, *arguments):
        return lambda: self.method(*arguments)  # what ray.get calls


class Handle:
    def __init__(self, actor) -> None:
        self.identity, self.make = Call(actor.identity), Call(actor.make)


def get(answer):
    try:
        return answer()
    except ActorError:
        raise
    except Exception as error:
        raise TaskError(error) from error


@pytest.fixture
def ray(monkeypatch):
    """Stands in for ray, on a cluster of four processors."""
    known = types.SimpleNamespace(addresses=[], killed=[])

    def remote(**needs):
        return lambda kind: types.SimpleNamespace(remote=lambda *given: Handle(kind(*given)))

    module = types.ModuleType("ray")
    module.is_initialized = lambda: False
    module.init = lambda address, **_: known.addresses.append(address)
    module.cluster_resources = lambda: {"CPU": 4.0}
    module.remote, module.get = remote, get
    module.wait = lambda answers, num_returns: (answers[:1], answers[1:])
    module.kill, module.shutdown = known.killed.append, lambda: None
    module.exceptions = types.SimpleNamespace(RayTaskError=TaskError, RayActorError=ActorError)
    monkeypatch.setitem(sys.modules, "ray", module)
    return known


SMALL = {"plan": TWO, "n": 7, "shard": 3, "batch": 2, "threads": 2, "ray": "head:6379"}


def test_the_shards_are_made_by_an_actor_per_slot(ray, folder, tmp_path):
    assert generate(folder, tmp_path / "a", **SMALL).made == 7
    assert whole(tmp_path / "a", 7)
    assert (ray.addresses, len(ray.killed)) == (["head:6379"], 2)  # 4 processors, 2 threads each


def test_an_error_on_the_cluster_is_the_line_that_it_is_here(ray, tmp_path):
    with pytest.raises(UserError, match="is no folder here") as caught:
        generate("nothing", tmp_path / "a", **SMALL)
    assert "\n" not in str(caught.value)


def test_an_actor_that_dies_fails_its_shard_and_another_goes_on(ray, folder, tmp_path, monkeypatch):
    from hasten.generating.ray_pool import Slot

    make, died = Slot.make, []

    def dying(self, shard):
        if not died:
            died.append(shard)
            raise ActorError
        return make(self, shard)

    monkeypatch.setattr(Slot, "make", dying)
    with pytest.raises(UnfinishedError) as caught:
        generate(folder, tmp_path / "a", **SMALL)
    assert caught.value.result.failed == ("shard 0: its actor has died",)
    assert caught.value.result.made == 4


def test_a_cluster_without_room_is_refused(ray, folder, tmp_path):
    with pytest.raises(UserError, match=r"ray: the cluster has no room for .*; see --threads"):
        generate(folder, tmp_path / "a", **{**SMALL, "threads": 8})
