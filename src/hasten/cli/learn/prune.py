"""``hasten learn prune``."""

from __future__ import annotations

from pathlib import Path

from hasten.cli.options import Minutes, ModelName, Quiet, model_of

DEFAULTS = {
    "objective": "knowledge-distillation",
    "prune": 0.4,
    "evaluations": 10,
    "data": "teacher",
}


def prune(
    model: ModelName = "builtin:mnist",
    *,
    share: float | None = None,
    data: str | None = None,
    evaluations: int | None = None,
    recipe: str | None = None,
    pictures: int | None = None,
    minutes: Minutes = None,
    precision: str | None = None,
    seed: int | None = None,
    out: Path = Path("pruned"),
    device: str = "cpu",
    quiet: Quiet = False,
) -> None:
    """Remove the channels (of a U-Net) or blocks (of a transformer) that matter least, and train
    the rest to match the outputs of the whole network. Writes a diffusers folder that a plan names,
    as in levers=student(folder='pruned'), with any solver. A second run with the same --out resumes
    the first.

    Args:
        share: of the multiply-accumulates to remove, at least; 0.4 by default.
        data: real pictures (a parquet file, a folder, a hub name), or "teacher" for its samples.
        evaluations: of the plan that previews and FD use; 10 by default.
        recipe: a YAML file with these settings and more, or the name of a recipe that ships, such
            as mnist-pruned.
        pictures: how many to see.
        precision: no or bf16.
        seed: of everything that is drawn.
        out: the folder to write.
        device: cpu, cuda, cuda:1, mps; of what is measured before the training.
    """
    from hasten.learning.students.recipe import StudentRecipe
    from hasten.learning.students.student import learn_student
    from hasten.training.recipe import load_recipe

    options = {"prune": share, "evaluations": evaluations, "data": data}
    changes = {
        **({} if recipe else DEFAULTS),
        **{name: value for name, value in options.items() if value is not None},
        "pictures": pictures,
        "precision": precision,
        "seed": seed,
    }
    chosen = load_recipe(recipe, StudentRecipe, **changes)
    teacher = model_of(model, device=device)
    folder = learn_student(teacher, chosen, out, minutes=minutes, quiet=quiet)
    print(
        f"wrote {folder}; its model card shows what it measured. "
        f"In a plan of {model}: student={folder}"
    )
