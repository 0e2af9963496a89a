"""build(model, plan) -> Sampler: the one place where a plan's parts meet a model."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import torch

from hasten.adapters.beside import load_beside
from hasten.adapters.schedules import ScheduleLike, schedule
from hasten.core import resolved
from hasten.core.arguments import refuse_unknown
from hasten.core.artifact import require_weights
from hasten.core.call import Denoiser, Weights
from hasten.core.condition import Condition
from hasten.core.denoiser import FunctionDenoiser
from hasten.core.draws import START, WALK, Draws
from hasten.core.engine import Prepared, beside, engines
from hasten.core.errors import UserError, require, require_whole
from hasten.core.executor import Executor, Watch, executors
from hasten.core.level import Level
from hasten.core.lever import Trait
from hasten.core.model import Model
from hasten.core.plan import Plan, PlanLike, as_plan
from hasten.core.program import Program
from hasten.core.random_streams import generator
from hasten.core.resolved import Resolved
from hasten.core.session import Session, drive
from hasten.core.solver import Solver
from hasten.core.start import Begin, Latents
from hasten.core.usage import Counted, Usage
from hasten.executors.distributed import shared_out

if TYPE_CHECKING:
    from PIL import Image


def trace(plan: PlanLike, on: ScheduleLike) -> Program:
    """The Program of a plan on a noise schedule (anything that :func:`hasten.schedule` takes).

    Raises:
        UserError: the plan begins below the highest noise level, from what no Program holds.
    """
    plan = as_plan(plan)
    require(
        plan.start == "noise",
        f"start is {plan.start!r}, but a Program begins at its first level, from what it is given; "
        "sample with hasten.build, or set start='noise'.",
    )
    return plan.trace(schedule(on))


def resolve(plan: PlanLike, model: Model) -> Resolved:
    """``plan`` on ``model``: parts, levels and program, known and checked.

    Raises:
        UserError: the plan asks for what the model does not have, or its parts do not fit.
    """
    return resolved.resolve(as_plan(plan), model, load_beside)


def subject(model: Model, plan: Plan) -> Model:
    """The model whose network ``plan`` runs: ``model``, or a student of it."""
    return resolved.subject(model, plan, load_beside)


def prepare(model: Model, plan: PlanLike) -> Prepared:
    """``model``'s network in the plan's engine and dtype with its levers, for :func:`build`; plans
    whose :func:`network_key` is the same can share it, and what it compiled.

    Raises:
        UserError: the engine is not installed, or cannot run this network in this dtype here.
    """
    return resolve(plan, model).prepare()


def network_key(model: Model, plan: PlanLike) -> tuple[str, ...]:
    """What the prepared network of ``plan`` depends on."""
    return resolve(plan, model).key


def engines_here() -> dict[str, str]:
    """Every engine, and its dtypes or the line that installs it."""
    return {name: engines[name]().here() for name in engines}


def build(model: Model, plan: PlanLike | None = None, *, net: Prepared | None = None) -> Sampler:
    """A Sampler that runs ``plan`` on ``model``; neither is changed.

    Args:
        plan: a Plan, its text, a file or a dict of fields; by default the model's own.
        net: what :func:`prepare` made of the model for a plan with the same network, to share it.

    Raises:
        UserError: the plan asks for what the model does not have.
    """
    plan = as_plan(plan, model.plan)
    kind = model.device.type
    require(
        plan.device in (None, kind),
        f"the plan is for device {plan.device!r}, but model {model.name!r} is on {kind!r}; load it "
        f"with device={plan.device!r}, or tune again here.",
    )
    run = resolve(plan, model)
    cuts = [lever.cut for lever in run.levers if lever.cut is not None]
    for cut in cuts if net is not None else []:
        require(
            getattr(net, "cut", None) == cut,
            f"net was prepared for {getattr(net, 'cut', 'no feature cache')}, but the plan's is "
            f"{cut}; prepare another.",
        )
    net = net or run.prepare()
    _require_start_weights(run)
    _ = run.codec  # refuses levers on a decoder that is not there
    return Sampler(
        resolved=run,
        net=net,
        denoiser=run.denoiser(net),
        begin=run.start.prepare(run.requested, functools.partial(_latents, run.model, net)),
    )


def _require_start_weights(run: Resolved) -> None:
    """A learned start has to fit the weights of the model; a student takes over what was learned
    for its teacher."""
    learned_for = run.start.learned_for()
    if learned_for not in (None, run.requested.teacher):
        require_weights(
            f"start {run.start.part_name!r}", learned_for, run.requested, run.plan.other_weights
        )


def _latents(model: Model, net: Prepared, plan: Plan) -> Latents:
    """Another ``plan`` of the same model, run by the same prepared network."""
    require(not plan.stochastic, f"plan {plan} draws noise on the way; a start cannot be one.")
    sampler = build(model, plan, net=net)
    return lambda noise, condition: sampler.latents(noise, condition, lambda *_: noise)


def _require_noise(noise: object) -> None:
    """Noise is a plain tensor of finite floating-point numbers, or None."""
    if noise is None:
        return
    if not (
        isinstance(noise, torch.Tensor)
        and noise.layout == torch.strided
        and noise.ndim > 0
        and noise.is_floating_point()
        and noise.device.type != "meta"
    ):
        kind = f"{noise.dtype}" if isinstance(noise, torch.Tensor) else type(noise).__name__
        raise UserError(
            f"noise is {kind}; give a dense floating-point tensor (n, *model.shape), such as "
            "torch.randn(n, *model.shape)."
        )
    require(bool(torch.isfinite(noise).all()), "noise holds NaN or infinity; draw it again.")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Makes pictures: a plan resolved on a model, its prepared network, and its start.

    Attributes:
        denoiser: answers evaluations; begin: makes the first latents.
        usage: what the last call of :meth:`sample` took.
    """

    resolved: Resolved
    net: Prepared
    denoiser: Denoiser
    begin: Begin
    usage: Usage = dataclasses.field(default_factory=Usage, compare=False)

    @property
    def plan(self) -> Plan:
        return self.resolved.plan

    @property
    def model(self) -> Model:
        """The model whose network runs."""
        return self.resolved.model

    @property
    def levels(self) -> tuple[Level, ...]:
        return self.resolved.levels

    @property
    def program(self) -> Program | None:
        """None where the solver has none."""
        return self.resolved.program

    @property
    def executor(self) -> Executor:
        return self.resolved.executor

    @functools.cached_property
    def solver(self) -> Solver:
        """The solver for runs on the model's schedule."""
        return self.resolved.solver.on(self.model.schedule)

    @property
    def evaluations(self) -> int | None:
        """Network evaluations a picture, those of the start included; None where they depend on the
        data or the clock."""
        if self.program is None or self.executor.adaptive:
            return None
        before = self.resolved.start.evaluations(self.model.schedule)
        return None if before is None else before + self.program.evaluations

    @torch.inference_mode()
    def sample(
        self,
        n: int | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        condition: object = None,
        noise: torch.Tensor | None = None,
        raw: bool = False,
        batch: int = 64,
        watch: Watch | None = None,
        **unknown: object,
    ) -> torch.Tensor:
        """``n`` pictures (n, c, h, w) in [0, 1], float32, on the CPU.

        Picture i depends on (seed, i) alone: not on n, batch, or its neighbours. That holds up to
        the rounding of the dtype; up to the tolerance of a parallel executor whose window is
        smaller than the program, because the window moves with the slowest picture of a batch; and
        up to the error of the quantization where eager simulates integers, because one float of
        another rounding can move an activation to the next integer.

        Args:
            n: how many; by default as many as ``noise`` has, else 1.
            seed: any whole number from 0 to 2**63 - 1.
            first: the number of the first picture.
            condition: a label or a prompt, a list of n of them, a Condition, or None.
            noise: the caller's standard normal start (n, *model.shape) in place of the seed's.
            raw: x0 as the network's space has it, neither decoded nor clipped.
            batch: pictures at a time.
            watch: called with (call, x0) after each network call.

        Raises:
            UserError: an argument is out of range.
            NonFiniteError: the network's answer, named by its number, is not finite.
        """
        refuse_unknown("sample", unknown)
        require_whole("seed", seed, 0, 2**63 - 1)
        require_whole("batch", batch, 1, 1 << 20)
        require_whole("first", first, 0, 2**31)
        _require_noise(noise)
        if n is None:
            n = 1 if noise is None else len(noise)
        require_whole("n", n, 1, 10_000_000)
        shape = (n, *self.model.shape)
        if noise is not None:
            got, want = tuple(noise.shape), shape
            require(got == want, f"noise has the shape {got}; this model and n take {want}.")
        whole = self.model.condition(n, condition)
        counted = Counted(self.denoiser)
        out = []
        for begin in range(0, n, batch):
            places = range(begin, min(begin + batch, n))
            draw = Draws(seed, [first + place for place in places], self.model)
            mine = draw(START) if noise is None else noise[places].to(self.model.device).float()
            part = whole.rows(places).to(self.model.device)
            fresh = functools.partial(draw, WALK)
            latents = self.latents(mine, part, fresh, watch, counted)
            if not raw:
                latents = self.resolved.codec.decode(latents)
            out.append(latents.cpu())
        self.usage.evaluations, self.usage.rounds = counted.rows / n, counted.calls / len(out)
        self.usage.pictures = n
        return torch.cat(out)

    def __call__(self, n: int | None = None, **options: Any) -> torch.Tensor:
        """:meth:`sample`."""
        return self.sample(n, **options)

    def pil(self, n: int | None = None, **options: Any) -> list[Image.Image]:
        """:meth:`sample` as PIL images."""
        number = not isinstance(n, torch.Tensor)
        require(number, "pil makes n pictures; for a tensor, use hasten.media.to_pil(picture).")
        from hasten.media.pictures import to_pil

        return [to_pil(picture) for picture in self.sample(n, **options)]

    def latents(
        self,
        noise: torch.Tensor,
        condition: Condition,
        fresh: Callable[..., torch.Tensor],
        watch: Watch | None = None,
        denoiser: Denoiser | None = None,
    ) -> torch.Tensor:
        """x0 (n, ...) in the network's space.

        Args:
            noise: standard normal (n, *model.shape), on the model's device.
            condition: of n samples, on the model's device.
            fresh: the noise that is drawn on the way, see :class:`hasten.core.session.Session`.
            denoiser: answers evaluations in the place of the sampler's own.
        """
        engine, start = self.resolved.engine, self.resolved.start
        with beside(None if start.heavy else engine):
            x = self.begin(noise, self.levels[0], condition)
        session = self.session(condition, fresh, denoiser)
        with beside(engine):
            if self.program is None:
                x = drive(self.solver.walk(x, self.levels), session, watch)
            else:
                x = self.executor.run(self.program, {"x": x}, session, watch)
        session.check()
        return x

    def session(
        self,
        condition: Condition,
        fresh: Callable[..., torch.Tensor],
        denoiser: Denoiser | None = None,
        weights: Weights | None = None,
    ) -> Session:
        """A new run of samples with ``condition``, guided by ``weights`` where its guidance is not
        the denoiser's.

        Raises:
            UserError: a lever keeps something for later runs, which only edits take up.
        """
        for lever in self.resolved.levers:
            require(
                Trait.RUNS not in lever.traits,
                f"lever {lever.part_name!r} {Trait.RUNS.value}, and only edits take it up; use "
                f"hasten.edit, or drop {lever.part_name}.",
            )
        answers = shared_out(denoiser or self.denoiser, self.executor)
        in_order = any(Trait.ORDER in lever.traits for lever in self.resolved.levers)
        return Session(answers, fresh, condition, in_order, weights)


def run(
    program: Program,
    denoiser: Callable[[torch.Tensor, Level], torch.Tensor],
    noise: torch.Tensor,
    *,
    executor: str | Executor = "sequential",
    seed: int = 0,
    **inputs: torch.Tensor,
) -> torch.Tensor:
    """Run ``program`` with a callable ``denoiser(x, level) -> x0`` from standard normal ``noise``.

    Args:
        inputs: the program's other inputs (n, ...), such as ``mask``.

    Returns:
        The last latents; noise drawn on the way depends on (seed, place in the batch).
    """
    require(
        program.plain,
        "this program has variants of a network (cached features, say), and a denoiser of your own "
        "has one; build a Sampler from the plan, or drop the lever.",
    )
    unknown = sorted(set(inputs) - set(program.inputs))
    require(
        not unknown,
        f"run has no argument and this program no input {', '.join(unknown)}; its inputs are "
        f"{', '.join(program.inputs)}.",
    )
    lacking = sorted(set(program.inputs) - {"x", *inputs})
    require(not lacking, f"this program has the inputs {list(program.inputs)}; give {lacking}.")
    generators = [generator(seed, picture, WALK) for picture in range(len(noise))]

    def fresh(rows: Sequence[int] | None = None) -> torch.Tensor:
        chosen = range(len(generators)) if rows is None else rows
        draws = [torch.randn(noise.shape[1:], generator=generators[row]) for row in chosen]
        return torch.stack(draws).to(noise)

    part = executors.parse(executor)
    session = Session(shared_out(FunctionDenoiser(denoiser), part), fresh)
    x = part.run(program, {"x": noise * program.start.spread, **inputs}, session)
    session.check()
    return x
