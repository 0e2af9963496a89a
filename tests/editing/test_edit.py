"""Editing methods against exact answers: data of one Gaussian a label, whose denoiser is known."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch

import hasten
from hasten.adapters.families import Network
from hasten.core.condition import Condition
from hasten.core.draws import START, Draws
from hasten.core.model import Model
from hasten.core.program import Program
from hasten.editing.edit import edit
from hasten.editing.masks import difference_mask, latent_mask, pixel_mask
from hasten.editing.method import SOURCE, flow_time, methods
from hasten.sampling import build
from hasten.solvers import DDIM

MEANS = torch.tensor([0.3, 0.7, 0.5])  # of two labels, and of "no label", in pixels 0 to 1
PLAN = "solver=dpmpp(order=2),grid=log-snr,steps=12"
METHODS = {
    "sdedit": "sdedit(strength=0.5)",
    "inversion": "inversion(strength=0.75)",
    "flowedit": "flowedit",
    "flowedit averaged": "flowedit(average=2, finish=3)",
    "flowalign": "flowalign(scale=2.0)",
    "rf-inversion": "rf-inversion",
}


class Gaussians(torch.nn.Module):
    """E[x0 | x] of data Normal(mean of its label, spread^2), in the network's space of -1 to 1."""

    def __init__(self, schedule: Any, spread: float) -> None:
        super().__init__()
        self.schedule, self.spread = schedule, spread
        self.means = torch.nn.Parameter(MEANS * 2 - 1, requires_grad=False)

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: torch.Tensor | None = None
    ) -> torch.Tensor:
        unit = self.schedule.at(self.schedule.noisy).t / self.schedule.noisy
        levels = [self.schedule.at(float(time) / unit) for time in t]
        columns = [[level.alpha for level in levels], [level.sigma for level in levels]]
        alpha, sigma = (torch.tensor(part).view(-1, 1, 1, 1) for part in columns)
        mean = self.means[condition].view(-1, 1, 1, 1)
        gain = alpha * self.spread**2 / (alpha**2 * self.spread**2 + sigma**2)
        return mean + gain * (x - alpha * mean)


def gaussians(spread: float = 0.1, schedule: str = "vp-linear") -> Model:
    known = hasten.schedule(schedule)
    return Model(
        net=Network(Gaussians(known, spread)),
        schedule=known,
        prediction=hasten.prediction("x0"),
        shape=(1, 8, 8),
        labels=2,
        null_label=2,
        name="gaussians",
    )


def source(n: int = 2) -> torch.Tensor:
    draws = torch.randn(n, 1, 8, 8, generator=torch.Generator().manual_seed(3))
    return (MEANS[0] + 0.05 * draws).clamp(0, 1)


@pytest.mark.parametrize("schedule", ["vp-linear", "flow", "ddpm"])
@pytest.mark.parametrize("name", ["flowedit", "flowedit averaged", "flowalign"])
def test_what_differs_between_the_prompts_is_added_to_the_source(name, schedule):
    """With hardly any spread, x0 is the mean of the label: an edit adds their difference."""
    method = {
        "flowedit": "flowedit(source_guidance=1.0)",
        "flowedit averaged": "flowedit(source_guidance=1.0, average=2)",
        "flowalign": "flowalign(scale=1.0, zeta=0.0)",
    }[name]
    model, pictures = gaussians(1e-4, schedule), source()
    out = edit(model, pictures, 1, source_prompt=0, method=method, plan=PLAN)
    assert (out - (pictures + MEANS[1] - MEANS[0])).abs().max() < 1e-3


@pytest.mark.parametrize("name", ["flowedit", "flowalign"])
def test_an_edit_to_what_the_source_shows_changes_nothing(name):
    pictures = source()
    plan = PLAN + ",guidance=1.5"  # as much as FlowEdit's of the source
    out = edit(gaussians(), pictures, 0, source_prompt=0, method=METHODS[name], plan=plan)
    assert (out - pictures).abs().max() < 1e-5


def test_flowalign_without_its_terms_is_flowedit_without_guidance():
    options = {"source_prompt": 0, "plan": PLAN}
    one = edit(gaussians(), source(), 1, method="flowalign(scale=1, zeta=0)", **options)
    other = edit(
        gaussians(), source(), 1, method="flowedit(strength=0.7, source_guidance=1)", **options
    )
    assert (one - other).abs().max() < 1e-5


def test_sdedit_is_the_solver_from_the_noised_source():
    model, pictures = gaussians(), source()
    sampler = build(model, PLAN)
    out = edit(model, pictures, 1, method="sdedit(strength=0.5)", plan=PLAN, seed=5)
    levels = sampler.levels[6:]
    noise = Draws(5, [0, 1], model)(START)
    x = levels[0].alpha * model.codec.encode(pictures) + levels[0].sigma * noise

    def denoise(x: torch.Tensor, level: Any) -> torch.Tensor:
        return model.net(x, torch.full((len(x),), level.t), torch.tensor([1, 1]))

    wanted = hasten.run(hasten.core.solver.trace(sampler.solver, levels), denoise, x)
    assert (out - model.codec.decode(wanted)).abs().max() < 1e-5


def test_more_strength_is_nearer_to_the_prompt():
    distances = []
    for strength in (0.25, 0.5, 0.75, 1.0):
        method = f"sdedit(strength={strength})"
        out = edit(gaussians(0.5), source(), 1, method=method, plan=PLAN)
        distances.append(float((out - MEANS[1]).mean().abs()))
    assert distances == sorted(distances, reverse=True)


def test_inversion_gives_the_source_back_where_the_prompt_is_its_own():
    plan, pictures = PLAN.replace("12", "200").replace("dpmpp(order=2)", "ddim"), source()
    out = edit(gaussians(), pictures, 0, source_prompt=0, method="inversion", plan=plan)
    assert (out - pictures).abs().max() < 0.02
    away = edit(gaussians(), pictures, 1, source_prompt=0, method="inversion", plan=plan)
    moved = pictures + MEANS[1] - MEANS[0]  # the ODE carries one Gaussian onto the other
    assert (away - moved).abs().max() < 0.02


def test_rf_inversion_with_eta_one_throughout_is_the_source():
    method = "rf-inversion(eta=1.0, until=1.0)"
    out = edit(gaussians(), source(), 1, source_prompt=0, method=method, plan=PLAN)
    assert (out - source()).abs().max() < 1e-5


@pytest.mark.parametrize("resample", [1, 3])
def test_what_lies_outside_the_mask_stays_and_what_lies_inside_is_new(resample):
    mask, pictures = torch.zeros(8, 8), source()
    mask[2:6, 2:6] = 1
    method = f"masked(resample={resample})"
    out = edit(gaussians(), pictures, 1, method=method, plan=PLAN, mask=mask)
    outside = mask == 0
    assert torch.equal(out[:, :, outside], pictures[:, :, outside])
    assert (out[:, :, ~outside] - MEANS[1]).abs().mean() < 0.1
    for name in ("sdedit(strength=1.0)", "flowedit"):
        edited = edit(gaussians(), pictures, 1, method=name, plan=PLAN, mask=mask)
        assert torch.equal(edited[:, :, outside], pictures[:, :, outside])
        assert (edited - pictures)[:, :, ~outside].abs().mean() > 0.1


@pytest.mark.parametrize("name", METHODS)
def test_a_picture_is_edited_the_same_in_any_batch(name):
    options = {"source_prompt": 0, "method": METHODS[name], "plan": PLAN + ",guidance=2"}
    together = edit(gaussians(), source(5), 1, **options)
    apart = edit(gaussians(), source(5), 1, batch=2, **options)
    assert (together - apart).abs().max() < 1e-5
    shared = edit(gaussians(), source(1).expand(3, -1, -1, -1), 1, shared_noise=True, **options)
    assert (shared - shared[:1]).abs().max() < 1e-5


@pytest.mark.parametrize("name", METHODS)
def test_methods_are_programs_that_can_be_written_down_and_run_in_parallel(name):
    method = methods.parse(METHODS[name])
    levels = build(gaussians(), PLAN).levels
    program = method.program(DDIM(), levels)
    assert program.inputs == ("x", SOURCE)
    assert Program.from_json(program.to_json()) == program
    options = {"source_prompt": 0, "method": METHODS[name]}
    one = edit(gaussians(), source(), 1, plan=PLAN, **options)
    parallel = PLAN + ",executor=picard(tolerance=1e-5)"
    assert (edit(gaussians(), source(), 1, plan=parallel, **options) - one).abs().max() < 1e-3


def test_questions_about_both_prompts_share_a_network_call():
    levels = build(gaussians(), PLAN).levels
    program = methods.parse("flowedit(strength=1.0)").program(DDIM(), levels)
    assert program.evaluations == 24
    assert program.rounds == 12


def test_the_guidance_of_the_source_is_its_own():
    model = gaussians(1e-4)
    options = {"source_prompt": 0, "plan": PLAN + ",guidance=2"}
    out = edit(model, source(), 1, method="flowedit(source_guidance=1.5)", **options)
    wanted = MEANS[2] + 2 * (MEANS[1] - MEANS[2])
    shown = MEANS[2] + 1.5 * (MEANS[0] - MEANS[2])
    assert (out - (source() + wanted - shown).clamp(0, 1)).abs().max() < 1e-3


def test_two_predictions_say_where_an_edit_is():
    model = gaussians()
    sampler = build(model, PLAN)

    class Halves:
        """Prompts differ on the left."""

        def __call__(self, calls: Any) -> Any:
            out = []
            for call in calls:
                x0 = torch.zeros_like(call.x)
                x0[..., :4] = call.condition.labels.view(-1, 1, 1, 1).float()
                out.append(hasten.core.call.Answer(x0=x0))
            return out

    conditions = {"main": model.condition(2, 1), "source": model.condition(2, 0)}
    session = hasten.core.session.Session(Halves(), lambda: None, conditions)
    noises = torch.randn(3, 2, 1, 8, 8)
    mask = difference_mask(session, torch.zeros(2, 1, 8, 8), sampler.levels[6], noises, 0.5)
    assert mask.shape == (2, 1, 8, 8)
    assert mask[..., :3].all()
    assert not mask[..., 5:].any()


def test_a_latent_that_the_mask_touches_may_change():
    mask = torch.zeros(1, 1, 8, 8)
    mask[0, 0, 0, 0] = 1
    small = latent_mask(mask, (4, 4, 4))
    assert small.shape == (1, 4, 4, 4)
    assert small[0, :, 0, 0].tolist() == [1, 1, 1, 1]
    assert small.sum() == 4
    assert pixel_mask(torch.ones(8, 8, dtype=torch.bool), torch.zeros(2, 3, 8, 8)).shape == (
        2,
        1,
        8,
        8,
    )


def test_the_time_of_a_flow_runs_from_clean_to_noise():
    for name in ("flow", "vp-linear"):
        schedule = hasten.schedule(name)
        times = [flow_time(level) for level in build(gaussians(0.1, name), PLAN).levels]
        assert times == sorted(times, reverse=True)
        assert times[-1] == 0
        assert flow_time(schedule.at(schedule.noisy)) == pytest.approx(1.0, abs=0.01)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"method": "sdedit(strength=0)"}, "method option strength is 0"),
        ({"method": "sdedit(strength=1.5)"}, "method option strength is 1.5"),
        ({"method": "telepathy"}, "editing method 'telepathy' is unknown"),
        ({"method": "masked"}, "fills in the masked region of a picture; give a mask"),
        ({"mask": torch.ones(4, 4)}, r"mask has the shape \(4, 4\)"),
        ({"mask": torch.full((8, 8), 2.0)}, "mask lies from 2 to 2"),
        ({"mask": torch.zeros(8, 8)}, "mask is empty"),
        ({"prompt": [0, 1, 0]}, "condition has 3 labels for 2 pictures"),
        ({"pictures": torch.zeros(2, 1, 9, 8)}, r"pictures have the shape \(2, 1, 9, 8\)"),
        ({"pictures": torch.full((2, 1, 8, 8), 1.5)}, "pictures lie from 1.5 to 1.5"),
        ({"plan": PLAN + ",start=gaussian(ratio=5)"}, "start"),
        ({"plan": "solver=adaptive-ode"}, "has no Program, and an edit is one"),
        ({"seed": -1}, "seed"),
        ({"pictures": np.zeros((2, 1, 8, 8))}, "pictures are a ndarray; give a tensor"),
    ],
)
def test_what_does_not_fit_is_named(changes, message):
    fields = {"pictures": source(), "prompt": 1, "plan": PLAN, **changes}
    with pytest.raises(hasten.UserError, match=message) as refusal:
        edit(gaussians(), fields.pop("pictures"), fields.pop("prompt"), **fields)
    assert "\n" not in str(refusal.value)


def test_a_condition_may_be_given_whole():
    model = gaussians()
    condition = Condition.labels_of(torch.tensor([1, 1]), 2)
    one = edit(model, source(), condition, source_prompt=0, plan=PLAN)
    assert torch.equal(one, edit(model, source(), 1, source_prompt=0, plan=PLAN))
