"""A plan on a model, resolved once: parts, levels and program, all known and checked."""

from __future__ import annotations

import dataclasses
import functools

from hasten.core.call import Denoiser, State
from hasten.core.codec import Codec
from hasten.core.denoiser import Guided, NetworkDenoiser, classifier_free
from hasten.core.engine import Engine, Prepared
from hasten.core.errors import UserError, require
from hasten.core.executor import Executor
from hasten.core.level import Level
from hasten.core.lever import Lever, LoadModel, Stage
from hasten.core.model import Model
from hasten.core.parts import Parts
from hasten.core.plan import Plan
from hasten.core.program import CACHED, Program
from hasten.core.solver import Solver
from hasten.core.start import Start


@dataclasses.dataclass(frozen=True, eq=False, kw_only=True)
class Resolved:
    """What runs.

    Attributes:
        plan: as it was given; parts: what its text names.
        requested: the model that was asked for; model: the one whose network runs (a student of
            it).
        levels: that are visited, noisy to clean.
        program: None for a solver whose steps depend on the data.
        load: opens the folder of another model, for levers.
    """

    plan: Plan
    parts: Parts
    requested: Model
    model: Model
    levels: tuple[Level, ...]
    program: Program | None
    load: LoadModel

    @property
    def solver(self) -> Solver:
        return self.parts.solver

    @property
    def start(self) -> Start:
        return self.parts.start

    @property
    def executor(self) -> Executor:
        return self.parts.executor

    @property
    def engine(self) -> Engine:
        return self.parts.engine

    @property
    def levers(self) -> tuple[Lever, ...]:
        return self.parts.levers

    @property
    def key(self) -> tuple[str, ...]:
        """What the prepared network depends on: plans with the same can share it."""
        keys = (part for lever in self.levers for part in lever.key(self))
        return (self.engine.part_name, self.plan.dtype, *keys)

    @functools.cached_property
    def codec(self) -> Codec:
        """The model's codec, with the decoder that levers make of its own.

        Raises:
            UserError: it has none, or the lever cannot use it.
        """
        codec = self.model.codec
        chosen = [lever for lever in self.levers if lever.target == "decoder"]
        if not chosen:
            return codec
        decoder = codec.decoder
        if decoder is None:
            raise UserError(
                f"lever {chosen[0].part_name!r} is for the decoder of latents, and model "
                f"{self.model.name!r} has none; drop {chosen[0].part_name}."
            )
        return codec.decoding(
            functools.reduce(lambda net, lever: lever.decoder(net), chosen, decoder)
        )

    @property
    def opening(self) -> State | None:
        """What a run keeps before its first evaluation."""
        states = [lever.open(self) for lever in self.levers]
        return next((state for state in states if state is not None), None)

    @property
    def cheaper(self) -> Model:
        """The model with the network that levers make of it, before an engine prepares it."""
        return self._transformed(self.levers)

    @property
    def structured(self) -> Model:
        """The model with what levers change of what its network computes, before those on its
        numbers and variants: what multiply-accumulates are counted of."""
        return self._transformed(
            tuple(lever for lever in self.levers if lever.stage <= Stage.STRUCTURE)
        )

    def _transformed(self, chosen: tuple[Lever, ...]) -> Model:
        return functools.reduce(
            lambda model, lever: lever.transform(model, self), chosen, self.model
        )

    def prepare(self) -> Prepared:
        """The network in the plan's engine and dtype, with every lever: a fold.

        Raises:
            UserError: the engine is not installed, or cannot run this network in this dtype here.
        """
        self.engine.check(self.model, self.plan.dtype)
        for lever in self.levers:
            lever.check(self)
        model = self.cheaper
        net = self.engine.prepare(model, self.plan.dtype)
        return functools.reduce(lambda net, lever: lever.wrap(net, model, self), self.levers, net)

    def denoiser(self, net: Prepared) -> Denoiser:
        """What answers evaluations: ``net``, translated to x0 and guided."""
        denoiser = NetworkDenoiser(self.model, net, self.opening)
        if self.plan.guidance == 1.0:
            return denoiser
        scale = self.plan.guidance
        weights = classifier_free(
            scale if self.plan.guidance_interval is None else self.plan.guidance_at
        )
        return Guided(denoiser, weights)


def subject(model: Model, plan: Plan, load: LoadModel) -> Model:
    """The model whose network ``plan`` runs: ``model``, or a student of it."""
    for lever in plan.parts.levers:
        model = lever.model(model, plan.other_weights, load)
    return model


def resolve(plan: Plan, model: Model, load: LoadModel) -> Resolved:
    """``plan`` on ``model``.

    Args:
        load: opens the folder of another model, for levers.

    Raises:
        UserError: the plan asks for what the model does not have, or its parts do not fit.
    """
    parts, chosen = plan.parts, subject(model, plan, load)
    require(
        plan.guidance == 1.0 or chosen.guidable,
        f"guidance is {plan.guidance:g}, but model {model.name!r} was not trained with dropped "
        "labels; set guidance to 1.",
    )
    if parts.learned is not None:
        parts.learned.check(chosen, plan.other_weights)
    program = parts.trace(chosen.schedule) if parts.solver.traceable else None
    require(
        program is not None or plan.executor == "sequential",
        f"executor {plan.executor!r} runs a Program, and solver {parts.solver.part_name!r} has "
        "none; use executor='sequential', or another solver.",
    )
    if program is not None:
        parts.executor.check(program)
        _check_guidance(program, plan)
    levels = parts.levels(chosen.schedule)
    chosen.prediction.at(levels[0])  # refuses a start the network cannot answer at
    return Resolved(
        plan=plan,
        parts=parts,
        requested=model,
        model=chosen,
        levels=levels,
        program=program,
        load=load,
    )


def _check_guidance(program: Program, plan: Plan) -> None:
    """Refuse a program in which guidance begins at an evaluation that takes cached features: those
    of the null branch were never computed."""
    if program.plain or plan.guidance == 1.0:
        return
    guided = False
    for number, (level, variant) in enumerate(zip(program.levels, program.variants, strict=True)):
        now, cached = plan.guidance_at(level) != 1.0, variant == CACHED
        require(
            not (cached and now and not guided),
            f"guidance begins at evaluation {number + 1}, which takes the cached features of one "
            "without guidance; let the cache's mask have a 1 there.",
        )
        guided = guided if cached else now
