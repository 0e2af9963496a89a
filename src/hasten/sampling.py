"""build(model, plan) -> Sampler: the one place where a plan's parts meet a model."""

from __future__ import annotations

import dataclasses
import functools
import weakref
from collections.abc import Callable, Sequence
from pathlib import Path as Folder
from typing import Any

import torch

from hasten.adapters.load import load
from hasten.adapters.lora import WEIGHTS as LORA
from hasten.adapters.lora import with_lora
from hasten.core.arguments import refuse_unknown
from hasten.core.artifact import BUILTIN, FACTS, located_folder, require_weights
from hasten.core.codec import codecs
from hasten.core.denoiser import Guided, Translated
from hasten.core.engine import Engine, Prepared, beside, engines
from hasten.core.errors import UserError, require, require_whole
from hasten.core.executor import Executor, Watch, executors
from hasten.core.feature_cache import Split, check_guidance
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule, schedule
from hasten.core.plan import Plan, PlanLike, as_plan
from hasten.core.program import Program
from hasten.core.seeds import generator
from hasten.core.solver import Solver
from hasten.core.start import Begin, Latents, Start, starts
from hasten.executors.distributed import answers_for
from hasten.executors.sequential import drive
from hasten.levers.merge import merged
from hasten.levers.quantize import Calibrated, Quantization
from hasten.levers.small import narrowed
from hasten.levers.torchao import PREFIX, by_torchao

START, WALK = 0, 1  # the two streams of random numbers of a picture


def trace(plan: PlanLike, on: str | dict[str, Any] | NoiseSchedule) -> Program:
    """The Program of a plan on a noise schedule, or on anything :func:`hasten.schedule` takes.

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


def subject(model: Model, plan: Plan) -> Model:
    """The model whose network ``plan`` runs: ``model``, or the student that it names; it merges
    tokens where the plan says so.

    Raises:
        UserError: a student of other weights, or of other pictures or labels.
    """
    chosen = model if plan.student is None else _student_of(model, plan, plan.student)
    if plan.merge is None:
        return chosen
    return dataclasses.replace(chosen, net=merged(chosen, plan.merge))


def _student_of(model: Model, plan: Plan, name: str) -> Model:
    source = located_folder("plan field 'student'", name)
    if (source / LORA).is_file():
        student = _low_rank(model, source)
    else:
        stamp = (source / FACTS).stat().st_mtime_ns
        student = _student(name, str(source.resolve()), str(model.device), stamp)
    require_weights("plan field 'student'", student.teacher, model, plan.other_weights)
    mine, theirs = ((one.shape, codecs.text(one.codec), one.labels) for one in (model, student))
    require(
        mine == theirs,
        f"plan field 'student' is {name!r}, whose shape, codec and labels are {theirs}, "
        f"and those of model {model.name!r} are {mine}.",
    )
    return student


@functools.lru_cache(maxsize=4)
def _student(name: str, place: str, device: str, stamp: int) -> Model:
    return load(name if name.startswith(BUILTIN) else place, device=device)


def _low_rank(model: Model, folder: Folder) -> Model:
    """``model`` with the low-rank weights in ``folder``, kept as long as the model is."""
    kept = _LOW_RANK.setdefault(model.net, {})
    key = str(folder.resolve()), (folder / LORA).stat().st_mtime_ns
    if key not in kept:
        kept.clear()
        kept[key] = with_lora(model, folder)
    return kept[key]


_LOW_RANK: weakref.WeakKeyDictionary[torch.nn.Module, dict[Any, Model]] = (
    weakref.WeakKeyDictionary()
)


def prepare(model: Model, plan: Plan) -> Prepared:
    """``model``'s network in the plan's engine and dtype, for :func:`build`; plans with the same
    :attr:`Plan.network` can share it, and what it compiled.

    Raises:
        UserError: the engine is not installed, or cannot run this network in this dtype here.
    """
    teacher, engine = model, engines.parse(plan.engine)
    model = subject(model, plan)
    engine.check(model, plan.dtype)
    if plan.small is not None:
        return _narrowed(teacher, model, plan, engine)
    if plan.quantize is not None and plan.quantize.startswith(PREFIX):
        return by_torchao(model, plan.quantize, engine, plan.dtype)
    if plan.quantize is not None:
        return _quantized(model, plan, engine)
    if plan.reusing is None:
        return engine.prepare(model, plan.dtype)
    net = plan.reusing.split(model.net)
    return Split(engine.prepare(dataclasses.replace(model, net=net), plan.dtype), plan.reusing)


def _narrowed(teacher: Model, model: Model, plan: Plan, engine: Engine) -> Prepared:
    """The network of ``model``, and the smaller one where the plan says so."""
    small = subject(
        teacher, plan.model_copy(update={"student": plan.small, "small": None, "small_at": None})
    )
    alike = (model.schedule, model.prediction) == (small.schedule, small.prediction)
    require(
        alike and model.learned_variance == small.learned_variance,
        f"plan field 'small' is {plan.small!r}, which answers {small.prediction.part_name!r} on "
        f"path {small.schedule.part_name!r}, and the other network "
        f"{model.prediction.part_name!r} on {model.schedule.part_name!r}; they have to be the same.",
    )
    require(
        plan.crossing.traceable,
        f"small_at is a column of a Program, but solver {plan.solver!r} has none; drop small.",
    )
    times = [level.t for level in plan.trace(model.schedule).levels]
    whole, less = (engine.prepare(one, plan.dtype) for one in (model, small))
    return narrowed(whole, less, times, plan.small_at or ())


def _quantized(model: Model, plan: Plan, engine: Engine) -> Prepared:
    """The network in few bits."""
    assert plan.quantize is not None
    held = Quantization.read(plan.quantize)
    require_weights("plan field 'quantize'", held.weights, model, plan.other_weights)
    able = ("float32", "bfloat16") if plan.engine == "openvino" else ("float32",)
    require(
        plan.dtype in able,
        f"dtype is {plan.dtype!r}, and beside what quantize puts into few bits engine "
        f"{plan.engine!r} computes in {' or '.join(able)}; set dtype=float32.",
    )
    return Calibrated(held, model, engine, plan.dtype)


def engines_here() -> dict[str, str]:
    """Every engine, and its dtypes or the line that installs it."""
    return {name: engines[name]().here() for name in engines}


def build(model: Model, plan: PlanLike | None = None, *, net: Prepared | None = None) -> Sampler:
    """A Sampler that runs ``plan`` on ``model``; neither is changed.

    Args:
        plan: a Plan, a file, ``"key=value,..."`` or a dict; None for the model's own.
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
    net = net or prepare(model, plan)
    model, teacher = subject(model, plan), model
    if plan.reusing is not None:
        cut = net.cut if isinstance(net, Split) else "no reuse"
        require(
            cut == plan.reusing.cut,
            f"net was prepared for {cut}, but the plan's reuse is {plan.reuse!r}; prepare another.",
        )
    denoiser: Any = Translated(model, net)
    if plan.guidance != 1.0:
        if model.labels is None or model.null_label is None:
            raise UserError(
                f"guidance is {plan.guidance:g}, but model {model.name!r} was not trained with "
                "dropped labels; set guidance to 1."
            )
        scale = plan.guidance if plan.guidance_interval is None else plan.guidance_at
        denoiser = Guided(denoiser, scale, model.null_label)
    if plan.learned is not None:
        plan.learned.check(model, plan.other_weights)
    start = _start(plan, teacher)
    program = plan.trace(model.schedule) if plan.crossing.traceable else None
    require(
        program is not None or plan.executor == "sequential",
        f"executor {plan.executor!r} runs a Program, and solver {plan.solver!r} has none; use "
        "executor='sequential', or another solver.",
    )
    executor = executors.parse(plan.executor)
    if program is not None:
        executor.check(program)
        if any(program.reuses):
            check_guidance(program, plan.guidance_at)
    levels = plan.levels(model.schedule)
    model.prediction.at(levels[0])  # refuses a start the network cannot answer at
    return Sampler(
        model=model,
        plan=plan,
        net=net,
        levels=levels,
        solver=plan.crossing.on(model.schedule),
        program=program,
        denoiser=denoiser,
        executor=executor,
        begin=start.prepare(model, functools.partial(_latents, model, net)),
    )


def _start(plan: Plan, model: Model) -> Start:
    """The plan's start, which has to fit the weights of ``model``; a student takes over what was
    learned for its teacher."""
    start = starts.parse(plan.start)
    learned_for = start.learned_for()
    if learned_for not in (None, model.teacher):
        require_weights(f"start {start.part_name!r}", learned_for, model, plan.other_weights)
    return start


def _latents(model: Model, net: Prepared, plan: Plan) -> Latents:
    """Another ``plan`` of the same model, run by the same prepared network."""
    require(not plan.stochastic, f"plan {plan} draws noise on the way; a start cannot be one.")
    sampler = build(model, plan, net=net)
    return lambda noise, cond: sampler._crossed(noise, cond, lambda: noise, None)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Sampler:
    """Makes pictures: a model, a plan, and the Program (None where the solver has none)."""

    model: Model
    plan: Plan
    net: Prepared
    levels: tuple[Level, ...]
    solver: Solver
    program: Program | None
    denoiser: Any
    executor: Executor
    begin: Begin

    @property
    def evaluations(self) -> int | None:
        """Network calls a picture, those of the start included; None where they depend on the data
        or the clock."""
        if self.program is None or self.executor.adaptive:
            return None
        before = starts.parse(self.plan.start).evaluations(self.model.schedule)
        return None if before is None else before + self.program.evaluations

    @torch.inference_mode()
    def sample(
        self,
        n: int | None = None,
        *,
        seed: int = 0,
        first: int = 0,
        cond: Any = None,
        noise: torch.Tensor | None = None,
        raw: bool = False,
        batch: int = 64,
        watch: Watch | None = None,
        **unknown: object,
    ) -> torch.Tensor:
        """``n`` pictures (n, c, h, w) in [0, 1], float32, on the CPU.

        Picture i depends on (seed, i) alone: not on n, batch, or its neighbours.

        Args:
            n: how many; by default as many as ``noise`` has, else 1.
            seed: any whole number from 0 to 2**63 - 1.
            first: the number of the first picture.
            cond: a label, a list of n labels, or None.
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
        if n is None:
            n = 1 if noise is None else len(noise)
        require_whole("n", n, 1, 10_000_000)
        shape = (n, *self.model.shape)
        if noise is not None:
            got, want = tuple(noise.shape), shape
            require(got == want, f"noise has the shape {got}; this model and n take {want}.")
        labels = self.model.conditions(n, cond)
        out = []
        for begin in range(0, n, batch):
            part = slice(begin, min(begin + batch, n))
            draw = Draws(seed, range(first + part.start, first + part.stop), self.model)
            mine = draw(START) if noise is None else noise[part].to(self.model.device).float()
            cond_part = None if labels is None else labels[part].to(self.model.device)
            fresh = functools.partial(draw, WALK)
            latents = self._crossed(mine, cond_part, fresh, watch)
            if not raw:
                latents = self.model.codec.decode(latents)
            out.append(latents.cpu())
        return torch.cat(out)

    def __call__(self, n: int | None = None, **options: Any) -> torch.Tensor:
        """:meth:`sample`."""
        return self.sample(n, **options)

    def pil(self, n: int | None = None, **options: Any) -> list[Any]:
        """:meth:`sample` as PIL images."""
        given = isinstance(n, torch.Tensor)
        require(not given, "pil makes n pictures; for a tensor, use hasten.media.to_pil(picture).")
        from hasten.media.pictures import to_pil

        return [to_pil(picture) for picture in self.sample(n, **options)]

    def _crossed(
        self,
        noise: torch.Tensor,
        cond: torch.Tensor | None,
        fresh: Callable[..., torch.Tensor],
        watch: Watch | None,
    ) -> torch.Tensor:
        keep = None
        if self.plan.reusing is not None and isinstance(self.net, Split):
            keep = functools.partial(self.plan.reusing.open, self.net, self.program)
        backend = answers_for(self.executor)(self.denoiser, fresh, cond, keep=keep)
        engine = engines.parse(self.plan.engine)
        with beside(None if starts.parse(self.plan.start).heavy else engine):
            x = self.begin(noise, self.levels[0], cond)
        with beside(engine):
            if self.program is None:
                x = drive(self.solver.walk(x, self.levels), backend, watch)
            else:
                x = self.executor.run(self.program, x, backend, watch)
        backend.check()
        return x


class Draws:
    """Noise for a batch, each picture from its own CPU generator, seeded by (seed, picture)."""

    def __init__(self, seed: int, pictures: Sequence[int], model: Model) -> None:
        self._streams = [
            [generator(seed, picture, stream) for picture in pictures] for stream in (START, WALK)
        ]
        self._shape, self._device = model.shape, model.device

    def __call__(self, stream: int, rows: Sequence[int] | None = None) -> torch.Tensor:
        """The next noise of all pictures, or of those at ``rows`` of the batch alone."""
        generators = self._streams[stream]
        if rows is not None:
            generators = [generators[row] for row in rows]
        out = torch.empty(len(generators), *self._shape)
        for row, one in zip(out, generators, strict=True):
            row.normal_(generator=one)
        return out.to(self._device, non_blocking=True)


def run(
    program: Program,
    denoiser: Callable[[Any, Level], Any],
    noise: torch.Tensor,
    *,
    executor: str | Executor = "sequential",
    seed: int = 0,
) -> torch.Tensor:
    """Run ``program`` with a callable ``denoiser(x, level) -> x0`` from standard normal ``noise``.

    Returns the last latent; noise drawn on the way depends on (seed, place in the batch).
    """
    require(
        not any(program.reuses),
        "this program reuses features, but a denoiser of one's own keeps none; build a Sampler "
        "from a plan with reuse, or drop it.",
    )
    generators = [generator(seed, picture, WALK) for picture in range(len(noise))]

    def fresh() -> torch.Tensor:
        rows = [torch.randn(noise.shape[1:], generator=one) for one in generators]
        return torch.stack(rows).to(noise)

    part = executors.parse(executor)
    backend = answers_for(part)(denoiser, fresh)
    x = part.run(program, noise * program.start.spread, backend)
    backend.check()
    return x
