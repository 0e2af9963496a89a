"""Starts below the top of a path: exact where data are Gaussian, noised as the path says."""

from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

import hasten
from hasten import Plan, build
from hasten.cli import _status
from hasten.core.condition import Condition
from hasten.core.errors import UserError
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import EDM, NoiseSchedule
from hasten.core.random_streams import generator
from hasten.learning.starts.recipe import VaeRecipe
from hasten.learning.starts.starts import (
    Examples,
    learn_gaussian,
    learn_mixture,
    learn_start,
    learn_vae,
    moments,
)
from hasten.media.pictures import save_png
from hasten.sampling import Sampler
from hasten.starts import Generator, offer
from hasten.starts.early import second
from hasten.starts.files import Facts, read, write
from hasten.starts.normals import NAMES, Normals
from hasten.training.recipe import load_recipe

SHAPE, D = (1, 4, 4), 16


class ExactNet(torch.nn.Module):
    """What a network would answer that has learned Normal(mean, covariance) perfectly."""

    def __init__(self, mean: torch.Tensor, covariance: torch.Tensor, schedule: NoiseSchedule):
        super().__init__()
        self.mean, self.schedule = mean, schedule
        self.values, self.vectors = torch.linalg.eigh(covariance.double())

    def forward(self, x, t, condition=None):
        place = np.exp(4 * float(t[0])) if isinstance(self.schedule, EDM) else float(t[0]) / 1000
        level = self.schedule.at(place)
        alpha, sigma = level.alpha, level.sigma
        gain = alpha * self.values / (alpha**2 * self.values + sigma**2)
        apart = (x.double().flatten(1) - alpha * self.mean) @ self.vectors
        return (self.mean + (gain * apart) @ self.vectors.T).float().view(x.shape)


def exact_model(schedule: str = "vp-linear") -> Model:
    """A model whose pictures are exactly normal, with a covariance of every size of eigenvalue."""
    root = torch.randn(D, D, generator=torch.Generator().manual_seed(3)) / 6
    mean, on = torch.linspace(-0.5, 0.5, D), hasten.schedule(schedule)
    net = ExactNet(mean, root @ root.T + 0.01 * torch.eye(D), on)
    return Model(net=net, schedule=on, prediction=hasten.prediction("x0"), shape=SHAPE)


def begun(sampler: Sampler, noise: torch.Tensor, labels: torch.Tensor | None = None):
    """What a run of ``sampler`` begins with, for these labels or for none."""
    n = len(noise)
    condition = Condition.none(n) if labels is None else Condition.labels_of(labels)
    return sampler.begin(noise, sampler.levels[0], condition)


def normals(model: Model, **changes: torch.Tensor) -> Normals:
    net = model.net
    assert isinstance(net, ExactNet)
    given = {
        "mean": net.mean[None],
        "axes": net.vectors.T[None],
        "variances": net.values[None],
        "rest": torch.tensor([1.0]),
        "weight": torch.tensor([1.0]),
        "label": torch.tensor([-1]),
    }
    return Normals(**{name: value.float() for name, value in {**given, **changes}.items()})


def start_file(folder, model: Model, kind: str = "gaussian", **changes: torch.Tensor) -> str:
    file = folder / f"{kind}.safetensors"
    facts = Facts.of(model, kind=kind, data="made up", n=2)
    write(file, facts, normals(model, **changes).tensors())
    return str(file)


@pytest.mark.parametrize("schedule", ["vp-linear", "flow", "edm"])
@pytest.mark.parametrize("ratio", [20.0, 1.0, 0.1])
def test_a_gaussian_start_ends_where_the_walk_from_the_top_does(tmp_path, schedule, ratio):
    model = exact_model(schedule)
    file = start_file(tmp_path, model)
    noise = torch.randn(8, *SHAPE)

    def made(**given):
        plan = Plan(solver="dpmpp(order=3)", steps=150, **given)
        return build(model, plan).sample(noise=noise, raw=True)

    # Third order in 150 steps, float32; the axes in half precision turn the start by 2^-11.
    assert (made(start=f"gaussian(file={file!r}, ratio={ratio})") - made()).abs().max() < 4e-3


def test_a_gaussian_start_has_the_law_of_the_data_at_its_level(tmp_path):
    model = exact_model()
    start = f"gaussian(file={start_file(tmp_path, model)!r}, ratio=0.5)"
    sampler = build(model, Plan(start=start))
    x = begun(sampler, torch.randn(40_000, *SHAPE)).flatten(1).double()
    level = sampler.levels[0]
    assert level.ratio == pytest.approx(0.5)
    net = model.net
    covariance = net.vectors @ torch.diag(net.values) @ net.vectors.T
    want = level.alpha**2 * covariance + level.sigma**2 * torch.eye(D)
    # The mean of 40,000 draws of variance below 1 lies within 5 / sqrt(40,000), 5 sigma.
    assert (x.mean(0) - level.alpha * net.mean).abs().max() < 0.025
    assert (torch.cov(x.T) - want).abs().max() < 0.05


def labelled(n: int = 400) -> Examples:
    """Grey pictures of two labels: dark ones of low, bright ones of high contrast."""
    labels = torch.arange(n) % 2
    base = torch.where(labels == 0, 60.0, 180.0).view(-1, 1, 1, 1)
    wide = torch.where(labels == 0, 5.0, 20.0).view(-1, 1, 1, 1)
    pictures = (base + wide * torch.randn(n, 1, 8, 8)).clamp(0, 255).to(torch.uint8)
    return Examples(pictures=pictures, labels=labels, data="two greys")


def test_each_label_has_its_own_gaussian_and_no_label_that_of_all(tiny_model, tmp_path):
    model, given = tiny_model(labels=2), labelled()
    learn_gaussian(model, given, tmp_path / "g.safetensors", rank=3)
    start = f"gaussian(file={str(tmp_path / 'g.safetensors')!r}, ratio=0.05)"
    sampler = build(model, Plan(start=start))
    x0 = model.codec.encode(given.pictures.float() / 255)
    for condition, mine in ((0, given.labels == 0), (1, given.labels == 1), (2, given.labels >= 0)):
        labels = torch.full((2000,), condition)
        noise = torch.randn(2000, *model.shape)
        x = begun(sampler, noise, labels).mean(dim=(1, 2, 3))
        # All pictures together lie along one direction: their means are 0.47 apart; 5 sigma.
        apart = 5 * float(x.std()) / 2000**0.5
        assert (x.mean() - x0[mine].mean()).abs() < apart + 1e-3
        assert x.std() == pytest.approx(float(x0[mine].mean(dim=(1, 2, 3)).std()), abs=0.03)
    none = begun(sampler, noise)
    assert torch.equal(none.mean(dim=(1, 2, 3)), x)


def test_moments_of_low_rank_keep_the_strongest_directions_and_the_total_variance():
    x = torch.randn(3000, 12) @ torch.randn(12, 12)
    mean, axes, variances, rest = moments(x, 4)
    values = np.linalg.eigvalsh(np.cov(x.double().numpy().T, bias=True))[::-1]
    assert np.allclose(mean, x.mean(0), atol=1e-5)
    assert np.allclose(variances, values[:4], rtol=1e-5)
    assert float(rest) == pytest.approx(values[4:].mean(), rel=1e-4)
    assert (axes @ axes.T - torch.eye(4)).abs().max() < 1e-6
    wide = torch.randn(40, 5000) * 0.1  # more numbers than a dense covariance is made for
    wide[:, 0] += 10 * torch.randn(40)
    _, axes, variances, _ = moments(wide, 2)
    assert axes[0, 0].abs() > 0.95
    assert float(variances[0]) == pytest.approx(float(wide[:, 0].var(correction=0)), rel=0.1)


def two_normals() -> Normals:
    return Normals(
        mean=torch.stack([torch.full((D,), -0.8), torch.full((D,), 0.6)]),
        axes=torch.linalg.qr(torch.randn(2, D, 3)).Q.transpose(1, 2),
        variances=torch.rand(2, 3) + 0.2,
        rest=torch.tensor([0.02, 0.05]),
        weight=torch.tensor([0.3, 0.7]),
        label=torch.tensor([0, 0]),
    )


def test_the_mixture_believes_what_bayes_says():
    held, level = two_normals(), Level(0.0, 0.6, 0.8)
    x = torch.randn(5, D)
    parts, x0 = [], []
    for i in range(2):
        axes = held.axes[i]
        inner = torch.diag(held.variances[i] - held.rest[i])
        covariance = axes.T @ inner @ axes + held.rest[i] * torch.eye(D)
        wide = level.alpha**2 * covariance + level.sigma**2 * torch.eye(D)
        law = torch.distributions.MultivariateNormal(level.alpha * held.mean[i], wide)
        parts.append(law.log_prob(x) + held.weight[i].log())
        apart = x - level.alpha * held.mean[i]
        x0.append(held.mean[i] + level.alpha * apart @ torch.linalg.inv(wide) @ covariance)
    share = torch.stack(parts, 1).softmax(1)
    want = share[:, :1] * x0[0] + share[:, 1:] * x0[1]
    found = held.denoise(x, level, held.weight.log().expand(5, 2))
    assert (found - want).abs().max() < 1e-4  # float32 sums over 16 numbers


def test_a_mixture_of_one_is_the_gaussian(tmp_path):
    model, noise = exact_model(), torch.randn(8, *SHAPE)

    def with_options(kind, options):
        file = start_file(tmp_path, model, kind)
        sampler = build(model, Plan(start=f"{kind}(file={file!r}, ratio=0.8{options})"))
        return begun(sampler, noise)

    exact = with_options("gaussian", "")
    coarse, fine = (
        (with_options("mixture", f", steps={steps}") - exact).abs().max() for steps in (50, 200)
    )
    # A solver of second order: four times the steps, a sixteenth of the error.
    assert fine < 2e-3
    assert fine < coarse / 8


def test_a_drawn_mixture_has_the_law_of_the_mixture(tmp_path):
    model, noise = exact_model(), torch.randn(4000, *SHAPE, generator=generator(5))
    weight = torch.tensor([0.3, 0.7])
    file = tmp_path / "m.safetensors"
    held = {
        "mean": torch.stack([torch.full((16,), -2.0), torch.full((16,), 1.0)]),
        "axes": torch.eye(16)[None, :2].expand(2, 2, 16),
        "variances": torch.tensor([[0.5, 0.1], [0.2, 0.3]]),
        "rest": torch.tensor([0.05, 0.15]),
        "weight": weight,
        "label": torch.tensor([-1, -1]),
    }
    write(file, Facts.of(model, kind="mixture", data="", n=2), held)
    sampler = build(model, Plan(start=f"mixture(file={str(file)!r}, ratio=0.5, steps=0)"))
    level = sampler.levels[0]
    x = begun(sampler, noise).flatten(1)
    assert torch.equal(x[:7], begun(sampler, noise[:7]).flatten(1))
    second = x.mean(1) > -0.5 * level.alpha
    assert float(second.float().mean()) == pytest.approx(0.7, abs=0.03)
    for number, mine in enumerate((~second, second)):
        group = x[mine]
        assert (group.mean(0) - level.alpha * held["mean"][number]).abs().max() < 0.08
        variances = torch.cat([held["variances"][number], held["rest"][number].expand(14)])
        want = level.alpha**2 * variances + level.sigma**2
        assert (group.var(0) / want - 1).abs().max() < 0.2


@pytest.mark.parametrize("steps", [0, 8])
def test_a_mixture_goes_to_the_label_that_is_wanted(tiny_model, tmp_path, steps):
    model, given = tiny_model(labels=2), labelled()
    learn_mixture(model, given, tmp_path / "m.safetensors", rank=2, components=2)
    start = f"mixture(file={str(tmp_path / 'm.safetensors')!r}, ratio=0.05, steps={steps})"
    sampler = build(model, Plan(start=start))
    x0 = model.codec.encode(given.pictures.float() / 255)
    noise = torch.randn(300, *model.shape)
    means = []
    for condition in (0, 1):
        x = begun(sampler, noise, torch.full((300,), condition))
        assert (x.mean() - x0[given.labels == condition].mean()).abs() < 0.02
        means.append(x.mean())
    every = begun(sampler, noise).mean(dim=(1, 2, 3))
    bright = every > (means[0] + means[1]) / 2
    assert 0.35 < bright.double().mean() < 0.65  # half of the pictures; 5 sigma at n = 300


def test_generated_pictures_are_noised_with_alpha_and_sigma():
    model = exact_model()
    offer("grey", lambda noise, condition: torch.full((len(noise), *SHAPE), 0.9))
    sampler = build(model, Plan(start="generator(source='offered:grey', ratio=0.7)"))
    level, noise = sampler.levels[0], torch.randn(50, *SHAPE)
    x = begun(sampler, noise)
    # 0.9 is 0.8 in the network's space, and the noise is the caller's.
    assert (x - (level.alpha * 0.8 + level.sigma * noise)).abs().max() < 1e-6


def test_a_generator_is_given_other_noise_than_it_is_noised_with():
    model, n = exact_model(), 8000
    offer("echo", lambda noise, condition: (noise * 0.1 + 0.5).clamp(0, 1))
    sampler = build(model, Plan(start="generator(source='offered:echo', ratio=1.0)"))
    level = sampler.levels[0]
    x = begun(sampler, torch.randn(n, *SHAPE))
    want = level.alpha**2 * 0.2**2 + level.sigma**2
    # Variances add (amplitudes would give 1.4 times as much); 5 sigma of 128,000 draws is 2%.
    assert float(x.var()) == pytest.approx(want, rel=0.02)


def test_what_another_plan_makes_is_noised_with_alpha_and_sigma():
    model, n = exact_model(), 8000
    start = "plan(plan='solver=dpmpp(order=3),steps=40', ratio=0.5)"
    sampler = build(model, Plan(start=start))
    level, net = sampler.levels[0], model.net
    x = begun(sampler, torch.randn(n, *SHAPE)).flatten(1)
    own = (net.vectors @ torch.diag(net.values) @ net.vectors.T).diagonal()
    want = level.alpha**2 * own + level.sigma**2
    # 5 sigma of a variance of 8,000 draws is 8%; the same noise twice would give up to twice.
    assert ((x.var(0) - want).abs() / want).max() < 0.08


def test_second_noise_is_standard_normal_and_independent():
    noise = torch.randn(4000, 1, 8, 8)
    other = second(noise)
    assert torch.equal(other[3:7], second(noise[3:7]))
    together = torch.corrcoef(torch.stack([noise.flatten(), other.flatten()]))
    assert together[0, 1].abs() < 5 / len(noise.flatten()) ** 0.5
    assert other.std() == pytest.approx(1.0, abs=5e-3)


def test_the_evaluations_of_the_plan_that_starts_are_counted(tiny_model):
    start = "plan(plan='solver=heun,steps=3', ratio=1.0)"
    sampler = build(tiny_model(), Plan(solver="ddim", steps=4, start=start))
    calls = []
    sampler.net.__class__ = type("Counted", (sampler.net.__class__,), {"__call__": counted(calls)})
    sampler.sample(2)
    assert sampler.evaluations == len(calls) == 9  # heun's last step is one of Euler


def counted(calls):
    def call(self, *given):
        calls.append(1)
        return type(self).__mro__[1].__call__(self, *given)

    return call


def test_plan_text_holds_plan_text():
    inner = "steps=3,solver=unipc(order=3)"
    plan = Plan.read(f"steps=4,start=plan(plan='{inner}', ratio=2.0),clip=1.0")
    assert plan == Plan(steps=4, clip=1.0, start=f"plan(plan={inner!r}, ratio=2.0)")
    assert Plan.read(str(plan)) == plan
    named = Plan.read("start=generator(source='a, b) (c', ratio=2.0),steps=4")
    assert named.start == "generator(ratio=2.0, source='a, b) (c')"


def starts_for(folder, model) -> list[str]:
    given = labelled()
    learn_gaussian(model, given, folder / "g.safetensors", rank=2)
    learn_mixture(model, given, folder / "m.safetensors", rank=2, components=2)
    for label in (0, 1):
        for i in range(10):
            save_png(torch.rand(1, 8, 8), folder / "pictures" / str(label) / f"{i}.png")
    offer("echo", lambda noise, condition: (noise * 0.1 + 0.5).clamp(0, 1))
    return [
        f"gaussian(file={str(folder / 'g.safetensors')!r}, ratio=3.0)",
        f"mixture(file={str(folder / 'm.safetensors')!r}, ratio=3.0)",
        f"generator(source={str(folder / 'pictures')!r}, ratio=2.0)",
        "generator(source='offered:echo', ratio=2.0)",
        "plan(plan='solver=ddim,steps=2', ratio=2.0)",
    ]


@pytest.mark.slow
def test_a_picture_depends_on_its_seed_and_number_alone(tiny_model, tmp_path):
    model = tiny_model(labels=2)
    for start in starts_for(tmp_path, model):
        sampler = build(model, Plan(steps=3, start=start))
        for condition in (None, [0, 1, 0, 1, 0]):
            whole = sampler.sample(5, seed=4, condition=condition)
            part = None if condition is None else condition[3:]
            assert torch.equal(whole, sampler.sample(5, seed=4, condition=condition))
            # Other batch sizes run other kernels: float32 sums in another order.
            assert (
                sampler.sample(5, seed=4, condition=condition, batch=2) - whole
            ).abs().max() < 1e-4
            assert (
                sampler.sample(2, seed=4, first=3, condition=part) - whole[3:]
            ).abs().max() < 1e-4
            assert (sampler.sample(5, seed=5, condition=condition) - whole).abs().max() > 1e-2
        text = str(sampler.plan)
        assert Plan.read(text) == sampler.plan


RECIPE = """
objective: vae
name: greys
data: {source: none, label: label, shape: [1, 8, 8]}
labels: 2
code: 2
width: 8
optimizer: {rate: 5.0e-3, batch: 32, warmup: 100, decay: linear}
pictures: 4000
ema: 0.9
channels_last: false
preview_every: 0
"""


def test_a_vae_gives_each_label_its_pictures_and_the_right_spread(tiny_model, tmp_path):
    (tmp_path / "vae.yaml").write_text(RECIPE)
    model, given, file = tiny_model(labels=2), labelled(), tmp_path / "v.safetensors"
    learn_vae(model, given, file, recipe=load_recipe(tmp_path / "vae.yaml", VaeRecipe), quiet=True)
    sampler = build(model, Plan(steps=2, start=f"vae(file={str(file)!r}, ratio=0.05)"))
    x0 = model.codec.encode(given.pictures.float() / 255)
    for condition in (0, 1):
        mine = x0[given.labels == condition]
        x = begun(sampler, torch.randn(400, *model.shape), torch.tensor([condition] * 400))
        assert (x.mean() - mine.mean()).abs() < 0.05
    every = begun(sampler, torch.randn(400, *model.shape))
    # Label, code, what the decoder leaves and the level together: the variance of the data.
    assert every.std() == pytest.approx(float((x0.var() + 0.05**2).sqrt()), rel=0.1)
    whole = sampler.sample(4, condition=[0, 1, 0, 1])
    assert (sampler.sample(1, first=2, condition=0) - whole[2]).abs().max() < 1e-4
    with pytest.raises(UserError, match="has no such option"):
        learn_start(model, "vae", file, rank=3)
    with pytest.raises(UserError, match="kind vae takes a recipe"):
        learn_vae(model, given, file)
    recipe = load_recipe(tmp_path / "vae.yaml", VaeRecipe, codec="pixel-unshuffle")
    with pytest.raises(UserError, match="is for codec"):
        learn_vae(model, given, file, recipe=recipe)


@pytest.mark.parametrize(
    ("start", "why"),
    [
        ("gaussian(file='FILE', ratio=1e6)", "ratio is 1e\\+06; the levels of this schedule have"),
        ("gaussian(file='FILE', ratio=1e-4)", "give one between"),
        ("gaussian(file='FILE', ratio=-1)", "ratio is -1; it takes a number"),
        ("gaussian(file='FILE')", "lacks option 'ratio'; write it as gaussian"),
        ("gaussian(file='lost', ratio=1)", "file is 'lost', which is no file"),
        ("gaussian(file=3, ratio=1)", "it takes a path in quotes"),
        ("mixture(file='FILE', ratio=1)", "of kind 'gaussian'; this one is 'mixture'"),
        ("gaussian(file='TEXT', ratio=1)", "was not written by `hasten learn start`"),
        ("gaussian(file='PLAIN', ratio=1)", "was not written by `hasten learn start`"),
        ("mixture(file='FILE', ratio=1, steps=-1)", "steps is -1; it takes a whole number"),
        ("generator(source='lost', ratio=1)", "source is 'lost', which is no folder"),
        ("generator(source='EMPTY', ratio=1)", "holds 3 pictures; it takes 10 or more"),
        ("generator(source='WRONG', ratio=1)", "has 9x8 pixels; the model's pictures have 8x8"),
        ("generator(source='offered:nobody', ratio=1)", "is 'offered:nobody'"),
        ("plan(plan='solver=ddpm,steps=3', ratio=1)", "draws noise on the way"),
        ("plan(plan='engine=compile', ratio=1)", "sets engine, but it runs with that of"),
        ("plan(plan='nonsense', ratio=1)", "is no file that can be read"),
        ("plan(plan=3, ratio=1)", "it takes text"),
    ],
)
def test_what_cannot_start_is_refused_in_one_line(tiny_model, tmp_path, start, why):
    model = tiny_model()
    given = dataclasses.replace(labelled(60), labels=None)
    learn_gaussian(model, given, tmp_path / "FILE", rank=2)
    (tmp_path / "TEXT").write_text("no tensors")
    save_file({"a": torch.zeros(1)}, str(tmp_path / "PLAIN"))
    for i in range(12):
        save_png(torch.rand(1, 9, 8), tmp_path / "WRONG" / f"{i}.png")
        if i < 3:
            save_png(torch.rand(1, 8, 8), tmp_path / "EMPTY" / f"{i}.png")
    for name in ("FILE", "TEXT", "PLAIN", "WRONG", "EMPTY"):
        start = start.replace(f"'{name}'", repr(str(tmp_path / name)))
    with pytest.raises(UserError, match=why) as caught:
        build(model, Plan(start=start))
    assert "\n" not in str(caught.value)


def test_a_ratio_that_is_no_number_is_refused():
    with pytest.raises(UserError, match="ratio is nan; it takes a number"):
        Generator(source="x", ratio=float("nan"))


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (
            lambda noise, condition: torch.rand(len(noise), 3, 8, 8),
            r"gave \(2, 3, 8, 8\); it has to",
        ),
        (lambda noise, condition: noise * 5, r"gave values from -?\d.* pictures lie in \[0, 1\]"),
        (lambda noise, condition: noise * float("nan"), "gave values from nan to nan"),
        (lambda noise, condition: "a picture", "gave str; it has to give pictures"),
    ],
)
def test_a_generator_that_gives_no_pictures_is_refused(tiny_model, make, why):
    offer("wrong", make)
    sampler = build(tiny_model(), Plan(steps=2, start="generator(source='offered:wrong', ratio=1)"))
    with pytest.raises(UserError, match=why):
        sampler.sample(2)


def test_a_start_for_another_model_is_refused(tiny_model, tmp_path):
    file = tmp_path / "g.safetensors"
    model = tiny_model(labels=2)
    learn_gaussian(model, labelled(), file, rank=2)
    plan = Plan(start=f"gaussian(file={str(file)!r}, ratio=1.0)")
    with pytest.raises(UserError, match="labels is 2, but that of 'tiny' is 3"):
        build(tiny_model(labels=3), plan)
    with pytest.raises(UserError, match=r"shape is \(1, 8, 8\), but that of 'module'"):
        build(exact_model(), plan)


def test_a_start_from_a_models_own_samples_holds_for_its_weights_alone(tiny_model, tmp_path):
    file = tmp_path / "g.safetensors"
    model = tiny_model(labels=2)
    facts = learn_start(model, "gaussian", file, n=24, rank=2)
    assert facts.n == 24
    assert "samples of tiny" in facts.data
    start = f"gaussian(file={str(file)!r}, ratio=1.0)"
    assert build(model, Plan(start=start)).sample(1, condition=0).isfinite().all()
    other = tiny_model(labels=2)
    next(iter(other.net.parameters())).data.add_(1.0)
    with pytest.raises(UserError, match="start 'gaussian' was learned for other weights"):
        build(other, Plan(start=start))
    build(other, Plan(start=start, other_weights=True))


def test_a_damaged_file_is_refused(tiny_model, tmp_path):
    model, file = tiny_model(), tmp_path / "g.safetensors"
    learn_gaussian(model, dataclasses.replace(labelled(60), labels=None), file, rank=2)
    held = read(str(file), "gaussian", NAMES)
    for change in ({"mean": torch.full((1, 64), torch.nan)}, {"axes": torch.zeros(1, 2, 5)}):
        write(file, held.facts, {**held.tensors, **change})
        with pytest.raises(UserError, match="learn it again"):
            build(model, Plan(start=f"gaussian(file={str(file)!r}, ratio=1.0)"))


def test_hasten_learn_start_writes_a_file_that_a_plan_names(capsys, tmp_path):
    file, asked = tmp_path / "g.safetensors", ("--n", "20", "--rank", "4", "--out")
    assert _status(["learn", "start", "builtin:mnist", *asked, str(file)]) == 0
    assert "gaussian of 20 pictures" in capsys.readouterr().out
    plan = f"steps=2,start=gaussian(file='{file}', ratio=5)"
    said = ("sample", "builtin:mnist", "--plan", plan, "--n", "1", "--json")
    assert _status([*said, "--out", str(tmp_path / "out")]) == 0
    found = json.loads(capsys.readouterr().out)["plan"]["start"]
    assert found == f"gaussian(ratio=5, file='{file}')"
    assert _status(["learn", "start", "builtin:mnist", "--kind", "gauss"]) == 2
    assert "Did you mean 'gaussian'?" in capsys.readouterr().err
    assert _status(["learn", "start", "builtin:mnist", "--components", "3", "--n", "20"]) == 2
    assert "components is given" in capsys.readouterr().err


def test_the_shipped_start_is_the_gaussian_of_its_labels():
    model = hasten.load("builtin:mnist")
    plan = Plan(
        steps=3, start="gaussian(file='builtin:mnist/starts/gaussian.safetensors', ratio=9)"
    )
    sampler = build(model, plan)
    assert sampler.sample(2, condition=[3, 4]).isfinite().all()
    held = read("builtin:mnist/starts/gaussian.safetensors", "gaussian", NAMES)
    assert held.facts.n == 60_000
    assert 0.1 < held.megabytes < 1.0
    assert sampler.plan.start.startswith("gaussian(")


def test_data_without_labels_is_refused_for_a_model_with_labels(tiny_model, tmp_path):
    for i in range(3):
        save_png(torch.rand(1, 8, 8), tmp_path / "data" / f"{i}.png")
    with pytest.raises(UserError, match="data has no column 'label'"):
        learn_start(tiny_model(labels=2), "gaussian", tmp_path / "g", data=str(tmp_path / "data"))


@pytest.mark.parametrize(
    ("inner", "why"),
    [
        ("levers=[merge(share=0.5)],solver=ddim,steps=2", "a feature cache is the only lever"),
        ("solver=adaptive-ode,steps=20", "not known beforehand"),
        ("solver=ddim,steps=20,executor=early-exit(tolerance=0.1)", "not known beforehand"),
    ],
)
def test_a_plan_that_starts_says_what_it_cannot_be(inner, why):
    with pytest.raises(UserError, match=why):
        Plan(start=f"plan(plan='{inner}', ratio=2)")


def test_every_label_has_pictures_before_a_vae_is_trained(tiny_model, tmp_path):
    model = tiny_model(labels=3)
    pictures = torch.zeros(8, 1, 8, 8, dtype=torch.uint8)
    some = Examples(pictures=pictures, labels=torch.tensor([0, 2] * 4), data="eight")
    recipe = VaeRecipe(
        objective="vae",
        name="tiny",
        data={"source": "eight", "label": "label", "shape": [1, 8, 8]},
        labels=3,
        pictures=64,
    )
    with pytest.raises(UserError, match="label 1 has 0 pictures"):
        learn_vae(model, some, tmp_path / "start.safetensors", recipe=recipe, quiet=True)
