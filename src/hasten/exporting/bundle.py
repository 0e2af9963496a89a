"""What every exported folder holds beside its network: the lowered programs, as JSON; where they do
not begin from noise, the start is a second, small network.

A row is ``network`` (x at time t, for the wanted condition or none), ``combine`` (a weighted sum),
``noise`` or ``clip``; a runner is a loop over rows. ``look`` gives a preview of the picture at a
network call: ``look[0] * x + look[1] * answer``; ``frees`` names the registers that no later row
reads.
"""

from __future__ import annotations

import dataclasses
import functools
import json
from collections.abc import Collection

import torch

from hasten.core.artifact import digest
from hasten.core.ask import Denoise
from hasten.core.codec import Codec, Identity, Shape, codecs
from hasten.core.condition import COND, Condition, PerSample, as_condition
from hasten.core.conditioning_cache import AtTimes, at_times
from hasten.core.errors import UserError, require
from hasten.core.family import Text
from hasten.core.files import JsonObject
from hasten.core.lever import Trait
from hasten.core.lower import lower
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.resolved import Resolved
from hasten.sampling import Sampler, build, resolve

FORMAT = "hasten-bundle-2"
NET, START = "net", "start"  # the files of the network and of the start, without their endings
TEXT, DECODER = "text", "decoder"  # those of a text encoder and of a decoder of latents
OPS = ("network", "combine", "noise", "clip")
SHOWN = 8  # prompts that a page offers
STEPS = (1, 2, 3, 4, 5, 6, 8, 10, 15, 20, 30, 50)  # that a slider offers beside the plan's


class _Words(torch.nn.Module):
    """A text encoder called as a denoiser is: x are tokens, as numbers."""

    def __init__(self, encoder: torch.nn.Module) -> None:
        super().__init__()
        self.encoder = encoder

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: object = None) -> torch.Tensor:
        return self.encoder(x.long()) + 0 * t.view(-1, 1, 1)


class _Pictures(torch.nn.Module):
    """A codec that decodes latents, called as a denoiser is."""

    def __init__(self, codec: Codec) -> None:
        super().__init__()
        self.codec, self.decoder = codec, codec.decoder  # whose weights are the module's

    def forward(self, x: torch.Tensor, t: torch.Tensor, condition: object = None) -> torch.Tensor:
        return self.codec.decode(x + 0 * t.view(-1, 1, 1, 1))


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bundle:
    """A model and plans of it that a runtime without hasten can run.

    Attributes:
        samplers: one a number of evaluations, the plan that was asked for first.
        levers: that were applied to the network.
        integers: whether the network computes in integers; then a runtime that sums in another
            order now and then rounds an activation to the neighbouring integer.
        dtype: what the runtime computes in.
    """

    model: Model
    samplers: tuple[Sampler, ...]
    levers: tuple[str, ...] = ()
    integers: bool = False
    dtype: str = "float32"

    @property
    def first(self) -> Sampler:
        """The plan that was asked for."""
        return self.samplers[0]

    @functools.cached_property
    def start(self) -> Model | None:
        """The start as a network of (noise, a uniform number, a label); None for noise."""
        first = self.first
        module = first.resolved.start.drawn(first.model, first.levels[0])
        return None if module is None else dataclasses.replace(first.model, net=module, sha256="")

    @property
    def text(self) -> Text | None:
        """How prompts are read; None for a model without."""
        return self.model.family.text(self.model.net)

    @functools.cached_property
    def _networks(self) -> dict[str, Model]:
        text, decoder = self.text, self.model.codec.decoder
        named = {NET: self.model, START: self.start}
        if text is not None:
            named[TEXT] = self._other(_Words(text.encoder), (text.length,))
        if decoder is not None:
            named[DECODER] = self._other(_Pictures(self.model.codec), self.model.shape)
        return {name: model for name, model in named.items() if model is not None}

    def networks(self) -> dict[str, Model]:
        """What a folder holds, by the names of its files."""
        return self._networks

    def _other(self, net: torch.nn.Module, shape: Shape) -> Model:
        """A network that is no denoiser, called as one."""
        fields = {"labels": None, "null_label": None, "sha256": "", "codec": Identity()}
        return dataclasses.replace(self.model, net=net.eval(), shape=shape, **fields)

    def condition(self, name: str) -> Condition:
        """An example of what the network ``name`` is given for one sample beside x and t."""
        if name == NET and self.text is not None:
            with torch.no_grad():
                words = self.text.encoder(self.text.tokens([""]))
            return Condition(1, {COND: {"words": PerSample(words)}})
        labelled = self.networks()[name].labels is not None
        return as_condition(torch.zeros(1, dtype=torch.long) if labelled else None, 1)

    def to_json(self) -> str:
        """The file ``bundle.json``."""
        model, path = self.model, self.first.model
        every = sorted(self.samplers, key=lambda sampler: sampler.evaluations or 0)
        body = {
            "format": FORMAT,
            "model": self.model.name,
            "weights": digest(path),
            "shape": list(model.shape),
            "factor": _factor(model),
            "labels": None if self.text else model.labels,
            "null": None if self.text else model.null_label,
            "text": self.text is not None,
            "prompts": list(model.prompts[:SHOWN]) if self.text else [],
            "decoder": DECODER in self.networks(),
            "plan": self.first.evaluations,
            "start": self.start is not None,
            "dtype": self.dtype,
        }
        programs = {str(sampler.evaluations): table(sampler) for sampler in every}
        return json.dumps({**body, "programs": programs}, indent=1) + "\n"


def bundle(
    model: Model, plan: Plan, others: bool = False, dtypes: Collection[str] = ("float32",)
) -> Bundle:
    """``model`` with ``plan``, and with as many steps more or less where ``others`` says so; in the
    plan's dtype where that is one of ``dtypes``, else in float32.

    Raises:
        UserError: a plan that no table of numbers holds, or a codec that no runner knows; with what
            to do.
    """
    dtype = plan.dtype if plan.dtype in dtypes else "float32"
    changes = {"engine": "eager", "dtype": "float32", "device": None, "executor": "sequential"}
    executor = plan.parts.executor
    require(
        executor.exact,
        f"executor {executor.part_name!r} decides while it runs when to end, which no runner does; "
        "drop executor.",
    )
    plan = plan.model_copy(update=changes)
    run = resolve(plan, model)
    for lever in run.levers:
        require(
            lever.exports,
            f"lever {lever.part_name!r} is more than one network, or runs in torch alone, and an "
            f"exported folder holds one network; drop {lever.part_name}.",
        )
    for lever in run.levers:
        lever.check(run)
    cheaper, alone = run.cheaper, plan.decided().model_copy(update={"levers": ()})
    fitted = any(Trait.WHOLE in lever.traits for lever in run.levers)
    integers = any(Trait.INTEGERS in lever.traits for lever in run.levers)
    first = build(cheaper, alone)
    _require_table(first)
    _require_calibrated(run)
    _factor(model)
    samplers = {first.evaluations: first}
    # What is fitted to the times of this plan does not know those of others.
    more = others and not fitted and dtype == "float32"
    for other in _beside(run, alone) if more else []:
        sampler = build(cheaper, other)
        if (other.start, sampler.levels[0]) == (alone.start, first.levels[0]):
            samplers.setdefault(sampler.evaluations, sampler)
    made = Bundle(
        model=dataclasses.replace(cheaper, plans=()) if fitted else cheaper,
        samplers=tuple(samplers.values()),
        levers=plan.levers,
        integers=integers,
        dtype=dtype,
    )
    if dtype != "float32":
        made = _at_its_times(made)
    require(
        alone.start == "noise" or made.start is not None,
        f"start is {alone.start!r}, which is no formula that an exported folder can hold; set "
        "start=noise, or a gaussian or mixture(steps=0) that `hasten learn start` writes.",
    )
    return made


def _require_calibrated(run: Resolved) -> None:
    """Refuse a network that was calibrated on the times of another plan."""
    assert run.program is not None
    for lever in run.levers:
        lever.check_times([level.t for level in run.program.levels])


def _at_its_times(bundle: Bundle) -> Bundle:
    """Fewer than 32 bits do not hold a time, so a network may be computed in them once it has what
    the times of its programs tell; another stays in float32."""
    rows = [row for sampler in bundle.samplers for row in table(sampler)["rows"]]
    times = sorted({float(row["t"]) for row in rows if row["op"] == "network"})
    net = at_times(bundle.model.net, times, always=True)
    if not isinstance(net, AtTimes):
        return dataclasses.replace(bundle, dtype="float32")
    return dataclasses.replace(bundle, model=dataclasses.replace(bundle.model, net=net.eval()))


def _require_table(sampler: Sampler) -> None:
    program = sampler.program
    if program is None:
        raise UserError(
            f"solver {sampler.plan.solver!r} chooses its steps while it runs, so no table "
            "holds them; hasten learn freeze writes the plan nearest to it that can be exported."
        )
    lowered = lower(program, sampler.model.prediction)
    unknown = sorted({row.ask.op for row in lowered.rows} - set(OPS))
    require(not unknown, f"a runner does not know {unknown[:1]}; use another solver, such as ddim.")


def _beside(run: Resolved, alone: Plan) -> list[Plan]:
    """The student's other plans, or the same solver with other numbers of steps."""
    if run.plan.program is not None:
        return []
    if run.model.plans:
        return [Plan.of(fields) for fields in run.model.plans]
    able = (alone.grid or "").partition("(")[0] != "given"
    return [alone.model_copy(update={"steps": steps}) for steps in STEPS] if able else []


def table(sampler: Sampler) -> JsonObject:
    """A lowered program as plain data: where it starts, its rows, its output."""
    assert sampler.program is not None
    plan, model = sampler.plan, sampler.model
    scale = plan.guidance if plan.guidance_interval is None else plan.guidance_at
    program = lower(sampler.program, model.prediction, scale)
    body = json.loads(program.to_json())
    asks = [row.ask for row in sampler.program.rows if isinstance(row.ask, Denoise)]
    levels = iter(ask.level for ask in asks)
    for row, dead in zip(body["rows"], program.frees, strict=True):
        row["frees"] = list(dead)
        if row["op"] == "network" and row["branch"] == "cond":
            here = model.prediction.at(next(levels))
            row["look"] = [here.skip / here.scale, here.out]
    return {
        "spread": sampler.program.start.spread,
        "rows": body["rows"],
        "output": body["output"],
        "text": str(plan),
    }


def _factor(model: Model) -> int:
    """How many pixels a side of a block of channels covers; 1 for pixels as they are."""
    name = model.codec.part_name
    if name == "identity" or (model.codec.decoder is not None and model.family.text(model.net)):
        return 1
    require(
        name == "pixel-unshuffle",
        f"codec {codecs.text(model.codec)!r} is none that a runner knows; hasten exports models of "
        "pixels (identity, pixel-unshuffle), and Stable Diffusion with its prompts.",
    )
    return int(model.codec.factor)  # type: ignore[attr-defined]
