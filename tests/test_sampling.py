"""build and Sampler: seeds, conditions, guidance, what is refused."""

from __future__ import annotations

import copy
import dataclasses
import itertools

import numpy as np
import pytest
import torch

import hasten
from hasten import Plan, build
from hasten.core.ask import Denoise
from hasten.core.draws import Draws
from hasten.core.errors import NonFiniteError, UserError
from hasten.core.level import Level
from hasten.core.random_streams import generator
from hasten.core.solver import Solver, solvers

PLANS = [
    Plan(solver="dpmpp(order=2)", steps=4),
    Plan(solver="ddpm", grid="uniform", steps=5),
    Plan(solver="dpmpp-sde", steps=4, guidance=2.0),
    Plan(solver="restart", steps=6, clip=1.0),
]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_a_picture_depends_on_its_seed_and_number_alone(tiny_model, plan):
    sampler = build(tiny_model(labels=3), plan)
    condition = [0, 1, 2, 0, 1, 2, 0]
    whole = sampler.sample(7, seed=5, condition=condition)
    assert torch.equal(whole, sampler.sample(7, seed=5, condition=condition))
    for batch in (1, 2, 4):
        # Other batch sizes run other kernels: float32 sums in another order.
        assert (
            sampler.sample(7, seed=5, condition=condition, batch=batch) - whole
        ).abs().max() < 1e-4
    assert (sampler.sample(2, seed=5, first=4, condition=[1, 2]) - whole[4:6]).abs().max() < 1e-4
    assert (sampler.sample(7, seed=6, condition=condition) - whole).abs().max() > 1e-3


def test_threads_do_not_change_a_picture(tiny_model):
    sampler = build(tiny_model(), PLANS[0])
    pictures = []
    for threads in (1, 2):
        torch.set_num_threads(threads)
        pictures.append(sampler.sample(3))
    assert (pictures[1] - pictures[0]).abs().max() < 1e-4


def test_the_callers_noise_starts_the_walk_and_raw_is_not_decoded(tiny_model):
    sampler = build(tiny_model(), PLANS[0])
    noise = torch.randn(3, 1, 8, 8)
    raw = sampler.sample(noise=noise, raw=True)
    assert raw.abs().max() > 1
    pictures = sampler.sample(noise=noise)
    assert torch.equal(pictures, (raw * 0.5 + 0.5).clamp(0, 1))
    assert pictures.dtype == torch.float32


def test_a_sampler_is_what_its_program_says(tiny_model):
    model = tiny_model()
    sampler = build(model, PLANS[0])
    noise = torch.randn(2, 1, 8, 8)

    def denoiser(x, level):
        answer = model.net(x, torch.full((len(x),), level.t))
        return (x - level.sigma * answer) / level.alpha

    with torch.no_grad():
        ours = hasten.run(sampler.program, denoiser, noise)
    theirs = sampler.sample(noise=noise, raw=True)
    # An untrained network lets x grow to hundreds: float32 holds seven digits of it.
    assert (ours - theirs).abs().max() < 1e-5 * theirs.abs().max()
    assert hasten.trace(PLANS[0], model.schedule) == sampler.program


def test_guidance_one_is_the_condition_and_zero_is_none(tiny_model):
    model = tiny_model(labels=3)
    noise = torch.randn(2, 1, 8, 8)

    def made(guidance, condition):
        return build(model, Plan(steps=3, guidance=guidance)).sample(
            noise=noise, condition=condition
        )

    assert (made(0.0, 1) - made(1.0, None)).abs().max() < 1e-4
    assert (made(1.00001, 1) - made(1.0, 1)).abs().max() < 1e-3
    assert (made(3.0, 1) - made(1.0, 1)).abs().max() > 1e-3


def test_building_leaves_the_model_alone(tiny_model):
    model = tiny_model()
    before = copy.deepcopy(model.net.state_dict())
    sampler = build(model, Plan(steps=2, dtype="bfloat16"))
    assert sampler.net.precision == "bfloat16"
    assert sampler.sample(2).dtype == torch.float32
    assert model.dtype == torch.float32
    assert all(torch.equal(value, before[name]) for name, value in model.net.state_dict().items())


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_weight_that_is_not_finite_is_found_before_anything_is_made(tiny_model, bad):
    model = tiny_model()
    next(iter(model.net.parameters())).data[0] = bad
    with pytest.raises(NonFiniteError, match=r"answer 1 of 4 \(t = 999\)"):
        build(model, PLANS[0]).sample(2)


def test_the_step_that_went_wrong_is_named(tiny_model):
    model = tiny_model()

    class Late(torch.nn.Module):
        calls = 0

        def forward(self, x, t, condition=None):
            self.calls += 1
            return model.net(x, t, condition) * (float("nan") if self.calls == 3 else 1.0)

    with pytest.raises(NonFiniteError, match="answer 3 of 4"):
        build(dataclasses.replace(model, net=Late()), PLANS[0]).sample(1)


def test_watch_sees_every_evaluation(tiny_model):
    seen = []
    build(tiny_model(), PLANS[0]).sample(2, watch=lambda call, x0: seen.append((call, x0.shape)))
    assert seen == [(call, (2, 1, 8, 8)) for call in range(4)]


def test_the_loop_never_waits_for_the_device(tiny_model):
    from torch.utils._python_dispatch import TorchDispatchMode

    waits: list[str] = []

    class Waits(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            # Reading a number out of a tensor is what makes the host wait for a device.
            if func in (torch.ops.aten._local_scalar_dense.default, torch.ops.aten.equal.default):
                waits.append(str(func))
            return func(*args, **(kwargs or {}))

    for plan in PLANS:
        sampler = build(tiny_model(labels=3), plan)
        model, draws = sampler.model, Draws(0, range(2), sampler.model)
        condition = model.condition(2, [1, 2])
        session = sampler.session(condition, lambda draws=draws: draws(1))
        with torch.inference_mode(), Waits():
            x = sampler.begin(torch.randn(2, *model.shape), sampler.levels[0], condition)
            sampler.executor.run(sampler.program, {"x": x}, session)
        assert waits == []
        with Waits():
            float(x.sum())
        assert waits, "the test would not see a wait"
        waits.clear()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Halting(Solver):
    """Stops once x0 hardly changes: its length depends on the data, so it has no Program."""

    traceable = False

    def walk(self, x, levels):
        before = None
        for here, there in itertools.pairwise(levels):
            x0 = yield Denoise(x, here)
            if before is not None and float((x0 - before).abs().max()) < 1e9:
                return x0
            before = x0
            x = there.alpha * x0 + there.sigma / here.sigma * (x - here.alpha * x0)
        return x


def test_a_walk_that_cannot_be_traced_is_walked(tiny_model):
    if "halting" not in solvers:
        solvers.add("halting")(Halting)
    try:
        sampler = build(tiny_model(), Plan(solver="halting", steps=6))
        assert sampler.program is None
        assert sampler.evaluations is None
        seen = []
        pictures = sampler.sample(2, watch=lambda call, x0: seen.append(call))
        assert pictures.shape == (2, 1, 8, 8)
        assert seen == [0, 1]
    finally:
        del solvers._known["halting"]  # other tests go through the whole registry


def test_pil_gives_images(tiny_model):
    images = build(tiny_model(), PLANS[0]).pil(2)
    assert [(image.size, image.mode) for image in images] == [((8, 8), "L")] * 2


BAD = [
    ({"n": 0}, "n is 0"),
    ({"n": -3}, "n is -3"),
    ({"n": 1.5}, "n is 1.5"),
    ({"n": 2, "seed": -1}, "seed is -1"),
    ({"n": 2, "seed": 2**64}, "seed"),
    ({"n": 2, "batch": 0}, "batch is 0"),
    ({"n": 2, "condition": 3}, "condition is 3"),
    ({"n": 2, "condition": -1}, "condition is -1"),
    ({"n": 2, "condition": [0]}, "1 label for 2 pictures"),
    ({"noise": np.zeros((2, 1, 8, 8))}, "noise is ndarray; give a dense floating-point tensor"),
    ({"noise": "x"}, "noise is str"),
    ({"noise": torch.zeros(())}, "noise is torch.float32"),
    ({"noise": torch.zeros(2, 1, 8, 8, dtype=torch.bool)}, "noise is torch.bool"),
    ({"noise": torch.full((2, 1, 8, 8), float("nan"))}, "noise holds NaN"),
    ({"n": 2, "condition": "a b"}, "condition"),
    ({"n": 2, "noise": torch.zeros(2, 1, 9, 9)}, r"noise has the shape \(2, 1, 9, 9\)"),
]


@pytest.mark.parametrize(("options", "words"), BAD)
def test_bad_arguments_are_refused_in_one_line(tiny_model, options, words):
    with pytest.raises(UserError, match=words) as caught:
        build(tiny_model(labels=3), PLANS[0]).sample(**options)
    assert "\n" not in str(caught.value)


def test_labels_need_a_model_that_has_them(tiny_model):
    with pytest.raises(UserError, match="no labels"):
        build(tiny_model(), PLANS[0]).sample(1, condition=1)
    with pytest.raises(UserError, match="dropped labels"):
        build(tiny_model(), Plan(guidance=2.0))


def test_a_start_without_signal_needs_another_prediction(tiny_model):
    model = tiny_model(schedule="flow")
    with pytest.raises(UserError, match="alpha = 0"):
        build(model, Plan(grid="uniform"))
    flow = tiny_model(schedule="flow", prediction="flow")
    assert build(flow, Plan(grid="uniform")).sample(1).isfinite().all()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (lambda x: x[:, :1], r"answers \(2, 1, 8, 8\) to latents \(2, 3, 8, 8\)"),
        (lambda x: (x,), "answers tuple"),
        (lambda x: None, "answers NoneType"),
        (lambda x: torch.cat([x, x], 1), r"this model takes \(2, 3, 8, 8\)"),
    ],
    ids=["channels", "tuple", "nothing", "a variance that the model does not know"],
)
def test_a_network_that_answers_in_another_shape_is_refused(answer, words):
    class Net(torch.nn.Module):
        def forward(self, x, t, condition=None):
            return answer(x)

    model = hasten.load(Net(), schedule="ddpm", prediction="epsilon", shape=(3, 8, 8))
    with pytest.raises(hasten.UserError, match=words):
        build(model, Plan(steps=2)).sample(2)


@pytest.mark.parametrize("solver", ["ddpm", "ddim"])
def test_pictures_that_end_early_leave_the_noise_of_the_others_as_it_was(solver):
    program = hasten.trace(f"solver={solver},steps=12", "ddpm")
    noise = torch.randn(4, 1, 4, 4, generator=generator(1))

    def denoiser(x: torch.Tensor, level: Level) -> torch.Tensor:
        return torch.zeros_like(x) + (x.abs() > 3) * x

    executor = "early-exit(tolerance=0.01,below=1000)"
    assert hasten.run(program, denoiser, noise, executor=executor).shape == noise.shape


def test_an_input_that_no_program_has_is_refused():
    program = hasten.trace("solver=ddim,steps=2", "ddpm")
    noise = torch.randn(1, 1, 4, 4)
    with pytest.raises(UserError, match="run has no argument and this program no input steps"):
        hasten.run(program, lambda x, level: x, noise, steps=3)
