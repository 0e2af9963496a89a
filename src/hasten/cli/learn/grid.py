"""``hasten learn grid``."""

from __future__ import annotations

from pathlib import Path

from hasten.cli.options import NOTHING, Device, ModelName, OwnPlan, Quiet, Request, model_of


def grid(
    model: ModelName = "builtin:mnist",
    *,
    method: str = "gits",
    steps: int = 5,
    plan: OwnPlan = None,
    minutes: float | None = None,
    engine: str = "eager",
    seed: int = 0,
    request: Request = NOTHING,
    out: Path = Path("plan.json"),
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Find the noise levels that suit a solver: from the curvature of a few trajectories (gits),
    from its coefficients alone (dmn), or one learned curve for every number of steps (bezier).

    Args:
        method: gits, dmn or bezier.
        steps: of the plan; bezier learns for half as many to as many.
        plan: a plan file, or key=value,...: the solver and everything else; ipndm by default.
        minutes: a time budget, for bezier.
        engine: what runs the network while the grid is learned.
        seed: of the noise.
        out: the plan to write.
    """
    from hasten.core.errors import require_choice, require_whole
    from hasten.core.files import require_writable
    from hasten.core.plan import Plan
    from hasten.learning.schedules.grid import learn_grid

    out = require_writable(out)
    require_whole("seed", seed, 0, 2**31)
    require_choice("method", method, ("gits", "dmn", "bezier"))
    base = Plan.read(plan) if plan is not None else Plan(solver="ipndm", grid="uniform")
    learned = learn_grid(
        model_of(model, request, device),
        method,
        base.model_copy(update={"steps": steps}),
        run=out.with_name(out.name + ".run"),
        minutes=minutes,
        engine=engine,
        seed=seed,
        quiet=quiet,
    )
    learned.write(out)
    print(f"wrote {out}: {learned}")
