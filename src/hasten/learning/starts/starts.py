"""``hasten learn start``: what a start below the top needs to know of a model's pictures."""

from __future__ import annotations

import dataclasses
import inspect
import tempfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch

from hasten.core.artifact import digest
from hasten.core.codec import codecs
from hasten.core.errors import UserError, nearest, require, require_choice, require_whole
from hasten.core.files import require_writable
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Seed, generator
from hasten.data.rows import Pictures, load_rows, picture_column
from hasten.learning.starts.recipe import VaeRecipe
from hasten.learning.starts.vae import AutoEncoder, Evidence, as_start
from hasten.sampling import build
from hasten.starts.files import Facts, write
from hasten.starts.normals import Normals
from hasten.training.budget import Deadline
from hasten.training.loop import Training
from hasten.training.objective import Encoded

KINDS = ("gaussian", "mixture", "vae")
SAMPLING = Plan(solver="dpmpp(order=3)", grid="log-snr", steps=20)
DENSE = 4096  # numbers of a latent up to which its covariance is made as such
ROUNDS = 30  # of the search for the centres of a mixture
FLOOR = 1e-6  # the least variance: pixels that never change have none


@dataclasses.dataclass(frozen=True, kw_only=True)
class Examples:
    """Pictures to learn from, uint8 (n, c, h, w), and their labels (n,) or None.

    ``data`` says in words where they came from; ``sha256`` of the weights that made them, None for
    real ones.
    """

    pictures: torch.Tensor
    labels: torch.Tensor | None
    data: str
    sha256: str | None = None

    def __len__(self) -> int:
        return len(self.pictures)

    def __getitem__(self, index: np.ndarray) -> torch.Tensor:
        return self.pictures[torch.from_numpy(index)]

    def facts(self, model: Model, kind: str) -> Facts:
        """What a file learned from them says."""
        return Facts.of(model, kind=kind, data=self.data, n=len(self), sha256=self.sha256)


def examples(
    model: Model, data: str | None = None, n: int | None = None, plan: Plan | None = None
) -> Examples:
    """Pictures in the shape of ``model``'s: of ``data`` (the first ``n``, or all), or without it
    ``n`` samples of the model itself by ``plan``, labels in turn.

    Raises:
        UserError: the data cannot be read, or lacks the labels that the model has.
    """
    if n is not None:
        require_whole("n", n, 2, 10_000_000)
    if data is not None:
        require(plan is None, "plan is for samples of the model, but data is given; drop one.")
        return _read(model, data, n)
    count = n or 2000
    labels = None if model.labels is None else torch.arange(count) % model.labels
    condition = None if labels is None else labels.tolist()
    made = build(model, plan or SAMPLING).sample(count, seed=Seed.STARTS, condition=condition)
    return Examples(
        pictures=(made * 255).round().to(torch.uint8),
        labels=labels,
        data=f"samples of {model.name} by {plan or SAMPLING}",
        sha256=digest(model),
    )


def _read(model: Model, data: str, n: int | None) -> Examples:
    rows = load_rows(data)
    rows = rows if n is None else rows.select(range(min(n, len(rows))))
    label = None
    if model.labels is not None:
        have = nearest("label", rows.column_names)
        require("label" in rows.column_names, f"data has no column 'label'. {have}")
        label = "label"
    dataset = Pictures(rows, model.picture_shape, picture_column(rows), label)
    if dataset.labels is not None and model.labels is not None:
        low, high = int(dataset.labels.min()), int(dataset.labels.max())
        require(
            low >= 0 and high < model.labels,
            f"data has labels from {low} to {high}, but model {model.name!r} has {model.labels}.",
        )
    pictures = dataset[np.arange(len(dataset))]
    return Examples(pictures=pictures, labels=dataset.labels, data=Path(data).name)


def learn_gaussian(
    model: Model, examples: Examples, out: Path, *, rank: int | None = None
) -> Facts:
    """Write the normal distribution of each label's pictures, and that of all, to ``out``.

    Args:
        rank: how many eigenvectors of the covariance to keep, the strongest; None is all.

    Raises:
        UserError: a label with fewer than two pictures, or a rank that is none.
    """
    x, labels = _latents(model, examples), examples.labels
    groups = [] if labels is None else [(i, labels == i) for i in range(model.labels or 0)]
    groups.append((-1, torch.ones(len(x), dtype=torch.bool)))
    return _written(model, examples, out, "gaussian", groups, x, rank)


def learn_mixture(
    model: Model,
    examples: Examples,
    out: Path,
    *,
    rank: int | None = None,
    components: int = 4,
) -> Facts:
    """Write ``components`` normal distributions for each label (for all pictures, where the model
    has none) to ``out``: the groups that k-means finds.

    Raises:
        UserError: as :func:`learn_gaussian`, or a group with fewer than two pictures.
    """
    require_whole("components", components, 1, 1000)
    x, labels = _latents(model, examples), examples.labels
    of = torch.full((len(x),), -1) if labels is None else labels
    groups = []
    for label in [-1] if labels is None else range(model.labels or 0):
        mine = (of == label).nonzero()[:, 0]
        _require_enough(label, len(mine), 2 * components)
        group = _centred(x[mine], components)
        for number in range(components):
            here = torch.zeros(len(x), dtype=torch.bool)
            here[mine[group == number]] = True
            groups.append((label, here))
    return _written(model, examples, out, "mixture", groups, x, rank)


def learn_vae(
    model: Model,
    examples: Examples,
    out: Path,
    *,
    recipe: VaeRecipe | None = None,
    minutes: float | None = None,
    quiet: bool = False,
) -> Facts:
    """Train the autoencoder of ``recipe`` and write its decoder to ``out``.

    Raises:
        UserError: a recipe for another codec, shape or number of labels than the model's.
    """
    require(recipe is not None, "kind vae takes a recipe, such as recipes/mnist-vae.yaml.")
    assert recipe is not None
    theirs = recipe.codec, recipe.data.shape, recipe.labels
    mine = codecs.text(model.codec), model.picture_shape, model.labels
    require(
        (codecs.canonical(theirs[0]), *theirs[1:]) == mine,
        f"recipe {recipe.name!r} is for codec, shape and labels {theirs}, but model "
        f"{model.name!r} has {mine}.",
    )
    for label in range(model.labels or 0):
        assert examples.labels is not None
        _require_enough(label, int((examples.labels == label).sum()), 2)
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(recipe.seed)
        net = AutoEncoder(model.shape, recipe.code, recipe.width, model.labels)
    with tempfile.TemporaryDirectory() as folder:
        training = Training(
            recipe=recipe,
            objective=Evidence(code=recipe.code),
            net=net,
            rows=Encoded(pictures=examples, codec=model.codec, flip=recipe.data.flip),
            run=Path(folder),
            deadline=None if minutes is None else Deadline.after(minutes),
            quiet=quiet,
        )
        training.fit_().put_(net)
    x0 = _latents(model, examples).view(-1, *model.shape)
    facts = dataclasses.replace(examples.facts(model, "vae"), pictures_seen=training.seen)
    write(out, facts, as_start(net.eval().cpu(), x0, examples.labels))
    return facts


LEARN: dict[str, Callable[..., Facts]] = {
    "gaussian": learn_gaussian,
    "mixture": learn_mixture,
    "vae": learn_vae,
}


def learn_start(
    model: Model,
    kind: str,
    out: Path,
    *,
    data: str | None = None,
    n: int | None = None,
    **options: object,
) -> Facts:
    """Learn a start of ``kind`` for ``model`` and write it to ``out``; see :func:`examples`, and
    the function of the kind for its ``options`` (None is one not given).

    Raises:
        UserError: an option that the kind does not have.
    """
    require_choice("kind", kind, KINDS)
    require_writable(out)
    chosen = {name: value for name, value in options.items() if value is not None}
    allowed = inspect.signature(LEARN[kind]).parameters
    for name in chosen:
        require(name in allowed, f"{name} is given, but kind {kind!r} has no such option; drop it.")
    return LEARN[kind](model, examples(model, data, n), out, **chosen)


def _latents(model: Model, examples: Examples) -> torch.Tensor:
    """The pictures in the network's space, flat, float32 (n, d)."""
    parts = examples.pictures.split(1000)
    with torch.inference_mode():
        rows = [model.codec.encode(part.float() / 255).flatten(1) for part in parts]
    return torch.cat(rows).clone()


def _written(
    model: Model,
    examples: Examples,
    out: Path,
    kind: str,
    groups: list[tuple[int, torch.Tensor]],
    x: torch.Tensor,
    rank: int | None,
) -> Facts:
    d = x.shape[1]
    if rank is None:
        require(d <= DENSE, f"a latent has {d} numbers, too many for all eigenvectors; give rank.")
        rank = d
    require_whole("rank", rank, 1, d)
    for label, here in groups:
        _require_enough(label, int(here.sum()), 2)
    fitted = [moments(x[here], rank) for _, here in groups]
    mean, axes, variances, rest = (torch.stack(values) for values in zip(*fitted, strict=True))
    normals = Normals(
        mean=mean,
        axes=axes,
        variances=variances,
        rest=rest,
        weight=torch.tensor([float(here.double().mean()) for _, here in groups]),
        label=torch.tensor([label for label, _ in groups]),
    )
    facts = examples.facts(model, kind)
    write(out, facts, normals.tensors())
    return facts


def moments(x: torch.Tensor, rank: int) -> tuple[torch.Tensor, ...]:
    """Mean (d,), the ``rank`` strongest eigenvectors (rank, d) of the covariance of ``x`` (n, d)
    with their eigenvalues (rank,), and the mean of the eigenvalues that are left."""
    n, d = x.shape
    mean = x.double().mean(0)
    apart = x - mean.float()
    total = apart.double().square().sum() / n
    if d <= DENSE:
        wide = apart.double()
        values, vectors = torch.linalg.eigh(wide.T @ wide / n)
        values, axes = values.flip(0)[:rank], vectors.flip(1)[:, :rank].T
    else:
        available = min(rank, n - 1)
        with torch.random.fork_rng(devices=[]):
            torch.default_generator.manual_seed(Seed.STARTS)
            _, roots, vectors = torch.svd_lowrank(apart, q=min(available + 10, n, d), niter=4)
        values, axes = roots[:available].double().square() / n, vectors[:, :available].T
        require(available == rank, f"rank is {rank}, but {n} pictures have {available} at most.")
    rest = (total - values.sum()).clamp(min=0) / max(d - rank, 1)
    floors = values.clamp(min=FLOOR), rest.clamp(min=FLOOR)
    return mean.float(), axes.float(), *(value.float() for value in floors)


def _centred(x: torch.Tensor, count: int) -> torch.Tensor:
    """Which of ``count`` groups each of ``x`` (n, d) belongs to: Lloyd's algorithm, from centres
    chosen far from each other."""
    draws = generator(Seed.STARTS, len(x), count)
    centres = x[torch.randint(len(x), (1,), generator=draws)]
    while len(centres) < count:
        far = torch.cdist(x, centres).amin(1).square()
        centres = torch.cat([centres, x[torch.multinomial(far + FLOOR, 1, generator=draws)]])
    group = torch.zeros(len(x), dtype=torch.long)
    for _ in range(ROUNDS):
        group = torch.cdist(x, centres).argmin(1)
        for number in range(count):
            if bool((group == number).any()):
                centres[number] = x[group == number].mean(0)
    return group


def _require_enough(label: int, have: int, least: int) -> None:
    of = "the data" if label < 0 else f"label {label}"
    if have < least:
        raise UserError(f"{of} has {have} pictures; a start takes {least} or more. Give more data.")
