"""``hasten learn``: what is learned for a model and used through a plan, one verb an objective."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import cyclopts

from hasten.cli_words import Parameter, PlanText, Prompts, Quiet, named

app = cyclopts.App(
    name="learn",
    help="Learn for a model what a plan can name: programs, starts, reuse.",
    help_format="plaintext",
)


@app.command
def program(
    model: str = "builtin:mnist",
    *,
    evaluations: int = 5,
    width: int = 1,
    plan: PlanText = None,
    start: str = "noise",
    pairs: int = 512,
    batch: int = 16,
    rate: float = 0.01,
    steps: int = 2000,
    minutes: float | None = None,
    guidance: float = 1.0,
    engine: str = "eager",
    frugal: Annotated[bool, Parameter(negative="")] = False,
    seed: int = 0,
    prompts: Prompts = None,
    out: Path = Path("program.json"),
    device: str = "cpu",
    quiet: Quiet = False,
) -> None:
    """Learn levels, times and coefficients of a program with few evaluations, weights frozen; a
    plan names the file, as in program=program.json. A second run with the same --out goes on where
    the first ended.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        evaluations: sequential network calls, 1 to 20.
        width: evaluations side by side in each of them, 1 to 4.
        plan: solver, grid and clip it begins as; the best of several on a few pairs without it.
        start: where it begins, such as "gaussian(file='start.safetensors', ratio=10)".
        pairs: of noise and converged picture, to learn from.
        batch: pairs a step.
        rate: of Adam, falling to 0.
        steps: of Adam.
        minutes: a budget, of the pairs too; steps are set from the rate of the first ones.
        guidance: the classifier-free guidance scale that it is learned for.
        engine: what makes the converged pictures.
        frugal: less memory for more time (gradient checkpointing).
        seed: of the pairs and their order.
        out: the file to write.
        device: cpu, cuda, cuda:1, mps.
        quiet: no progress bar.
    """
    from hasten.core.plan import Plan
    from hasten.learning.programs.fit import FitOptions
    from hasten.learning.programs.program import learn_program
    from hasten.learning.programs.reference_pairs import ReferenceOptions

    found = learn_program(
        named(model, prompts, device),
        evaluations,
        out,
        width=width,
        base=None if plan is None else Plan.read(plan),
        start=start,
        references=ReferenceOptions(pairs=pairs, guidance=guidance, engine=engine, seed=seed),
        options=FitOptions(batch=batch, rate=rate, steps=steps, frugal=frugal),
        minutes=minutes,
        quiet=quiet,
    )
    ode_error = found.facts["ode_error"]
    use = Plan(program=str(out), guidance=guidance, start=found.start)
    print(
        f"wrote {out}: {found.program.evaluations} evaluations, ODE error "
        f"{ode_error['before']:.4f} -> "
        f'{ode_error["after"]:.4f} on {ode_error["n"]} pairs held back; use it with --plan "{use}"'
    )


@app.command
def grid(
    model: str = "builtin:mnist",
    *,
    method: str = "gits",
    steps: int = 5,
    plan: PlanText = None,
    minutes: float | None = None,
    engine: str = "eager",
    seed: int = 0,
    prompts: Prompts = None,
    out: Path = Path("plan.json"),
    device: str = "cpu",
    quiet: Quiet = False,
) -> None:
    """Find the levels that suit a solver: from the curvature of a few trajectories (gits), from its
    coefficients alone (dmn), or one learned curve for every number of steps (bezier).

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        method: gits, dmn or bezier.
        steps: of the plan; bezier learns for half as many to as many.
        plan: the solver, and what else the plan is to be; ipndm without it.
        minutes: bezier's budget.
        engine: what runs the network while it is learned.
        seed: of the noise.
        out: the plan to write.
        device: cpu, cuda, cuda:1, mps.
        quiet: no progress bar.
    """
    from hasten.core.errors import require_choice
    from hasten.core.plan import Plan
    from hasten.learning.schedules.grid import learn_grid

    require_choice("method", method, ("gits", "dmn", "bezier"))
    given = Plan.read(plan) if plan is not None else Plan(solver="ipndm", grid="uniform")
    found = learn_grid(
        named(model, prompts, device),
        method,
        given.model_copy(update={"steps": steps}),
        run=out.with_name(out.name + ".run"),
        minutes=minutes,
        engine=engine,
        seed=seed,
        quiet=quiet,
    )
    found.write(out)
    print(f"wrote {out}: {found}")


@app.command
def start(
    model: str = "builtin:mnist",
    *,
    kind: str = "gaussian",
    data: str | None = None,
    n: int | None = None,
    rank: int | None = None,
    components: int | None = None,
    recipe: Path | None = None,
    minutes: float | None = None,
    prompts: Prompts = None,
    out: Path = Path("start.safetensors"),
    device: str = "cpu",
) -> None:
    """Learn where sampling can begin below the top of the noise schedule; a plan names the file, as
    in start=gaussian(file='start.safetensors', ratio=5).

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        kind: gaussian, mixture, or vae.
        data: a parquet file, a folder of pictures, or a hub name; without it, samples of the model.
        n: how many pictures; all of the data, or 2000 samples.
        rank: how many eigenvectors gaussian and mixture keep; without it, all.
        components: of a mixture, for each label; 4 without it.
        recipe: of a vae: a YAML file, see recipes/mnist-vae.yaml.
        minutes: how long to train a vae at most.
        out: the file to write.
        device: cpu, cuda, cuda:1, mps.
    """
    from hasten.learning.starts.recipe import VaeRecipe
    from hasten.learning.starts.starts import learn_start
    from hasten.training.recipe import load_recipe

    loaded = named(model, prompts, device)
    options = {"rank": rank, "components": components, "minutes": minutes}
    options["recipe"] = None if recipe is None else load_recipe(recipe, VaeRecipe)
    facts = learn_start(loaded, kind, out, data=data, n=n, **options)
    print(f"wrote {out}: {facts.kind} of {facts.n} pictures ({facts.data})")


@app.command
def student(
    model: str = "builtin:mnist",
    *,
    objective: str | None = None,
    evaluations: int | None = None,
    recipe: Path | None = None,
    data: str | None = None,
    pictures: int | None = None,
    minutes: float | None = None,
    batch: int | None = None,
    rate: float | None = None,
    precision: str | None = None,
    guidance: float | None = None,
    begin: str | None = None,
    start: str | None = None,
    trajectories: int | None = None,
    prompts: Prompts = None,
    lora: int | None = None,
    bits: str | None = None,
    seed: int | None = None,
    out: Path = Path("student"),
    device: str = "cpu",
    quiet: Quiet = False,
) -> None:
    """Distil a model into a student of one to few evaluations, a diffusers folder that a plan
    names, as in student=student. A second run with the same --out goes on where the first ended.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id: the teacher.
        objective: consistency (the default), direct, progressive, trajectory, dmd, reflow,
            shortcut, consistency-distillation, consistency-training, improved-consistency or
            continuous-consistency, with options as in "consistency(q=8)".
        evaluations: network calls a picture that it is made for; 2 without it.
        recipe: a YAML file with these settings and more, see recipes/mnist-student.yaml.
        data: real pictures (a parquet file, a folder, a hub name), where the objective needs them;
            "teacher" for samples of the teacher in their place.
        pictures: how many to see.
        minutes: a budget; each stage's length is set from the rate of its first steps.
        batch: pictures a step.
        rate: of Adam, falling to 0.
        precision: no or bf16.
        guidance: the teacher's classifier-free guidance scale, which the student takes over.
        begin: the folder of a student whose weights this one begins with.
        start: where the student's sampling begins, as in a plan; see `hasten learn start`.
        trajectories: of the teacher's from noise to picture, where the objective trains on them.
        lora: rank of a low-rank student, a small file; without it the whole network is trained.
        bits: of weights and activations, as in w4a8, that layers are rounded to while they train,
            so that `hasten learn quantize` of what comes out costs less.
        seed: of everything that is drawn.
        out: the folder to write.
        device: cpu, cuda, cuda:1, mps; of the teacher's trajectories.
        quiet: no progress bar.
    """
    from hasten.learning.students.recipe import StudentRecipe
    from hasten.learning.students.student import learn_student
    from hasten.training.recipe import load_recipe

    given = {
        "objective": objective,
        "evaluations": evaluations,
        "data": data,
        "pictures": pictures,
        "optimizer__batch": batch,
        "optimizer__rate": rate,
        "precision": precision,
        "guidance": guidance,
        "begin": begin,
        "start": start,
        "trajectories": trajectories,
        "lora": lora,
        "bits": bits,
        "seed": seed,
    }
    chosen = load_recipe(recipe, StudentRecipe, **given)
    teacher = named(model, prompts, device)
    folder = learn_student(teacher, chosen, out, minutes=minutes, quiet=quiet)
    print(f"wrote {folder}; its card says what it gives. In a plan of {model}: student={folder}")


@app.command
def reuse(
    model: str = "builtin:mnist",
    *,
    plan: PlanText = None,
    budget: float = 0.6,
    branch: Annotated[list[int] | None, Parameter(name="--branch", negative="")] = None,
    cut: Annotated[list[str] | None, Parameter(name="--reuse", negative="")] = None,
    n: int = 8,
    seed: int = 0,
    prompts: Prompts = None,
    out: Path = Path("reuse.json"),
    device: str = "cpu",
    quiet: Quiet = False,
) -> None:
    """Learn which evaluations of a plan shall reuse features: the mask of least ODE error under a
    budget of multiply-accumulates. Writes the plan with its mask.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        plan: a plan file, or key=value,...; without reuse.
        budget: multiply-accumulates, as a share of those of the plan without reuse.
        branch: a U-Net's branch to try, 0 the outermost; more than once for several, all without.
        cut: another reuse to try, such as "blocks(first=1)" or "encoder"; more than once for
            several.
        n: calibration pictures.
        seed: of their noise.
        out: the plan to write.
        device: cpu, cuda, cuda:1, mps.
        quiet: no line for each cut on stderr.
    """
    import sys

    from hasten.core.plan import Plan
    from hasten.learning.compression.cache import learn_cache_mask

    cuts = [f"deep(branch={number}, forecast={k})" for number in branch or [] for k in (0, 1)]
    found = learn_cache_mask(
        named(model, prompts, device),
        Plan() if plan is None else Plan.read(plan),
        budget=budget,
        cuts=[*cuts, *(cut or [])] or None,
        n=n,
        seed=seed,
        say=lambda line: None if quiet else print(line, file=sys.stderr, flush=True),
    )
    found.plan.write(out)
    print(
        f"wrote {out}: {found.macs:.2f} of the multiply-accumulates, ODE error "
        f"{found.ode_error:.4f} on "
        f"{found.n} pictures; plan: {found.plan}"
    )


@app.command
def freeze(
    model: str = "builtin:mnist",
    *,
    plan: PlanText = "solver=adaptive-ode,steps=20",
    n: int = 64,
    seed: int = 0,
    prompts: Prompts = None,
    out: Path = Path("plan.json"),
    device: str = "cpu",
) -> None:
    """Turn a plan whose solver chooses its steps into one that takes the same steps for every
    picture, and so has a Program.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        plan: a plan file, or key=value,...; its solver is adaptive-ode or adaptive-sde.
        n: how many pictures to calibrate on.
        seed: of their noise.
        out: the file to write.
        device: cpu, cuda, cuda:1, mps.
    """
    from hasten.core.plan import Plan
    from hasten.learning.programs.freeze import freeze as run

    loaded = named(model, prompts, device)
    frozen = run(loaded, Plan() if plan is None else Plan.read(plan), n=n, seed=seed)
    frozen.write(out)
    evaluations = frozen.trace(loaded.schedule).evaluations
    print(f"wrote {out}: {frozen.solver}, {evaluations} evaluations")
