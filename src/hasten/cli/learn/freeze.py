"""``hasten learn freeze``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from hasten.cli.options import NOTHING, Device, ModelName, Parameter, Request, model_of


def freeze(
    model: ModelName = "builtin:mnist",
    *,
    plan: Annotated[str, Parameter(name="--plan")] = "solver=adaptive-ode,steps=20",
    n: int = 64,
    seed: int = 0,
    request: Request = NOTHING,
    out: Path = Path("plan.json"),
    device: Device = "cpu",
) -> None:
    """Turn a plan whose solver chooses its own steps into one that takes the same steps for every
    picture, and so has a Program.

    Args:
        plan: a plan file, or key=value,...; its solver is adaptive-ode or adaptive-sde.
        n: how many pictures to calibrate on.
        seed: of their noise.
        out: the plan to write.
    """
    from hasten.core.plan import Plan
    from hasten.learning.programs.freeze import freeze as run

    chosen = Plan.read(plan)
    loaded = model_of(model, request, device)
    frozen = run(loaded, chosen, n=n, seed=seed)
    frozen.write(out)
    evaluations = frozen.trace(loaded.schedule).evaluations
    print(f"wrote {out}: {frozen.solver}, {evaluations} evaluations")
