"""``hasten learn cache``."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

from hasten.cli.options import (
    NOTHING,
    Device,
    ModelName,
    OwnPlan,
    Parameter,
    Quiet,
    Request,
    model_of,
)


def cache(
    model: ModelName = "builtin:mnist",
    *,
    plan: OwnPlan = None,
    budget: float = 0.6,
    branch: Annotated[list[int] | None, Parameter(name="--branch", negative="")] = None,
    cut: Annotated[list[str] | None, Parameter(name="--cut", negative="")] = None,
    n: int = 8,
    seed: int = 0,
    request: Request = NOTHING,
    out: Path = Path("cache.json"),
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Learn a feature cache: which evaluations of a plan take features from an earlier one, with
    the least ODE error within a budget of multiply-accumulates. Writes the plan with its mask.

    Args:
        plan: a plan file, or key=value,..., without a feature cache.
        budget: multiply-accumulates, as a share of those of the plan without a feature cache.
        branch: a U-Net's branch to cache, 0 the outermost; more than once for several; all by
            default.
        cut: another kind of cache to try, such as "blocks(first=1)" or "encoder"; more than once
            for several.
        n: calibration pictures.
        seed: of their noise.
        out: the plan to write.
    """
    from hasten.core.errors import require_whole
    from hasten.core.files import require_writable
    from hasten.core.plan import Plan
    from hasten.learning.compression.cache import learn_cache_mask

    require_writable(out)
    require_whole("seed", seed, 0, 2**31)
    cuts = [f"deep(branch={number}, forecast={k})" for number in branch or [] for k in (0, 1)]
    learned = learn_cache_mask(
        model_of(model, request, device),
        Plan() if plan is None else Plan.read(plan),
        budget=budget,
        cuts=[*cuts, *(cut or [])] or None,
        n=n,
        seed=seed,
        say=lambda line: None if quiet else print(line, file=sys.stderr, flush=True),
    )
    learned.plan.write(out)
    print(
        f"wrote {out}: {learned.macs:.2f} of the multiply-accumulates, ODE error "
        f"{learned.ode_error:.4f} on {learned.n} pictures; plan: {learned.plan}"
    )
