"""``hasten learn narrow``."""

from __future__ import annotations

from pathlib import Path

from hasten.cli.options import NOTHING, Device, ModelName, PlanText, Request, model_of


def narrow(
    model: ModelName = "builtin:mnist",
    *,
    small: str,
    plan: PlanText = None,
    ode_error: float = 0.02,
    n: int = 16,
    request: Request = NOTHING,
    out: Path = Path("narrow.json"),
    device: Device = "cpu",
) -> None:
    """Find the evaluations of a plan at which a smaller network suffices, by how much it changes
    the pictures at each. Writes the plan with its lever small.

    Args:
        small: the folder of the smaller network, such as `hasten learn prune` writes.
        ode_error: how far (RMSE, pixels in 0 to 1) pictures may be from those of the whole network.
        n: pictures.
        out: the plan to write.
    """
    from hasten.core.plan import Plan
    from hasten.learning.compression.small import learn_narrow

    chosen = None if plan is None else Plan.read(plan)
    loaded = model_of(model, request, device)
    learned = learn_narrow(loaded, chosen or Plan.of(loaded.plan), small, ode_error=ode_error, n=n)
    learned.plan.write(out)
    for number, moved in enumerate(learned.alone):
        where = "small" if learned.at[number] else "whole"
        print(f"{moved:.4f}  {where}  evaluation {number + 1}")
    print(
        f"wrote {out}: ODE error {learned.ode_error:.4f} (n = {learned.n}), {learned.macs:.0%} of "
        "the multiply-accumulates"
    )
