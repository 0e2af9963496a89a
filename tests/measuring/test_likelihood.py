"""Likelihood: against the exact one of Gaussian data, and what is refused."""

from __future__ import annotations

import json
import math

import pytest
import torch
from PIL import Image

import hasten
from hasten import Plan
from hasten.cli import _status
from hasten.core.codec import Identity, PixelUnshuffle
from hasten.core.errors import NonFiniteError, UserError
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule, schedule
from hasten.core.random_streams import Stream, generator
from hasten.measuring.likelihood import _dequantised, likelihood, likelihood_of

MEAN, STD = 0.1, 0.4
PATHS = ("vp-linear", "edm", "flow", "ddpm")


class Exact(torch.nn.Module):
    """A network that answers the exact x0 of independent Gaussian pixels, one mean a label."""

    def __init__(self, where: NoiseSchedule, labels: int | None) -> None:
        super().__init__()
        self.where, self.labels = where, labels
        self.register_buffer("means", MEAN + 0.3 * torch.arange((labels or 0) + 1.0))
        self.weight = torch.nn.Parameter(torch.ones(()), requires_grad=False)

    def level(self, t: float) -> Level:
        scale = {"vp-linear": 1e-3, "flow": 1e-3, "discrete": 1.0}
        name = self.where.part_name
        return self.where.at(math.exp(4 * t) if name == "edm" else t * scale[name])

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition=None):
        level = self.level(float(t[0]))
        labels = None if condition is None else condition.labels
        mean = MEAN if labels is None else self.means[labels].view(-1, 1, 1, 1)
        power = (level.alpha * STD) ** 2 + level.sigma**2
        return mean + level.alpha * STD**2 / power * (x - level.alpha * mean) * self.weight


def exact(name: str, labels: int | None = None, shape=(1, 4, 4), codec=None) -> Model:
    where = schedule(name)
    return Model(
        net=Exact(where, labels),
        schedule=where,
        prediction=hasten.prediction("x0"),
        shape=shape,
        codec=codec or Identity(),
        labels=labels,
        name="exact",
    )


def pictures(n: int = 6, shape=(1, 4, 4)) -> torch.Tensor:
    generator = torch.Generator().manual_seed(3)
    values = MEAN + STD * torch.randn(n, *shape, generator=generator)
    return ((values + 1) * 128).clamp(0, 255).to(torch.uint8)


def by_hand(model: Model, some: torch.Tensor, means: torch.Tensor) -> tuple[float, float]:
    """Bits a dimension of the same dequantised pictures: by the exact flow, which keeps the number
    of standard deviations from the mean, into the spread that the sampler starts with; and by the
    density of the data with the lowest level's noise."""
    low, high = (model.schedule.at(place) for place in (model.schedule.low, model.schedule.noisy))
    if not math.isfinite(high.ratio):
        high = model.schedule.at(model.schedule.position(-math.log(80.0)))
    x = (
        _dequantised(some, [generator(0, row, Stream.LIKELIHOOD) for row in range(len(some))]) * 2
        - 1
    )
    narrow, wide = math.hypot(STD, low.ratio), math.hypot(STD, high.ratio)
    mean, spread = means.view(-1, 1, 1, 1).double(), high.spread / high.alpha
    away = (x - mean) / narrow
    end = torch.distributions.Normal(0.0, spread).log_prob(mean + wide * away)
    bits = 7 - (end + math.log(wide / narrow)) / math.log(2)
    data = torch.distributions.Normal(mean, narrow).log_prob(x)
    return float(bits.mean()), float((7 - data / math.log(2)).mean())


@pytest.mark.parametrize("name", PATHS)
def test_bits_of_gaussian_data_are_the_exact_ones(name):
    """The trace of a diagonal Jacobian is exact with Rademacher probes, so 2e-4 is Runge-Kutta's
    and float32's; 1e-3 is what the data's own mean and width add at the noisy end, where the
    sampler starts without them."""
    model, some = exact(name), pictures()
    found = likelihood(model, some, steps=60)
    flow, data = by_hand(model, some, torch.full((6,), MEAN))
    assert abs(found.bits - flow) < 2e-4
    assert abs(found.bits - data) < 1e-3
    assert found.low < found.bits < found.high
    assert (found.n, found.evaluations) == (6, 240)
    assert found.integration < 1e-2


def test_more_steps_come_nearer():
    """Classical Runge-Kutta: 16 times nearer with twice the steps, 8 at least in a first pair."""
    model, some = exact("ddpm"), pictures()
    fine = likelihood(model, some, steps=160).bits
    away = [abs(likelihood(model, some, steps=steps).bits - fine) for steps in (20, 40)]
    assert away[1] < away[0] / 8


def test_gaussian_probes_agree_within_their_own_error():
    """The trace of one Gaussian probe of d numbers has a standard deviation of sqrt(2 / d) of a
    number's share; 16 probes over 12 pictures of 16 leave 0.04 of the volume's few bits."""
    model, some = exact("ddpm"), pictures(12)
    one = likelihood(model, some, steps=30)
    other = likelihood(model, some, steps=30, probes=16, probe="gaussian")
    assert 0 < abs(one.bits - other.bits) < 0.25
    assert "16 gaussian probes" in str(other)


def test_each_label_has_its_own_density_and_batches_change_nothing():
    model, some = exact("ddpm", labels=3), pictures()
    condition = [0, 1, 2, 2, 1, 0]
    means = model.net.means[torch.tensor(condition)]
    found = likelihood(model, some, condition=condition, steps=60)
    assert abs(found.bits - by_hand(model, some, means)[0]) < 1e-3
    assert found.labels == "given the labels"
    parts = likelihood(model, some, condition=condition, steps=60, batch=4)
    assert abs(parts.bits - found.bits) < 1e-6


def test_unshuffled_pixels_are_the_same_pixels():
    """Moving pixels into channels has volume 1; the dequantisation is the picture's own."""
    some = pictures(3)
    plain = likelihood(exact("ddpm"), some, steps=30)
    moved = likelihood(exact("ddpm", shape=(4, 2, 2), codec=PixelUnshuffle()), some, steps=30)
    assert abs(plain.bits - moved.bits) < 1e-6


@pytest.mark.slow
def test_the_verb_prints_bits_for_pictures_in_a_folder(tmp_path, capsys, tiny_model):
    from hasten.adapters.folder import save_folder

    save_folder(tiny_model(), tmp_path / "model")
    (tmp_path / "data").mkdir()
    for row, picture in enumerate(pictures(2, (1, 8, 8))):
        Image.fromarray(picture[0].numpy()).save(tmp_path / "data" / f"{row}.png")
    options = ["--likelihood", "--pictures", "2", "--json"]
    command = ["measure", str(tmp_path / "model"), *options]
    assert _status([*command, "--data", str(tmp_path / "data")]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["n"] == 2
    assert found["dequantisation"].startswith("uniform")
    assert found["low"] <= found["bits"] <= found["high"]


def test_the_verb_asks_for_real_pictures(capsys):
    assert _status(["measure", "builtin:mnist", "--likelihood"]) == 2
    assert "name them with data" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("plan", "said"),
    [
        (Plan(engine="compile"), "engine=eager"),
        (Plan(dtype="bfloat16"), "float32"),
        (Plan(guidance=2.0), "guidance"),
        (Plan(clip=1.0), "clip"),
    ],
)
def test_a_plan_whose_flow_has_no_gradient_or_is_another_is_refused(plan, said):
    with pytest.raises(UserError, match=said):
        likelihood(exact("ddpm"), pictures(), plan=plan)


def test_wrong_arguments_are_refused_by_name():
    model, some = exact("ddpm"), pictures()
    for options, said in [
        ({"steps": 1}, "steps"),
        ({"probes": 0}, "probes"),
        ({"probe": "cauchy"}, "probe"),
        ({"batch": 0}, "batch"),
        ({"seed": -1}, "seed"),
        ({"condition": 1}, "no labels"),
    ]:
        with pytest.raises(UserError, match=said):
            likelihood(model, some, **options)
    for wrong in (some.float(), some[:, :, :3], some[:0]):
        with pytest.raises(UserError, match="pictures are"):
            likelihood(model, wrong)
    with pytest.raises(UserError, match="pictures"):
        likelihood_of(model, "somewhere", pictures=0)


def test_missing_labels_and_latents_are_refused():
    with pytest.raises(UserError, match="column 'label'"):
        likelihood(exact("ddpm", labels=3), pictures())

    class Latents(Identity):
        bound = None

    with pytest.raises(UserError, match="latents"):
        likelihood(exact("ddpm", codec=Latents()), pictures())


def test_weights_that_are_not_finite_are_reported():
    model = exact("ddpm")
    model.net.weight.fill_(math.nan)
    with pytest.raises(NonFiniteError, match="not finite"):
        likelihood(model, pictures(), steps=4)
