"""``hasten learn start``."""

from __future__ import annotations

from pathlib import Path

from hasten.cli.options import NOTHING, Device, ModelName, Request, model_of


def start(
    model: ModelName = "builtin:mnist",
    *,
    kind: str = "gaussian",
    data: str | None = None,
    n: int | None = None,
    rank: int | None = None,
    components: int | None = None,
    recipe: str | None = None,
    minutes: float | None = None,
    request: Request = NOTHING,
    out: Path = Path("start.safetensors"),
    device: Device = "cpu",
) -> None:
    """Learn a cheap start, from which sampling begins below the highest noise level; a plan names
    the file, as in start=gaussian(file='start.safetensors', ratio=5).

    Args:
        kind: gaussian, mixture, or vae.
        data: a parquet file, a folder of pictures, or a hub name; by default, samples of the model.
        n: how many pictures; by default all of the data, or 2000 samples.
        rank: how many eigenvectors gaussian and mixture keep; by default, all.
        components: of a mixture, for each label; 4 by default.
        recipe: of a vae: a YAML file, or the name of a recipe that ships, such as mnist-vae.
        minutes: a time budget for training a vae.
        out: the file to write.
    """
    from hasten.learning.starts.recipe import VaeRecipe
    from hasten.learning.starts.starts import learn_start
    from hasten.training.recipe import load_recipe

    loaded = model_of(model, request, device)
    options = {"rank": rank, "components": components, "minutes": minutes}
    options["recipe"] = None if recipe is None else load_recipe(recipe, VaeRecipe)
    facts = learn_start(loaded, kind, out, data=data, n=n, **options)
    print(f"wrote {out}: {facts.kind} of {facts.n} pictures ({facts.data})")
