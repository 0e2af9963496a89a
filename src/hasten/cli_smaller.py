"""``hasten learn`` of what makes an evaluation cheaper: fewer bits, fewer channels."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

from hasten.cli_learn import app
from hasten.cli_words import PlanText, Prompts, Quiet, named


@app.command
def quantize(
    model: str = "builtin:mnist",
    *,
    plan: PlanText = None,
    bits: str = "w8a8",
    ode_error: float | None = None,
    rows: str = "auto",
    n: int = 64,
    rounding: str = "gptq",
    prompts: Prompts = None,
    out: Path = Path("quantized.safetensors"),
    device: str = "cpu",
) -> None:
    """Put a network into few bits, with activation ranges that follow the steps of a plan; that
    plan then names the file, as in quantize=quantized.safetensors.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        plan: a plan file, or key=value,...: the one that is to run it.
        bits: of weights and activations: w8a8, w8a16 (for memory), w4a8; or a mix of two, the fewer
            first, as in w4a8,w8a8 or w8a8,float, chosen by how much each layer matters.
        ode_error: of a mix: how far its pictures may be from those of the float network.
        rows: steps (ranges of each step's own), static (one for all), how many groups, or auto:
            static where eight bits gain little by more.
        n: calibration pictures.
        rounding: of weights: gptq (they make up for each other's), or nearest, for a network that
            was trained in few bits.
        out: the file to write.
        device: cpu, cuda, cuda:1, mps.
    """
    from hasten.core.plan import Plan
    from hasten.learning.compression.quantize import learn_quantize

    loaded = named(model, prompts, device)
    given = Plan(**loaded.plan) if plan is None else Plan.read(plan)
    groups = int(rows) if rows.isdigit() else rows
    options = {"bits": bits, "ode_error": ode_error, "rows": groups, "n": n, "rounding": rounding}
    held = learn_quantize(loaded, given, out, **options)
    use = given.model_copy(update={"quantize": str(out), "engine": "openvino"})
    for name, moved in sorted(held.sensitivities.items(), key=lambda pair: -pair[1]):
        print(f"{moved:.4f}  {held.bits.get(name, 'float')}  {name}")
    kinds = Counter(map(str, held.bits.values()))
    layers = ", ".join(f"{count} in {kind}" for kind, count in sorted(kinds.items()))
    print(
        f"wrote {out}: {len(held.bits)} layers ({layers}), {held.rows} rows of ranges for "
        f'{len(held.times)} steps; use it with --plan "{use}"'
    )


@app.command
def prune(
    model: str = "builtin:mnist",
    *,
    share: float | None = None,
    data: str | None = None,
    evaluations: int | None = None,
    recipe: Path | None = None,
    pictures: int | None = None,
    minutes: float | None = None,
    precision: str | None = None,
    seed: int | None = None,
    out: Path = Path("pruned"),
    device: str = "cpu",
    quiet: Quiet = False,
) -> None:
    """Take the channels (of a U-Net) or blocks (of a transformer) away that matter least, and train
    what is left to answer as the whole network does. Writes a stock diffusers folder that a plan
    names, as in student=pruned, with any solver. A second run with the same --out goes on.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        share: of the multiply-accumulates to take away, at least; 0.4 without it.
        data: real pictures (a parquet file, a folder, a hub name), or "teacher" for its samples.
        evaluations: of the plan that its pictures are looked at with; 10 without it.
        recipe: a YAML file with these settings and more, see recipes/mnist-pruned.yaml.
        pictures: how many to see.
        minutes: a budget.
        precision: no or bf16.
        seed: of everything that is drawn.
        out: the folder to write.
        device: cpu, cuda, cuda:1, mps; of what is measured before the training.
        quiet: no progress bar.
    """
    from hasten.learning.students.recipe import StudentRecipe
    from hasten.learning.students.student import learn_student
    from hasten.training.recipe import load_recipe

    fresh = {"objective": "knowledge-distillation", "prune": 0.4}
    fresh |= {"evaluations": 10, "data": "teacher"}
    mine = {"prune": share, "evaluations": evaluations, "data": data}
    given = {
        **({} if recipe else fresh),
        **{name: value for name, value in mine.items() if value is not None},
        "pictures": pictures,
        "precision": precision,
        "seed": seed,
    }
    chosen = load_recipe(recipe, StudentRecipe, **given)
    folder = learn_student(named(model, device=device), chosen, out, minutes=minutes, quiet=quiet)
    print(f"wrote {folder}; its card says what it gives. In a plan of {model}: student={folder}")


@app.command
def narrow(
    model: str = "builtin:mnist",
    *,
    small: str,
    plan: PlanText = None,
    ode_error: float = 0.02,
    n: int = 16,
    prompts: Prompts = None,
    out: Path = Path("narrow.json"),
    device: str = "cpu",
) -> None:
    """Find the evaluations of a plan at which a smaller network will do, by how far each alone
    moves the pictures. Writes the plan with its column small_at.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        small: the folder of a student of it, such as `hasten learn prune` writes.
        plan: a plan file, or key=value,...; the model's own without it.
        ode_error: how far (root mean square, pixels in 0 to 1) pictures may be from those of the
            whole network.
        n: pictures.
        out: the plan to write.
        device: cpu, cuda, cuda:1, mps.
    """
    from hasten.core.plan import Plan
    from hasten.learning.compression.small import learn_narrow

    loaded = named(model, prompts, device)
    given = Plan(**loaded.plan) if plan is None else Plan.read(plan)
    found = learn_narrow(loaded, given, small, ode_error=ode_error, n=n)
    found.plan.write(out)
    for number, moved in enumerate(found.alone):
        where = "small" if (found.plan.small_at or ())[number] else "whole"
        print(f"{moved:.4f}  {where}  evaluation {number + 1}")
    print(
        f"wrote {out}: ODE error {found.ode_error:.4f} (n = {found.n}), {found.macs:.0%} of the "
        "multiply-accumulates"
    )
