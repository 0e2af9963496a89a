"""The plans that the tuner considers."""

from __future__ import annotations

import dataclasses
import itertools
from typing import Any

from hasten.core.artifact import BUILTIN, FACTS, student_plans
from hasten.core.engine import engines
from hasten.core.errors import UserError
from hasten.core.files import read_json
from hasten.core.learned_program import LearnedProgram
from hasten.core.model import Model
from hasten.core.plan import Plan

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
RATIOS = (5.0, 20.0)  # sigma / alpha where walks from a start beside the model begin
FEW_STEPS = 8  # more steps are not worth it for solvers that draw noise, once a plan is to be fast
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
    """Every solver on every grid with every number of steps, x0 left alone and clipped (where the
    network sees pixels), and on every engine in its dtypes.

    ``programs``, ``students``: whether those that were learned for the model are tried;
    ``noisy``: solvers that draw noise, ``early``: solvers from the starts beside the model; both
    are tried on the first grid where real pictures decide;
    ``engines``: pairs of engine and dtype, cheap to try first; None for all that suit the device.
    """

    solvers: tuple[str, ...] = SOLVERS
    programs: bool = True
    students: bool = True
    noisy: tuple[str, ...] = NOISY
    early: tuple[str, ...] = EARLY
    grids: tuple[str, ...] = GRIDS
    steps: tuple[int, ...] = STEPS
    engines: tuple[tuple[str, str], ...] | None = None

    def engines_on(self, kind: str) -> tuple[tuple[str, str], ...]:
        """The pairs of engine and dtype to try on a kind of device."""
        if self.engines:
            return self.engines
        pairs = ON_CPU if kind == "cpu" else ELSEWHERE
        return tuple(pair for pair in pairs if kind in engines[pair[0]].devices)

    def lines(self, model: Model, guidance: float) -> tuple[list[Line], list[Refused]]:
        """Every solver on every grid, without what ``model``'s path refuses."""
        kept: list[Line] = []
        refused: list[Refused] = []
        for solver, grid, clip in itertools.product(self.solvers, self.grids, clips(model)):
            plans = []
            for steps in self.steps:
                plan = Plan(solver=solver, grid=grid, steps=steps, clip=clip, guidance=guidance)
                why = cannot(model, plan)
                if why is None:
                    plans.append(plan)
                else:
                    refused.append(Refused(plan, why))
            if plans:
                kept.append(Line(tuple(plans)))
        return kept, refused

    def drawing(self, model: Model, guidance: float) -> list[Plan]:
        """The solvers that draw noise, on the first grid, with few steps."""
        few = [steps for steps in self.steps if 2 < steps <= FEW_STEPS]
        plans = [
            Plan(solver=solver, grid=self.grids[0], steps=steps, clip=clip, guidance=guidance)
            for solver, clip, steps in itertools.product(self.noisy, clips(model), few)
        ]
        return [plan for plan in plans if cannot(model, plan) is None]

    def early_starts(self, model: Model, guidance: float) -> list[Plan]:
        """Walks that begin below the top, from every Gaussian beside the model, with few steps."""
        few = [steps for steps in self.steps if steps <= FEW_STEPS]
        begins = [
            f"gaussian(ratio={ratio}, file={file!r})"
            for file in beside(model, "starts", "gaussian*.safetensors")
            for ratio in RATIOS
        ]
        plans = [
            Plan(solver=solver, grid=self.grids[0], steps=steps, start=begin, guidance=guidance)
            for solver, begin, steps in itertools.product(self.early, begins, few)
        ]
        return [plan for plan in plans if cannot(model, plan) is None]

    def suggest(self, trial: Any, model: Model, guidance: float) -> Plan:
        """One plan at random: any number of steps, and grids with their options."""
        solver = trial.suggest_categorical("solver", self.solvers)
        grid = trial.suggest_categorical("grid", self.grids)
        if grid == "karras":
            grid = f"karras(rho={round(trial.suggest_float('rho', 1.0, 12.0, step=0.5), 1)})"
        elif grid == "quadratic":
            grid = f"quadratic(top={round(trial.suggest_float('top', 0.8, 1.0, step=0.025), 3)})"
        steps = trial.suggest_int("steps", min(self.steps), max(self.steps), log=True)
        clip = trial.suggest_categorical("clip", clips(model))
        return Plan(solver=solver, grid=grid, steps=steps, clip=clip, guidance=guidance)


def beside(model: Model, folder: str, pattern: str) -> list[str]:
    """The files of a folder beside the model, as a plan names them."""
    if model.folder is None:
        return []
    files = sorted((model.folder / folder).glob(pattern))
    builtin = model.name.startswith(BUILTIN)
    return [f"{model.name}/{folder}/{file.name}" if builtin else str(file) for file in files]


def learned(model: Model, guidance: float) -> list[Plan]:
    """A plan for every program in the folder ``programs`` beside the model that was learned for its
    weights and this guidance."""
    plans = []
    for name in beside(model, "programs", "*.json"):
        held = LearnedProgram.read(name)
        if held.weights == model.sha256 and held.facts.get("guidance", 1.0) == guidance:
            plans.append(Plan(program=name, guidance=guidance, start=held.start))
    return plans


def distilled(model: Model, guidance: float) -> list[Plan]:
    """The plans of every student in a folder beside the model's that was distilled from its
    weights; students know no guidance."""
    named = _students(model) if guidance == 1.0 else {}
    return [Plan(**{**fields, "student": name}) for name in named for fields in student_plans(name)]


def imitators(model: Model) -> list[str]:
    """The students beside the model that answer as it does at every level: pruned networks."""
    return [name for name, facts in _students(model).items() if facts.get("imitates") is True]


def _students(model: Model) -> dict[str, dict[str, Any]]:
    """What the students beside the model that were distilled from its weights say of themselves."""
    if model.folder is None:
        return {}
    builtin, found = model.name.startswith(BUILTIN), {}
    for file in sorted(model.folder.parent.glob(f"*/{FACTS}")):
        body = read_json(file)
        if isinstance(body, dict) and body.get("teacher") == model.sha256:
            found[f"{BUILTIN}{file.parent.name}" if builtin else str(file.parent)] = body
    return found


def clips(model: Model) -> tuple[float | None, ...]:
    """What x0 may be clipped to: nothing, and the bound of pixels."""
    return (None,) if model.codec.bound is None else (None, model.codec.bound)


@dataclasses.dataclass(frozen=True)
class Line:
    """Plans that differ in their number of steps only, fewest first."""

    plans: tuple[Plan, ...]


@dataclasses.dataclass(frozen=True)
class Refused:
    """A plan the model cannot run here, and why."""

    plan: Plan
    why: str


def cannot(model: Model, plan: Plan) -> str | None:
    """Why the model's path or prediction refuses the plan, if it does."""
    try:
        model.prediction.at(plan.levels(model.schedule)[0])
        plan.trace(model.schedule)
    except UserError as error:
        return str(error)
    return None
