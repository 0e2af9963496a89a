"""``hasten learn student``."""

from __future__ import annotations

from pathlib import Path

from hasten.cli.options import NOTHING, Device, ModelName, Quiet, Request, model_of


def student(
    model: ModelName = "builtin:mnist",
    *,
    objective: str | None = None,
    evaluations: int | None = None,
    recipe: str | None = None,
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
    request: Request = NOTHING,
    lora: int | None = None,
    bits: str | None = None,
    seed: int | None = None,
    out: Path = Path("student"),
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Distil a model, the teacher, into a student of one to few network evaluations: a diffusers
    folder that a plan names, as in levers=student(folder='student'). A second run with the same
    --out resumes the first.

    Args:
        objective: consistency (the default), direct, progressive, trajectory, dmd, reflow,
            shortcut, consistency-distillation, consistency-training, improved-consistency or
            continuous-consistency, with options as in "consistency(q=8)".
        evaluations: network calls per picture that it is made for; 2 by default.
        recipe: a YAML file with these settings and more, or the name of a recipe that ships, such
            as mnist-student; `hasten train --fields` lists them.
        data: real pictures (a parquet file, a folder, a hub name), where the objective needs them;
            "teacher" for samples of the teacher in their place.
        pictures: how many to see.
        minutes: a time budget; the length of each stage follows from the rate of its first steps.
        batch: pictures per step.
        rate: learning rate of Adam, which decays to 0.
        precision: no or bf16.
        guidance: the teacher's classifier-free guidance scale, which is distilled into the student;
            by default that of the teacher's own plan.
        begin: the folder of a student whose weights this one begins with.
        start: where the student's sampling begins, as in a plan; see `hasten learn start`.
        trajectories: how many of the teacher's trajectories, from noise to picture, are made where
            the objective trains on them.
        lora: rank of a low-rank student, a small file; by default the whole network is trained.
        bits: quantization-aware training: the bits of weights and activations, as in w4a8, that
            layers are rounded to, so that `hasten learn quantize` of the student costs less.
        seed: of everything that is drawn.
        out: the folder to write.
    """
    from hasten.learning.students.recipe import StudentRecipe
    from hasten.learning.students.student import learn_student
    from hasten.training.recipe import load_recipe

    changes = {
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
    chosen = load_recipe(recipe, StudentRecipe, **changes)
    teacher = model_of(model, request, device)
    folder = learn_student(teacher, chosen, out, minutes=minutes, quiet=quiet)
    print(
        f"wrote {folder}; its model card shows what it measured. "
        f"In a plan of {model}: student={folder}"
    )
