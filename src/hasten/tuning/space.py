"""The plans that the tuner considers."""

from __future__ import annotations

import dataclasses
import itertools
import math
import random
from collections.abc import Mapping

from hasten.core.artifact import BUILTIN, FACTS, located, located_folder
from hasten.core.engine import engines
from hasten.core.errors import UserError
from hasten.core.files import MANIFEST, read_json, sha256
from hasten.core.learned_program import LearnedProgram
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.levers.student import Student, student_plans
from hasten.tuning.records import UnsupportedPlan
from hasten.tuning.serialization import Json

SOLVERS = (
    "ddim",
    "heun",
    "dpmpp(order=2)",
    "dpmpp(order=3)",
    "unipc(order=2)",
    "unipc(order=3)",
    "deis(order=2)",
    "deis(order=3)",
    "ipndm",
)
NOISY = ("ddpm", "dpmpp-sde")
EARLY = ("unipc(order=3)", "dpmpp(order=2)")
GRIDS = ("uniform", "quadratic", "karras", "log-snr")
STEPS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 15, 20, 25, 30, 40, 50)
ON_CPU = (
    ("eager", "float32"),
    ("openvino", "float32"),
    ("openvino", "bfloat16"),
    ("onnxruntime", "float32"),
    ("eager", "bfloat16"),
    ("compile", "float32"),
    ("compile", "bfloat16"),
)
ELSEWHERE = tuple(
    itertools.product(("eager", "cudagraph", "compile"), ("float32", "bfloat16", "float16"))
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Space:
    """The plans to consider: every solver on every grid with every number of steps, with x0
    unclipped and clipped (where the network sees pixels), in every engine and its dtypes.

    Attributes:
        programs, students: whether those that were learned for the model are tried.
        noisy: solvers that draw noise; early: solvers from the starts beside the model. Both are
            tried on the first grid, with up to ``few_steps`` steps, where real pictures decide.
        start_ratios: sigma / alpha at which sampling from a start beside the model begins.
        engines: pairs of engine and dtype, the cheapest to try first; None for all that suit the
            device.
    """

    solvers: tuple[str, ...] = SOLVERS
    programs: bool = True
    students: bool = True
    noisy: tuple[str, ...] = NOISY
    early: tuple[str, ...] = EARLY
    few_steps: int = 8
    start_ratios: tuple[float, ...] = (5.0, 20.0)
    grids: tuple[str, ...] = GRIDS
    steps: tuple[int, ...] = STEPS
    engines: tuple[tuple[str, str], ...] | None = None

    def engines_on(self, kind: str) -> tuple[tuple[str, str], ...]:
        """The pairs of engine and dtype to try on a kind of device."""
        if self.engines:
            return self.engines
        pairs = ON_CPU if kind == "cpu" else ELSEWHERE
        return tuple(pair for pair in pairs if kind in engines[pair[0]].devices)

    def ladders(
        self, model: Model, guidance: float
    ) -> tuple[list[StepLadder], list[UnsupportedPlan]]:
        """Every solver on every grid, and the plans that the model's schedule or prediction
        refuses."""
        ladders: list[StepLadder] = []
        unsupported: list[UnsupportedPlan] = []
        for solver, grid, clip in itertools.product(self.solvers, self.grids, clips(model)):
            plans = []
            for steps in self.steps:
                plan = Plan(solver=solver, grid=grid, steps=steps, clip=clip, guidance=guidance)
                why = why_unsupported(model, plan)
                if why is None:
                    plans.append(plan)
                else:
                    unsupported.append(UnsupportedPlan(plan=plan, why=why))
            if plans:
                ladders.append(StepLadder(tuple(plans)))
        return ladders, unsupported

    def stochastic(self, model: Model, guidance: float) -> list[Plan]:
        """The solvers that draw noise, on the first grid, with few steps."""
        few = [steps for steps in self.steps if 2 < steps <= self.few_steps]
        plans = [
            Plan(solver=solver, grid=self.grids[0], steps=steps, clip=clip, guidance=guidance)
            for solver, clip, steps in itertools.product(self.noisy, clips(model), few)
        ]
        return [plan for plan in plans if why_unsupported(model, plan) is None]

    def early_starts(self, model: Model, guidance: float) -> list[Plan]:
        """Plans of few steps that begin below the noisiest level, from every Gaussian beside the
        model."""
        few = [steps for steps in self.steps if steps <= self.few_steps]
        starts = [
            f"gaussian(ratio={ratio}, file={file!r})"
            for file in files_beside(model, "starts", "gaussian*.safetensors")
            for ratio in self.start_ratios
        ]
        plans = [
            Plan(solver=solver, grid=self.grids[0], steps=steps, start=start, guidance=guidance)
            for solver, start, steps in itertools.product(self.early, starts, few)
        ]
        return [plan for plan in plans if why_unsupported(model, plan) is None]

    def random_plan(self, generator: random.Random, model: Model, guidance: float) -> Plan:
        """One plan at random: any number of steps (log-uniform), and grids with their options."""
        solver, grid = generator.choice(self.solvers), generator.choice(self.grids)
        if grid == "karras":
            grid = f"karras(rho={round(1.0 + 0.5 * generator.randrange(23), 1)})"
        elif grid == "quadratic":
            grid = f"quadratic(top={round(0.8 + 0.025 * generator.randrange(9), 3)})"
        low, high = math.log(min(self.steps)), math.log(max(self.steps))
        steps = round(math.exp(generator.uniform(low, high)))
        clip = generator.choice(clips(model))
        return Plan(solver=solver, grid=grid, steps=steps, clip=clip, guidance=guidance)


def files_beside(model: Model, folder: str, pattern: str) -> list[str]:
    """The files of a folder beside the model, as a plan names them."""
    if model.folder is None:
        return []
    files = sorted((model.folder / folder).glob(pattern))
    builtin = model.name.startswith(BUILTIN)
    return [f"{model.name}/{folder}/{file.name}" if builtin else str(file) for file in files]


def learned_files(model: Model) -> dict[str, str]:
    """The sha256 of every file beside the model that was learned for it, by a plan's name of it:
    programs, starts, and the weights of students."""
    places = [("programs", "*.json"), ("starts", "*.safetensors"), ("features", "*")]
    names = [name for place in places for name in files_beside(model, *place)]
    files = {name: located("a file beside the model", name) for name in names}
    for name in _students(model):
        files[name] = located_folder("a student", name) / MANIFEST
    return {name: sha256(file) for name, file in sorted(files.items()) if file.is_file()}


def learned_programs(model: Model, guidance: float) -> list[Plan]:
    """A plan for every program in the folder ``programs`` beside the model that was learned for its
    weights and this guidance."""
    plans = []
    for name in files_beside(model, "programs", "*.json"):
        program = LearnedProgram.read(name)
        if program.weights == model.sha256 and program.facts.get("guidance", 1.0) == guidance:
            plans.append(Plan(program=name, guidance=guidance, start=program.start))
    return plans


def distilled_students(model: Model, guidance: float) -> list[Plan]:
    """The plans of every student in a folder beside the model's that was distilled from its
    weights with this guidance, which its plans do not repeat."""
    return [
        Plan.of(fields).with_lever(Student(folder=name))
        for name, facts in _students(model).items()
        if facts.get("guidance", 1.0) == guidance
        for fields in student_plans(name)
    ]


def smaller_networks(model: Model) -> list[str]:
    """The students beside the model that predict what it does at every level: pruned networks."""
    return [name for name, facts in _students(model).items() if facts.get("imitates") is True]


def _students(model: Model) -> Mapping[str, Json]:
    """The facts of the students beside the model that were distilled from its weights, by name."""
    if model.folder is None:
        return {}
    builtin, students = model.name.startswith(BUILTIN), {}
    for file in sorted(model.folder.parent.glob(f"*/{FACTS}")):
        facts = read_json(file)
        if isinstance(facts, dict) and facts.get("teacher") == model.sha256:
            students[f"{BUILTIN}{file.parent.name}" if builtin else str(file.parent)] = facts
    return students


def clips(model: Model) -> tuple[float | None, ...]:
    """What x0 may be clipped to: nothing, and the bound of pixels."""
    return (None,) if model.codec.bound is None else (None, model.codec.bound)


@dataclasses.dataclass(frozen=True)
class StepLadder:
    """Plans that differ in their number of steps only, fewest first."""

    plans: tuple[Plan, ...]


def why_unsupported(model: Model, plan: Plan) -> str | None:
    """Why the model's schedule or prediction refuses the plan; None where it does not."""
    try:
        model.prediction.at(plan.levels(model.schedule)[0])
        plan.trace(model.schedule)
    except UserError as error:
        return str(error)
    return None
