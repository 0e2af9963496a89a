"""``hasten learn program``."""

from __future__ import annotations

from pathlib import Path

from hasten.cli.options import NOTHING, Device, Flag, ModelName, OwnPlan, Quiet, Request, model_of


def program(
    model: ModelName = "builtin:mnist",
    *,
    evaluations: int = 5,
    width: int = 1,
    plan: OwnPlan = None,
    start: str = "noise",
    pairs: int = 512,
    batch: int = 16,
    rate: float = 0.01,
    steps: int = 2000,
    minutes: float | None = None,
    guidance: float | None = None,
    engine: str = "eager",
    frugal: Flag = False,
    seed: int = 0,
    request: Request = NOTHING,
    out: Path = Path("program.json"),
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Learn the noise levels, times and coefficients of a program with few network evaluations; the
    weights stay frozen. A plan names the file, as in program=program.json. A second run with the
    same --out resumes the first.

    Args:
        evaluations: sequential network calls, 1 to 20.
        width: parallel evaluations in each of them, 1 to 4.
        plan: solver, grid and clip to begin with; by default, the best of several on a few pairs.
        start: where sampling begins, such as "gaussian(file='start.safetensors', ratio=10)".
        pairs: of noise and converged picture, to learn from.
        batch: pairs per step.
        rate: learning rate of Adam, which decays to 0.
        steps: of Adam.
        minutes: a time budget; the number of steps follows from the rate of the first ones.
        guidance: the classifier-free guidance scale that it is learned for; by default that of
            the model's own plan.
        engine: what makes the converged pictures.
        frugal: less memory for more time (gradient checkpointing).
        seed: of the pairs and their order.
        out: the file to write.
    """
    from hasten.core.plan import Plan
    from hasten.learning.programs.fit import FitOptions
    from hasten.learning.programs.program import learn_program
    from hasten.learning.programs.reference_pairs import ReferenceOptions

    loaded = model_of(model, request, device)
    scale = float(loaded.plan.get("guidance", 1.0)) if guidance is None else guidance
    learned = learn_program(
        loaded,
        evaluations,
        out,
        width=width,
        base=None if plan is None else Plan.read(plan),
        start=start,
        references=ReferenceOptions(pairs=pairs, guidance=scale, engine=engine, seed=seed),
        options=FitOptions(batch=batch, rate=rate, steps=steps, frugal=frugal),
        minutes=minutes,
        quiet=quiet,
    )
    ode_error = learned.facts["ode_error"]
    use = Plan(program=str(out), guidance=scale, start=learned.start)
    print(
        f"wrote {out}: {learned.program.evaluations} evaluations, ODE error "
        f"{ode_error['before']:.4f} -> {ode_error['after']:.4f} on {ode_error['n']} held-out "
        f'pairs; use it with --plan "{use}"'
    )
