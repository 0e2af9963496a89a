"""A network in few bits whose ranges follow the timestep.

What a layer sees changes from step to step, and a plan makes its steps at known times: so there is
a row of activation ranges for each step, or for each group of steps, taken on the states of the
plan itself (2306.02316 learns such rows; a few-step plan can have them exactly).
"""

from __future__ import annotations

import copy
import dataclasses
import functools
import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import nn

from hasten.core.artifact import located, require_weights
from hasten.core.condition import Condition
from hasten.core.conditioning_cache import Columns, Row, at_times, nearest
from hasten.core.engine import Engine, Prepared
from hasten.core.errors import UserError, require, require_path
from hasten.core.family import family_of
from hasten.core.files import write_bytes
from hasten.core.lever import Lever, Stage, Trait, levers
from hasten.core.model import Model
from hasten.levers.quantized_layer import Bits, Layer, QuantizedLayer, fitted, joined

if TYPE_CHECKING:
    from hasten.core.resolved import Resolved

FORMAT = "hasten-quantization-2"
RANGE, WHOLE = "range.", "whole."  # how the keys of tensors begin
FIELD = "lever 'quantize', option file"
NEAR = 0.5  # how far a time may be from one that was calibrated, in the network's unit


@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantization:
    """What ``hasten learn quantize`` wrote.

    Attributes:
        weights: sha256 of those it was calibrated for; plan: on whose states.
        bits: of every layer that is quantized, by name.
        times: (evaluations,) told to the network; groups: the row of each.
        ranges: (rows, pieces, 2) low and high of each layer's input; two pieces where it is cut.
        cuts: channels of the first piece; gains: what the second is stretched by.
        whole: the integers of the weights of layers whose weights are not rounded to the nearest.
        scale, shift: (rows, c) that correct each row's mean error of the network's answer.
        sensitivities: how far (root mean square) the plan's pictures move when that layer alone is
            in the fewest bits, by name; {} where it was not measured.
    """

    weights: str
    plan: str
    bits: dict[str, Bits]
    times: tuple[float, ...]
    groups: tuple[int, ...]
    ranges: dict[str, torch.Tensor]
    cuts: dict[str, int]
    gains: dict[str, float]
    whole: dict[str, torch.Tensor]
    scale: torch.Tensor
    shift: torch.Tensor
    sensitivities: dict[str, float] = dataclasses.field(default_factory=dict)

    @property
    def rows(self) -> int:
        return max(self.groups) + 1

    def write(self, file: Path) -> None:
        """Write the file."""
        facts = {"weights": self.weights, "plan": self.plan}
        facts |= {"cuts": self.cuts, "gains": self.gains}
        facts |= {"times": self.times, "groups": self.groups}
        facts |= {"sensitivities": self.sensitivities}
        facts |= {"bits": {name: str(bits) for name, bits in self.bits.items()}}
        tensors = {f"{RANGE}{name}": value.contiguous() for name, value in self.ranges.items()}
        tensors |= {f"{WHOLE}{name}": value.contiguous() for name, value in self.whole.items()}
        tensors |= {"scale": self.scale, "shift": self.shift}
        head = {"format": FORMAT, "facts": json.dumps(facts)}
        write_bytes(file, save(tensors, head))

    @staticmethod
    def read(name: str) -> Quantization:
        """The quantization that ``name`` (a path, or ``builtin:MODEL/FILE``) means.

        Raises:
            UserError: no such file, or no quantization in it.
        """
        file = located(FIELD, name)
        try:
            with safe_open(str(file), framework="pt") as reader:
                head = reader.metadata() or {}
                tensors = {key: reader.get_tensor(key) for key in reader.keys()}  # noqa: SIM118
            require(head.get("format") == FORMAT, "it is of another kind")
            facts = json.loads(head["facts"])
            return Quantization(
                weights=str(facts["weights"]),
                plan=str(facts["plan"]),
                bits={key: Bits.parse(text) for key, text in facts["bits"].items()},
                times=tuple(map(float, facts["times"])),
                groups=tuple(map(int, facts["groups"])),
                ranges=_named(tensors, RANGE),
                cuts={key: int(value) for key, value in facts["cuts"].items()},
                gains={key: float(value) for key, value in facts["gains"].items()},
                whole=_named(tensors, WHOLE),
                scale=tensors["scale"],
                shift=tensors["shift"],
                sensitivities=dict(facts.get("sensitivities", {})),
            )
        except (SafetensorError, OSError, KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{FIELD} is {name!r}, which holds no quantization ({error}); write one with "
                "`hasten learn quantize`."
            ) from error

    def require_calibrated(self, time: float) -> None:
        """Refuse a time told to the network near which no step was calibrated."""
        require(
            min(abs(known - time) for known in self.times) <= NEAR,
            f"{FIELD} was calibrated on the states of {self.plan}, and this plan asks at time "
            f"{time:g}, which that one does not; calibrate on this plan.",
        )

    def network(self, net: nn.Module) -> nn.Module:
        """``net`` in few bits; ``net`` stays as it is. Its integers are the same in every row of
        ranges: what a layer sees is stretched to one range by a factor of the row.

        Raises:
            UserError: a layer that was calibrated is not there.
        """
        out, row, factors = copy.deepcopy(net), Row(), []
        known = dict(layers(out))
        for number, (name, bits) in enumerate(self.bits.items()):
            require(name in known, f"{FIELD} knows layer {name!r}, which this network has not.")
            cut, gain = self.cuts.get(name), self.gains.get(name, 1.0)
            span, its = fitted(joined(self.ranges[name], gain))
            factors.append(its[:, None])
            factor = Columns(row, number, number + 1) if self.rows > 1 else None
            rest = (cut, gain, self.whole.get(name), factor)
            replace_(out, name, QuantizedLayer(known[name], bits, span, *rest))
        if self.rows > 1:
            columns = torch.cat([*factors, self.scale, self.shift], dim=1)
            mended = ByRow(out, row, TimeTable(self.times, columns[list(self.groups)]))
        else:
            mended = Corrected(out, self.scale[0], self.shift[0])
        return mended.to(next(net.parameters()).device).eval()

    def alone(self, net: nn.Module) -> nn.Module:
        """:meth:`network` for its times and no others: what they tell the network is worked out
        ahead where that takes less memory."""
        return at_times(self.network(net), self.times).eval()


def _named(tensors: dict[str, torch.Tensor], prefix: str) -> dict[str, torch.Tensor]:
    """Those whose keys begin with ``prefix``, by the rest of the key."""
    mine = {key: value for key, value in tensors.items() if key.startswith(prefix)}
    return {key.removeprefix(prefix): value for key, value in mine.items()}


class Corrected(nn.Module):
    """A network whose answer is scaled and shifted by channel (PTQD's correction of the correlated
    part and of the mean of what quantization adds, 2305.10657).

    ``integers``: what a runtime's heavy operators may compute in.
    """

    integers = ("u8", "i8")

    scale: torch.Tensor
    shift: torch.Tensor

    def __init__(self, net: nn.Module, scale: torch.Tensor, shift: torch.Tensor) -> None:
        super().__init__()
        self.net = net
        self.register_buffer("scale", scale.clone())
        self.register_buffer("shift", shift.clone())

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: Condition | torch.Tensor | None = None
    ) -> torch.Tensor:
        answer = self.net(x, t, condition)
        wide = (1, -1, *[1] * (answer.ndim - 2))
        return answer * self.scale.view(wide) + self.shift.view(wide)


class TimeTable(nn.Module):
    """What times (n,) tell: (n, width), that of the nearest of those that are known."""

    table: torch.Tensor

    def __init__(self, times: tuple[float, ...], table: torch.Tensor) -> None:
        super().__init__()
        self.times = times
        self.register_buffer("table", table)

    def forward(self, t: torch.Tensor) -> torch.Tensor:
        return self.table[nearest(t, self.times)]


class ByRow(nn.Module):
    """A network whose layers find in ``row`` what the time tells them, and whose answer is then
    scaled and shifted as :class:`Corrected` does, by the columns at the end of it."""

    integers = Corrected.integers

    def __init__(self, net: nn.Module, row: Row, by_time: nn.Module) -> None:
        super().__init__()
        self.net, self.row, self.by_time = net, row, by_time

    def forward(
        self, x: torch.Tensor, t: torch.Tensor, condition: Condition | torch.Tensor | None = None
    ) -> torch.Tensor:
        self.row.now = self.by_time(t)
        answer = self.net(x, t, condition)
        channels = answer.shape[1]
        now = self.row.now[:, -2 * channels :].unflatten(1, (-1, *[1] * (answer.ndim - 2)))
        scale, shift = now.split(channels, dim=1)
        return answer * scale + shift


@levers.add("quantize")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Quantize(Lever):
    """The network in integers, as the ``file`` says that `hasten learn quantize` wrote for the
    plan."""

    file: str

    stage = Stage.NUMBERS
    traits = frozenset({Trait.WHOLE, Trait.INTEGERS, Trait.BITS})

    def __post_init__(self) -> None:
        require_path("lever option file", self.file)

    @functools.cached_property
    def quantization(self) -> Quantization:
        """What the file holds."""
        return Quantization.read(self.file)

    def check(self, resolved: Resolved) -> None:
        plan, engine = resolved.plan, resolved.engine
        weights = self.quantization.weights
        require_weights(FIELD, weights, resolved.model, plan.other_weights)
        require(
            plan.dtype in engine.beside_integers,
            f"dtype is {plan.dtype!r}, and beside integers engine {engine.part_name!r} computes in "
            f"{' or '.join(engine.beside_integers)}; set dtype=float32.",
        )

    def check_times(self, times: Sequence[float]) -> None:
        for time in times:
            self.quantization.require_calibrated(time)

    def transform(self, model: Model, resolved: Resolved) -> Model:
        return dataclasses.replace(model, net=self.quantization.alone(model.net))

    def wrap(self, net: Prepared, model: Model, resolved: Resolved) -> Prepared:
        return Calibrated(self.quantization, net, model.net)


class Calibrated(Prepared):
    """A prepared network in integers, which refuses times that were not calibrated."""

    def __init__(self, quantization: Quantization, net: Prepared, module: nn.Module) -> None:
        self._quantization, self._net = quantization, net
        self.versions = net.versions
        tensors = (*module.parameters(), *module.buffers())
        size = sum(tensor.numel() * tensor.element_size() for tensor in tensors)
        kinds = sorted({str(bits) for bits in quantization.bits.values()})
        self.precision = f"{net.precision}, {'/'.join(kinds)}"
        self.weights_mb = round(size / 1e6, 3)

    def __call__(
        self,
        x: torch.Tensor,
        t: torch.Tensor,
        condition: Condition | torch.Tensor | None = None,
        *features: torch.Tensor,
    ) -> torch.Tensor | tuple[torch.Tensor, ...]:
        for time in set(t.tolist()):
            self._quantization.require_calibrated(time)
        return self._net(x, t, condition, *features)


def prepared(quantization: Quantization, model: Model, engine: Engine, dtype: str) -> Calibrated:
    """``model``'s network in integers, prepared by ``engine``."""
    whole = dataclasses.replace(model, net=quantization.alone(model.net))
    return Calibrated(quantization, engine.prepare(whole, dtype), whole.net)


def layers(net: nn.Module) -> list[tuple[str, Layer]]:
    """The layers that can be quantized: convolutions and linear ones, without the first and last,
    the embeddings of time and label, and what normalises."""
    found = [
        (name, part)
        for name, part in net.named_modules()
        if isinstance(part, nn.Conv2d | nn.Linear)
    ]
    kept = set(family_of(net).unquantized)
    return [(name, part) for name, part in found if not set(name.split(".")) & kept]


def replace_(net: nn.Module, name: str, layer: nn.Module) -> None:
    """Put ``layer`` where ``net`` has the layer ``name``."""
    parent, _, last = name.rpartition(".")
    owner = net.get_submodule(parent)
    if last.isdigit() and isinstance(owner, nn.ModuleList | nn.Sequential):
        owner[int(last)] = layer
    else:
        setattr(owner, last, layer)
