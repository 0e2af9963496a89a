"""The ComfyUI nodes: loaded as ComfyUI loads a folder, run on models called as k-diffusion does."""

from __future__ import annotations

import dataclasses
import importlib.util
import math
import sys
import tomllib
import types
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import hasten
from hasten.core.errors import UserError
from hasten.core.model import Model
from hasten.tuning.settings import TunerSettings

FOLDER = Path(__file__).parents[2] / "integrations" / "comfyui"
TYPES = {"MODEL", "SAMPLER", "SIGMAS", "STRING", "FLOAT", "CONDITIONING", "LATENT"}
PLANS = (
    "solver=dpmpp(order=2),steps=6",
    "solver=unipc(order=3),grid=uniform,steps=5",
    "solver=heun,grid=karras,steps=8,clip=1.0",
    "solver=ddpm,grid=uniform,steps=5",
)


@pytest.fixture(scope="module")
def package() -> Iterator[types.ModuleType]:
    """The folder, imported by its path as ComfyUI does it."""
    name = str(FOLDER).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(name, FOLDER / "__init__.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    spec.loader.exec_module(module)
    yield module
    for known in [known for known in sys.modules if known.startswith(name)]:
        del sys.modules[known]


@pytest.fixture
def parts(package: types.ModuleType) -> types.SimpleNamespace:
    """The modules of the folder."""
    names = ("levels", "running", "tuning", "nodes")
    return types.SimpleNamespace(**{name: getattr(package, name) for name in names})


class Sampling:
    """What ComfyUI calls model_sampling, for a hasten schedule."""

    def __init__(self, kind: str, **options: float) -> None:
        self.kind, self.options = kind, options
        places = torch.arange(1, 1001, dtype=torch.float64) / 1000
        if kind == "discrete":
            table = torch.tensor(hasten.schedule("ddpm").alphas_cumprod, dtype=torch.float64)
            sigmas = ((1 - table) / table).sqrt()
        elif kind == "flow":
            shift = options["shift"]
            sigmas = shift * places / (1 + (shift - 1) * places)
        else:
            low, high = math.log(options["sigma_min"]), math.log(options["sigma_max"])
            sigmas = torch.linspace(low, high, 1000, dtype=torch.float64).exp()
        self.sigmas = sigmas.float()
        self.sigma_min, self.sigma_max = self.sigmas[0], self.sigmas[-1]

    def timestep(self, sigma: torch.Tensor) -> torch.Tensor:
        if self.kind == "discrete":
            return (sigma.log() - self.sigmas.log()[:, None]).abs().argmin(0).float()
        return sigma * 1000 if self.kind == "flow" else 0.25 * sigma.log()

    def noise_scaling(
        self, sigma: torch.Tensor, noise: torch.Tensor, latent: torch.Tensor, most: bool = False
    ) -> torch.Tensor:
        if self.kind == "flow":
            return sigma * noise + (1 - sigma) * latent
        return noise * (1 + sigma**2).sqrt() + latent if most else noise * sigma + latent


def k_diffusion(model: Model, sampling: Sampling) -> Callable[..., torch.Tensor]:
    """``model(x, sigma, **extra)`` gives x0, by formulas of its own."""

    def x0(x: torch.Tensor, sigma: torch.Tensor, label: int | None = None, **_: Any):
        s = float(sigma[0])
        labels = None if label is None else torch.full((len(x),), label)
        if sampling.kind == "flow":
            seen, t = x, 1000 * s
        elif sampling.kind == "edm":
            seen, t = x / math.sqrt(s**2 + 0.25), math.log(s) / 4
        else:
            logs = sampling.sigmas.double().log().numpy()
            t = float(np.interp(math.log(s), logs, range(1000)))
            seen = x / math.sqrt(1 + s**2)
        condition = model.condition(len(x)) if labels is None else model.condition(len(x), labels)
        answer = model.net(seen, torch.full((len(x),), t), condition)
        if sampling.kind == "edm":
            return 0.25 / (s**2 + 0.25) * x + s * 0.5 / math.sqrt(s**2 + 0.25) * answer
        return x - s * answer

    return torch.no_grad()(x0)


def run_by_comfyui(
    sampler: Callable[..., torch.Tensor],
    sigmas: torch.Tensor,
    model: Callable[..., torch.Tensor],
    sampling: Sampling,
    noise: torch.Tensor,
    **extra: Any,
) -> torch.Tensor:
    """What ComfyUI does around a sampling function, beginning with an empty latent."""
    most = math.isclose(float(sampling.sigma_max), float(sigmas[0]), rel_tol=1e-5)
    x = sampling.noise_scaling(sigmas[0], noise.clone(), torch.zeros_like(noise), most)
    return sampler(model, x, sigmas, extra_args=extra, callback=None, disable=True)


CASES = {
    "vp": ("ddpm", "epsilon", Sampling("discrete")),
    "edm": ("edm", "edm", Sampling("edm", sigma_min=0.002, sigma_max=80.0)),
    "flow": ("flow(shift=3.0)", "flow", Sampling("flow", shift=3.0)),
}


def refused(match: str, call: Callable[..., object], *arguments: object) -> None:
    with pytest.raises(UserError, match=match) as caught:
        call(*arguments)
    assert "\n" not in str(caught.value)


# --- the folder ---------------------------------------------------------------------------------


def test_the_folder_loads_and_every_node_is_one(package):
    assert set(package.NODE_CLASS_MAPPINGS) == set(package.NODE_DISPLAY_NAME_MAPPINGS)
    for node in package.NODE_CLASS_MAPPINGS.values():
        assert callable(getattr(node(), node.FUNCTION))
        assert set(node.RETURN_TYPES) <= TYPES
        assert node.CATEGORY
        inputs = node.INPUT_TYPES()
        assert set(inputs) <= {"required", "optional", "hidden"}
        for kind, *options in inputs["required"].values():
            assert kind in TYPES
            assert all(isinstance(option, dict) for option in options)
        wanted = node.__dict__[node.FUNCTION].__code__
        names = wanted.co_varnames[1 : wanted.co_argcount]
        assert set(names) == set(inputs["required"])


def test_loading_the_folder_needs_nothing_of_comfyui():
    for file in FOLDER.glob("*.py"):
        text = file.read_text(encoding="utf-8")
        assert not [
            line for line in text.splitlines() if line.startswith(("import comfy", "from comfy"))
        ]
        assert "eval(" not in text
        assert "exec(" not in text


def test_the_registry_finds_what_it_asks_for():
    facts = tomllib.loads((FOLDER / "pyproject.toml").read_text(encoding="utf-8"))
    assert "comfyui" not in facts["project"]["name"].lower()
    assert len(facts["project"]["version"].split(".")) == 3
    assert facts["tool"]["comfy"]["PublisherId"]


# --- sampling -----------------------------------------------------------------------------------


@pytest.mark.parametrize("plan", [PLANS[0], PLANS[3]])
def test_a_digit_is_the_one_that_hasten_makes(parts, plan):
    model, sampling = hasten.load("builtin:mnist"), CASES["vp"][2]
    sampler = parts.running.PlanSampler(hasten.Plan.read(plan), parts.levels.Levels.of(sampling))
    noise = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    wrapped = k_diffusion(model, sampling)
    got = run_by_comfyui(sampler, sampler.sigmas(), wrapped, sampling, noise, label=3, seed=7)
    own = hasten.build(model, plan).sample(noise=noise, condition=3, raw=True, seed=7)
    assert (got - own).abs().max() < 1e-4
    assert own.std() > 0.1


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("case", CASES)
def test_a_sample_is_the_one_that_hasten_makes_on_every_kind_of_schedule(
    parts, tiny_model, case, plan
):
    schedule, prediction, sampling = CASES[case]
    model = tiny_model(schedule, prediction)
    levels = parts.levels.Levels.of(sampling)
    sampler = parts.running.PlanSampler(hasten.Plan.read(plan), levels)
    noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wrapped = k_diffusion(model, sampling)
    got = run_by_comfyui(sampler, sampler.sigmas(), wrapped, sampling, noise, seed=7)
    own = hasten.build(model, plan).sample(noise=noise, raw=True, seed=7)
    assert (got - own).abs().max() < 1e-4 * max(1.0, own.abs().max())


@pytest.mark.parametrize("case", CASES)
def test_sigmas_fall_from_the_noisiest_to_zero(parts, case):
    sampling = CASES[case][2]
    levels = parts.levels.Levels.of(sampling)
    sigmas = parts.running.PlanSampler(hasten.Plan(steps=6), levels).sigmas()
    assert sigmas.shape == (7,)
    assert sigmas.dtype == torch.float32
    assert torch.isclose(sigmas[0], sampling.sigma_max)
    assert sigmas[-1] == 0
    assert bool((sigmas[:-1] > sigmas[1:]).all())


@pytest.mark.parametrize("case", CASES)
def test_the_schedule_is_read_from_the_model(parts, case):
    schedule, _, sampling = CASES[case]
    levels, known = parts.levels.Levels.of(sampling), hasten.schedule(schedule)
    assert type(levels.schedule) is type(known)
    for place in (known.noisy, 0.5 * (known.low + known.noisy)):
        own, theirs = known.at(place), levels.schedule.at(place)
        assert math.isclose(own.sigma, theirs.sigma, rel_tol=1e-5)
        assert math.isclose(levels.factor(own) * own.sigma, levels.sigma(own))


def test_a_model_that_is_noised_otherwise_is_refused(parts):
    sampling = Sampling("discrete")
    sampling.noise_scaling = lambda sigma, noise, latent: 0.8 * latent + sigma * noise
    refused("keeps 0.8 of x0", parts.levels.Levels.of, sampling)


def test_other_sigmas_are_walked_by_the_same_solver(parts, tiny_model):
    _, _, sampling = CASES["vp"]
    model, levels = tiny_model(), parts.levels.Levels.of(sampling)
    sampler = parts.running.PlanSampler(hasten.Plan(solver="ddim", steps=8), levels)
    noise = torch.randn(1, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    wrapped = k_diffusion(model, sampling)
    whole = sampler.sigmas()
    middle = run_by_comfyui(sampler, whole[:5], wrapped, sampling, noise)
    end = sampler(wrapped, middle, whole[4:], extra_args={}, disable=True)
    straight = run_by_comfyui(sampler, whole, wrapped, sampling, noise)
    assert (end - straight).abs().max() < 1e-4 * straight.abs().max()
    assert torch.equal(sampler(wrapped, noise, whole[:1]), noise)


def test_a_callback_is_called_once_a_step(parts, tiny_model):
    sampling = CASES["vp"][2]
    levels = parts.levels.Levels.of(sampling)
    sampler = parts.running.PlanSampler(hasten.Plan(solver="heun", steps=4), levels)
    said: list[dict[str, Any]] = []
    x = torch.randn(1, 1, 8, 8) * 100
    wrapped = k_diffusion(tiny_model(), sampling)
    sampler(wrapped, x, sampler.sigmas(), {}, said.append, True)
    assert [entry["i"] for entry in said] == [0, 1, 2, 3]
    assert all(entry["denoised"].shape == x.shape for entry in said)


@pytest.mark.parametrize(
    ("plan", "match"),
    [
        ("engine=openvino", "ComfyUI runs the network itself"),
        ("dtype=bfloat16", "ComfyUI runs the network itself"),
        ("levers=deep(every=2)", "levers change networks of diffusers"),
        ("executor=picard", "one step after another"),
        ("solver=adaptive-ode", "chooses its own steps"),
        ("program=builtin:mnist/programs/5.json", "set other_weights=true"),
        ("solver=nothing", "solver 'nothing' is unknown"),
        ("a word", "is no file that can be read"),
    ],
)
def test_what_is_not_at_work_in_comfyui_is_refused(parts, plan, match):
    refused(match, parts.running.read_plan, plan)


def test_a_learned_program_runs_on_its_own_sigmas_alone(parts):
    model, sampling = hasten.load("builtin:mnist"), CASES["vp"][2]
    text = "program=builtin:mnist/programs/5.json,other_weights=true"
    plan = parts.running.read_plan(text)
    sampler = parts.running.PlanSampler(plan, parts.levels.Levels.of(sampling))
    sigmas = sampler.sigmas()
    assert len(sigmas) == 6
    assert sigmas[-1] == 0
    noise = torch.randn(1, *model.shape, generator=torch.Generator().manual_seed(0))
    wrapped = k_diffusion(model, sampling)
    got = run_by_comfyui(sampler, sigmas, wrapped, sampling, noise, label=3)
    own = hasten.build(model, plan).sample(noise=noise, condition=3, raw=True)
    # A learned program tells the network times of its own, which sigma alone cannot say.
    assert (got - own).abs().mean() < 0.2
    refused("its own sigmas", sampler, wrapped, noise, sigmas[1:])


def test_guidance_that_differs_from_the_plans_is_refused(parts):
    levels = parts.levels.Levels.of(CASES["vp"][2])
    sampler = parts.running.PlanSampler(hasten.Plan(guidance=4.0, steps=2), levels)
    guider = types.SimpleNamespace(inner_model=types.SimpleNamespace(cfg=7.0))
    refused("guidance 4, and ComfyUI's cfg is 7", sampler, guider, torch.zeros(1), sampler.sigmas())


# --- the nodes, with what they call of ComfyUI stood in for -------------------------------------


@dataclasses.dataclass
class Patcher:
    """What the nodes ask of a MODEL."""

    sampling: Sampling
    model_options: dict[str, Any] = dataclasses.field(default_factory=dict)
    load_device: str = "cpu"

    def get_model_object(self, name: str) -> Sampling:
        assert name == "model_sampling"
        return self.sampling

    def clone(self) -> Patcher:
        return Patcher(self.sampling, dict(self.model_options))

    def set_model_sampler_calc_cond_batch_function(self, function: Callable[..., Any]) -> None:
        self.model_options["sampler_calc_cond_batch_function"] = function


@pytest.fixture
def comfy(monkeypatch: pytest.MonkeyPatch) -> types.SimpleNamespace:
    """comfy.samplers and comfy.sample, as far as the nodes call them."""
    asked: list[Any] = []

    def calc_cond_batch(model: Any, conds: Any, x: torch.Tensor, sigma: Any, options: Any):
        asked.append(conds)
        return [torch.zeros_like(x) if cond is None else x * cond for cond in conds]

    package, samplers = types.ModuleType("comfy"), types.ModuleType("comfy.samplers")
    samplers.KSAMPLER = lambda function: types.SimpleNamespace(sampler_function=function)
    samplers.calc_cond_batch = calc_cond_batch
    package.samplers = samplers
    monkeypatch.setitem(sys.modules, "comfy", package)
    monkeypatch.setitem(sys.modules, "comfy.samplers", samplers)
    return types.SimpleNamespace(asked=asked, samplers=samplers, package=package)


def test_the_sampler_node_gives_a_sampler_and_its_sigmas(parts, comfy):
    sampler, sigmas = parts.nodes.HastenSampler().build(Patcher(CASES["vp"][2]), PLANS[0])
    assert sampler.sampler_function.plan == hasten.Plan.read(PLANS[0])
    assert len(sigmas) == 7
    refused(
        "measured on 'cuda'",
        parts.nodes.HastenSampler().build,
        Patcher(CASES["vp"][2]),
        "steps=3,device=cuda",
    )


def test_guidance_is_left_out_outside_its_interval(parts, comfy):
    plan, model = "steps=4,guidance=3,guidance_interval=(0.5,2)", Patcher(CASES["flow"][2])
    (patched,) = parts.nodes.HastenApplyPlan().apply(model, plan)
    assert not model.model_options
    evaluate = patched.model_options["sampler_calc_cond_batch_function"]
    x = torch.ones(1, 1, 2, 2)
    for sigma, inside in ((0.5, True), (0.25, False), (0.9, False)):  # ratios 1, 1/3 and 9
        args = {"conds": [2.0, 5.0], "input": x, "sigma": torch.tensor([sigma])}
        wanted, unwanted = evaluate({**args, "model": None, "model_options": {}})
        assert torch.equal(wanted, 2 * x)
        assert torch.equal(unwanted, 5 * x if inside else 2 * x)
        assert comfy.asked[-1] == ([2.0, 5.0] if inside else [2.0, None])
    build = parts.nodes.HastenSampler().build
    assert build(patched, plan)[1].shape == (5,)
    refused("put hasten apply plan with this plan before it", build, model, plan)
    refused("the one field that is applied", parts.nodes.HastenApplyPlan().apply, model, "steps=3")
    refused("another node decides", parts.nodes.HastenApplyPlan().apply, patched, plan)


def test_tuning_finds_a_plan_for_a_model_of_comfyui(parts, comfy, monkeypatch, tiny_model):
    schedule, prediction, sampling = CASES["flow"]
    wrapped = k_diffusion(tiny_model(schedule, prediction), sampling)
    few = dataclasses.replace(
        parts.tuning.SPACE, solvers=("ddim",), grids=("uniform",), steps=(2, 3)
    )
    settings = TunerSettings(
        level_trials=5,
        level_random_trials=3,
        race_s=0.1,
        race_rounds=2,
        reference_sizes=((4, 20),),
        baseline_steps=2,
        report_s=0.0,
        fresh_processes=0,
        parallel_share=0.0,
        for_apply=True,
    )

    class Few(parts.tuning.Tuner):
        def __init__(self, **options: Any) -> None:
            super().__init__(**{**options, "minutes": 1000.0}, space=few, settings=settings)

    def sample_custom(model, noise, cfg, sampler, sigmas, positive, negative, latent, **_):
        x = sampling.noise_scaling(sigmas[0], noise + 1, latent)
        return sampler.sampler_function(wrapped, x, sigmas, extra_args={}, disable=True)

    sample = types.ModuleType("comfy.sample")
    sample.sample_custom = sample_custom
    sample.fix_empty_latent_channels = lambda model, latent: latent
    comfy.package.sample = sample
    monkeypatch.setitem(sys.modules, "comfy.sample", sample)
    monkeypatch.setattr(parts.nodes, "Tuner", Few)
    latent = {"samples": torch.zeros(2, 1, 8, 8)}
    model = Patcher(sampling)
    (text,) = parts.nodes.HastenTune().tune(model, [], [], latent, 1.0, 0.1, 0.5)
    plan = parts.running.read_plan(text)
    assert plan.solver == "ddim"
    assert plan.steps in (2, 3)
    assert not plan.levers
    assert parts.nodes.HastenSampler().build(model, text)[1].shape == (plan.steps + 1,)


# --- ComfyUI itself, where it can be imported ---------------------------------------------------


def test_comfyuis_own_ksampler_runs_a_plan(parts, tiny_model):
    arguments = pytest.importorskip("comfy.cli_args").args
    arguments.cpu = not torch.cuda.is_available()  # read when the rest is imported
    samplers = pytest.importorskip("comfy.samplers")
    sampling = pytest.importorskip("comfy.model_sampling")

    class Flow(sampling.ModelSamplingDiscreteFlow, sampling.CONST):
        pass

    class Epsilon(sampling.ModelSamplingDiscrete, sampling.EPS):
        pass

    flow, discrete = Flow(), Epsilon()
    flow.set_parameters(shift=3.0)
    table = torch.tensor(hasten.schedule("ddpm").alphas_cumprod, dtype=torch.float64)
    discrete.set_sigmas(((1 - table) / table).sqrt())
    for case, theirs in (("flow", flow), ("vp", discrete)):
        schedule, prediction, stood_in = CASES[case]
        model = tiny_model(schedule, prediction)
        call = k_diffusion(model, stood_in)

        class Guider:
            inner_model = types.SimpleNamespace(model_sampling=theirs)

            def __call__(self, x, sigma, model_options=None, seed=None, call=call):
                return call(x, sigma)

        plan = hasten.Plan.read(PLANS[1])
        sampler = parts.running.PlanSampler(plan, parts.levels.Levels.of(theirs))
        noise = torch.randn(2, 1, 8, 8, generator=torch.Generator().manual_seed(0))
        seen: list[int] = []
        got = samplers.KSAMPLER(sampler).sample(
            Guider(),
            sampler.sigmas(),
            {"model_options": {}, "seed": 7},
            lambda step, x0, x, total, seen=seen: seen.append(step),
            noise.clone(),
            latent_image=torch.zeros_like(noise),
            disable_pbar=True,
        )
        own = hasten.build(model, plan).sample(noise=noise, raw=True)
        assert (got - own).abs().max() < 1e-4 * max(1.0, own.abs().max())
        assert seen == list(range(5))
