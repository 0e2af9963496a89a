"""The edits that the tuner considers, each list the most promising first."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.editing.edit_plan import EditPlan
from hasten.editing.stream import Streaming
from hasten.tuning.known_good import known_good
from hasten.tuning.space import Space

METHODS = (
    "flowedit",
    "flowedit(strength=0.8)",
    "flowalign",
    "inversion(strength=0.7)",
    "sdedit(strength=0.7)",
    "rf-inversion",
)
GRID = "log-snr"  # tried beside the one that is known to be good for sampling
STEPS = (10, 6, 16, 4)
EVERY = (8, 4, 16, 2)
SIMILAR = (0.0, 0.002)
DEPTHS = (Streaming.depth, 1)


def program(model: Model, method: str, steps: int, guidance: float, grid: str = GRID) -> EditPlan:
    """The method on a plan of so many steps, in eager torch, every frame edited."""
    plan = Plan(solver=known_good(model.schedule)[0][0], grid=grid, steps=steps, guidance=guidance)
    fields = {"dtype": str(model.dtype).removeprefix("torch."), "device": model.device.type}
    return EditPlan(method=method, plan=plan.model_copy(update=fields))


def programs(model: Model, method: str, guidance: float) -> list[EditPlan]:
    """Methods on few steps, ``method`` before the others."""
    grids = dict.fromkeys([GRID, known_good(model.schedule)[0][1]])
    names = dict.fromkeys([EditPlan(method=method).method, *METHODS])
    ordered = itertools.product(STEPS, grids, names)
    return [program(model, name, steps, guidance, grid) for steps, grid, name in ordered]


def streams(settings: EditPlan, frames: int) -> list[EditPlan]:
    """Ways in which ``frames`` frames share the network."""
    keys = [every for every in EVERY if every <= frames]
    ways = [{"every": every, "similar": s} for every, s in itertools.product(keys, SIMILAR)]
    ways += [{"depth": depth, "similar": s} for s, depth in itertools.product(SIMILAR, DEPTHS)]
    return [settings.with_fields(**way) for way in ways]


def in_engines(best: Iterable[EditPlan], space: Space, model: Model, frames: int) -> list[EditPlan]:
    """Edits in every engine; where every frame is edited, one by one too, because an engine is
    prepared for each number of rows. torch.compile, which takes a minute for each, has to be asked
    for by ``space``."""
    pairs = space.engines_on(model.device.type)
    pairs = [pair for pair in pairs if space.engines or pair[0] != "compile"]
    out: list[EditPlan] = []
    for settings, (engine, dtype) in itertools.product(best, pairs):
        assert settings.plan is not None
        plan = settings.plan.model_copy(update={"engine": engine, "dtype": dtype})
        depths = DEPTHS if settings.every == 1 < frames else (settings.depth,)
        out += [settings.with_fields(plan=plan, depth=depth) for depth in depths]
    return list(dict.fromkeys(out))
