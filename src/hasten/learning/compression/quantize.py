"""Calibrate a quantization on the states of the plan that will run it."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from hasten.core.artifact import digest
from hasten.core.engine import engines
from hasten.core.errors import require, require_choice, require_number, require_whole
from hasten.core.lever import Trait
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Seed
from hasten.learning.compression.gptq import fits, products, rounded
from hasten.levers.quantize import Quantization, layers
from hasten.levers.quantize import prepared as in_integers
from hasten.levers.quantized_layer import FLOAT, Bits, Layer, in_few_bits, stretched, weight_scale
from hasten.sampling import build, resolve, subject

SAMPLE = 4096  # numbers of a layer's input that are kept a picture batch
SHRUNK = (1.0, 0.95, 0.9, 0.85, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3)  # ranges that are tried, of the whole
POWER = 4.0  # of an error: the far ones count for more
PAYS = 2.0  # how many times smaller, squared, rows a step have to make the rounding of inputs
Tensors = tuple[torch.Tensor, ...]


@dataclasses.dataclass
class _Seen:
    """What a layer saw, call by call: samples of its input, of both halves where it is cut; and the
    products of its inputs, summed over all calls, where its weights are rounded by them."""

    values: list[list[torch.Tensor]] = dataclasses.field(default_factory=list)
    cut: int | None = None
    products: torch.Tensor | None = None

    def pieces(self, calls: list[int]) -> list[torch.Tensor]:
        """The samples of those calls, a tensor a half."""
        chosen = [self.values[call] for call in calls]
        return [torch.cat(piece) for piece in zip(*chosen, strict=True)]

    def row(self, calls: list[int], bits: Bits) -> torch.Tensor:
        """The range of those calls (pieces, 2) with which activations in ``bits`` are nearest."""
        return torch.stack([_range(piece, bits) for piece in self.pieces(calls)])


def learn_quantize(
    model: Model,
    plan: Plan,
    out: str | Path | None = None,
    *,
    bits: str | Bits = "w8a8",
    ode_error: float | None = None,
    rows: int | str = "auto",
    n: int = 64,
    correct: bool = True,
    rounding: str = "gptq",
    only: set[str] | None = None,
) -> Quantization:
    """The quantization of ``model`` for ``plan``, calibrated on ``n`` pictures that the plan itself
    makes, and written to the file ``out``.

    Args:
        bits: ``w8a8``, ``w8a16``, ``w4a8``; or two, the fewer first, as in ``w4a8,w8a8`` or
            ``w8a8,float``: then the sensitivity of every layer is measured, and those that matter
            least for their size get the fewer bits.
        ode_error: how far (root mean square) the pictures of such a mix may be from those of the
            float network; errors of layers are taken to add in squares.
        rows: "steps" for ranges of each step's own, "static" for one row, or how many groups. With
            several, what layers see is stretched and shrunk again in every call. "auto" is one row
            where activations have eight bits or more and :meth:`Calibration.gained` is below 2.
        correct: fold the mean error of each row into the network's answer.
        rounding: "gptq" for weights that make up for each other's rounding, on all states of the
            plan; "nearest" for the nearest integers, as a network wants that was trained in few
            bits.
        only: layers to quantize; all that can be, without it.

    Raises:
        UserError: a plan that runs in parallel or caches features, an option out of range.
    """
    fewer, chosen = _bits(bits, ode_error)
    require_whole("n", n, 1, 100_000)
    if isinstance(rows, str):
        require_choice("rows", rows, ("auto", "steps", "static"))
    else:
        require_whole("rows", rows, 1, 10_000)
    require_choice("rounding", rounding, ("gptq", "nearest"))
    chosen_levers = plan.parts.levers
    require(
        plan.executor == "sequential"
        and not any(
            Trait.WHOLE in lever.traits or Trait.SPLITS in lever.traits for lever in chosen_levers
        ),
        "a quantization is calibrated step by step on one whole network; drop quantization, "
        "feature cache and executor of the plan.",
    )
    plain = plan.model_copy(update={"engine": "eager", "dtype": "float32", "device": None})
    resolved = resolve(plain, model)
    watched = resolved.structured  # what the plan's other levers make of the network
    run = Calibration(watched, only, rounding == "gptq")
    sampler = build(model, plain, net=resolved.engine.prepare(watched, plain.dtype))
    condition = model.labels_in_turn(n)
    with run.watching():
        sampler.sample(n, seed=Seed.QUANTIZATION, condition=condition, batch=n)
    if rows == "auto":
        few = min(
            (choice for choice in (fewer, chosen) if choice), key=lambda choice: choice.activations
        )
        pays = few.activations < 8 or (few.activations < FLOAT and run.gained(few) >= PAYS)
        rows = "steps" if pays else "static"
    quantization = run.quantization(plain, chosen or fewer or Bits(), rows)
    quantization = run.in_bits(
        quantization, {} if chosen is None else dict.fromkeys(quantization.ranges, chosen)
    )
    if fewer is not None and ode_error is not None:
        quantization = mixed(model, plain, run, quantization, fewer, ode_error)
    if correct:
        quantization = run.corrected(quantization)
    if out is not None:
        quantization.write(Path(out))
    return quantization


def _bits(bits: str | Bits, ode_error: float | None) -> tuple[Bits | None, Bits | None]:
    """The fewer bits of a mix, None where there is none, and the others, None for floats."""
    texts = str(bits).split(",")
    require(len(texts) <= 2, f"bits is {bits!r}; give one, or two as in w4a8,w8a8.")
    require(
        (len(texts) == 2) == (ode_error is not None),
        f"bits is {bits!r} and ODE error is {ode_error}; a mix of two (w4a8,w8a8) is chosen under "
        "a "
        "ODE error, so give both or neither.",
    )
    if ode_error is not None:
        require_number("ode_error", ode_error, 1e-9, 1e3)
        first, last = (text.strip() for text in texts)
        return Bits.parse(first), None if last == "float" else Bits.parse(last)
    return None, Bits.parse(texts[0])


def mixed(
    model: Model,
    plan: Plan,
    run: Calibration,
    quantization: Quantization,
    fewer: Bits,
    ode_error: float,
    n: int = 16,
) -> Quantization:
    """``quantization`` with as many weights in the bits ``fewer`` as an ODE error of ``ode_error``
    leaves room for, by the sensitivities of the layers, each measured on ``n`` pictures."""
    net = subject(model, plan).net
    wanted = _pictures(model, plan, None, n)

    def apart(bits: dict[str, Bits]) -> float:
        now = run.in_bits(quantization, bits)
        return float((_pictures(model, plan, now, n) - wanted).square().mean().sqrt())

    alone = {name: apart({name: fewer}) for name in quantization.ranges}
    sizes = {name: net.get_submodule(name).weight.numel() for name in alone}  # type: ignore[union-attr]
    square, bits = apart(quantization.bits) ** 2, dict(quantization.bits)
    for name in sorted(alone, key=lambda name: alone[name] ** 2 / sizes[name]):
        square += alone[name] ** 2
        if square > ode_error**2:
            break
        bits[name] = fewer
    require(
        bool(bits),
        f"ODE error is {ode_error:g}, and no layer can be in {fewer} within it; the least moves "
        "the "
        f"pictures by {min(alone.values()):.2g}.",
    )
    return dataclasses.replace(run.in_bits(quantization, bits), sensitivities=alone)


def _pictures(model: Model, plan: Plan, quantization: Quantization | None, n: int) -> torch.Tensor:
    """``n`` pictures of ``plan`` as the network's space has them, in its bits where it is given."""
    prepared = None
    if quantization is not None:
        prepared = in_integers(
            quantization, subject(model, plan), engines.make("eager", {}), "float32"
        )
    condition = model.labels_in_turn(n)
    return build(model, plan, net=prepared).sample(
        n, seed=Seed.QUANTIZATION_SENSITIVITY, condition=condition, batch=n, raw=True
    )


class Calibration:
    """Runs of a float network that remember what its layers saw and what it answered."""

    def __init__(self, model: Model, only: set[str] | None, gptq: bool) -> None:
        self.model, self.gptq = model, gptq
        named = layers(model.net)
        self.layers = [(k, v) for k, v in named if only is None or k in only]
        self.seen = {name: _Seen() for name, _ in self.layers}
        self._whole: dict[tuple[str, int], torch.Tensor] = {}
        self.calls: list[tuple[torch.Tensor, torch.Tensor, object, torch.Tensor]] = []

    @contextlib.contextmanager
    def watching(self) -> Iterator[None]:
        """Hooks on the network and its layers; concatenations before them are seen too."""
        joined = _Concatenations()

        def keep(name: str, layer: Layer) -> Callable[..., None]:
            by_products = self.gptq and fits(layer)

            def hook(_: nn.Module, inputs: Tensors, named: dict[str, torch.Tensor]) -> None:
                x, seen = inputs[0] if inputs else named["input"], self.seen[name]
                if seen.cut is None and not seen.values:
                    seen.cut = joined.first_channels(x)
                pieces = [x] if seen.cut is None else [x[:, : seen.cut], x[:, seen.cut :]]
                seen.values.append([_sampled(piece) for piece in pieces])
                if by_products:
                    here = products(layer, x)
                    seen.products = here if seen.products is None else seen.products + here

            return hook

        def answered(_: nn.Module, inputs: Tensors, answer: torch.Tensor) -> None:
            x, t, *rest = inputs
            condition = rest[0] if rest else None
            self.calls.append((x.clone(), t.clone(), condition, answer.clone()))
            joined.seen.clear()

        watched = [(layer, keep(name, layer)) for name, layer in self.layers]
        hooks = [layer.register_forward_pre_hook(f, with_kwargs=True) for layer, f in watched]
        hooks.append(self.model.net.register_forward_hook(answered))
        try:
            with joined:
                yield
        finally:
            for hook in hooks:
                hook.remove()

    def quantization(self, plan: Plan, bits: Bits, rows: int | str) -> Quantization:
        """The ranges of what was seen, row by row, with which activations in ``bits`` are nearest;
        no layer is in few bits yet."""
        times = tuple(float(t[0]) for _, t, _, _ in self.calls)
        groups = _groups(list(self.seen.values()), len(times), rows)
        calls = [[i for i, own in enumerate(groups) if own == n] for n in range(max(groups) + 1)]

        ranges = {
            name: torch.stack([seen.row(mine, bits) for mine in calls])
            for name, seen in self.seen.items()
        }
        wide = {name: v[..., 1].amax(0) - v[..., 0].amin(0) for name, v in ranges.items()}
        cuts = {name: seen.cut for name, seen in self.seen.items() if seen.cut is not None}
        channels = self.calls[0][3].shape[1]
        return Quantization(
            weights=digest(self.model),
            plan=str(plan),
            bits={},
            times=times,
            groups=tuple(groups),
            ranges=ranges,
            cuts=cuts,
            gains={name: float(wide[name][0] / wide[name][1].clamp(min=1e-12)) for name in cuts},
            whole={},
            scale=torch.ones(len(calls), channels),
            shift=torch.zeros(len(calls), channels),
        )

    def gained(self, bits: Bits) -> float:
        """How many times smaller the squared error of rounding the layers' inputs to ``bits`` is
        with a row of ranges for every step than with one for all; each layer's in units of the
        variance of its input at the step."""
        calls = range(len(self.calls))

        def error(seen: _Seen, call: int, row: torch.Tensor) -> float:
            total = 0.0
            for x, (low, high) in zip(seen.pieces([call]), row.tolist(), strict=True):
                total += _rounding(x, low, high, bits, 2.0) / max(float(x.var()), 1e-30)
            return total

        one_row = own = 0.0
        for seen in self.seen.values():
            static = seen.row(list(calls), bits)
            one_row += sum(error(seen, call, static) for call in calls)
            own += sum(error(seen, call, seen.row([call], bits)) for call in calls)
        return one_row / max(own, 1e-30)

    def in_bits(self, quantization: Quantization, bits: dict[str, Bits]) -> Quantization:
        """``quantization`` with the layers named in ``bits`` in those."""
        known = dict(self.layers)
        for name, its in bits.items():
            seen = self.seen[name].products
            if seen is not None and (name, its.weights) not in self._whole:
                weight, cut = known[name].weight.detach().float(), quantization.cuts.get(name)
                if cut is not None:
                    stretch = stretched(known[name], cut, quantization.gains[name])
                    weight, line = weight / stretch, stretch.expand_as(weight[:1]).flatten()
                    seen = seen * line[:, None] * line
                scale, most = weight_scale(weight, its.weights)
                self._whole[name, its.weights] = rounded(weight, scale, most, seen)
        whole = {
            name: self._whole[name, its.weights]
            for name, its in bits.items()
            if (name, its.weights) in self._whole
        }
        return dataclasses.replace(quantization, bits=bits, whole=whole)

    @torch.inference_mode()
    def corrected(self, quantization: Quantization) -> Quantization:
        """``quantization`` with the least-squares scale and shift that bring each row's answers
        back to those of the float network, channel by channel."""
        scale, shift = quantization.scale.clone(), quantization.shift.clone()
        net = quantization.network(self.model.net)
        for row in range(quantization.rows):
            calls = [
                call
                for call, own in zip(self.calls, quantization.groups, strict=True)
                if own == row
            ]
            mine = torch.cat([net(x, t, condition) for x, t, condition, _ in calls]).double()
            wanted = torch.cat([answer for *_, answer in calls]).double()
            over = (0, *range(2, mine.ndim))
            a, b = mine.mean(over, keepdim=True), wanted.mean(over, keepdim=True)
            spread = ((mine - a) ** 2).mean(over).clamp(min=1e-12)
            slope = ((mine - a) * (wanted - b)).mean(over) / spread
            scale[row] = slope.float()
            shift[row] = (b.flatten() - slope * a.flatten()).float()
        return dataclasses.replace(quantization, scale=scale, shift=shift)


class _Concatenations(TorchFunctionMode):
    """Remembers, within its context and in this thread alone, which feature maps are two others
    concatenated over their channels."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: dict[int, tuple[torch.Tensor, int]] = {}

    def __torch_function__(
        self,
        func: Callable[..., Any],
        types: object,
        args: tuple[Any, ...] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> object:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        if func in (torch.cat, torch.concat, torch.concatenate):
            tensors = args[0] if args else kwargs["tensors"]
            dim = args[1] if len(args) > 1 else kwargs.get("dim", 0)
            if dim == 1 and len(tensors) == 2 and out.ndim == 4:
                self.seen[id(out)] = (out, tensors[0].shape[1])
        return out

    def first_channels(self, x: torch.Tensor) -> int | None:
        """How many channels the first of two concatenated maps has, None where ``x`` is none."""
        known = self.seen.get(id(x))
        return None if known is None else known[1]


def _sampled(x: torch.Tensor) -> torch.Tensor:
    """At most SAMPLE of the numbers of x, evenly spread, with its least and its largest."""
    flat = x.detach().flatten()
    step = max(1, len(flat) // SAMPLE)
    return torch.cat([flat[::step], flat.amin()[None], flat.amax()[None]]).float().cpu()


def _range(x: torch.Tensor, bits: Bits) -> torch.Tensor:
    """Low and high with which the sample ``x``, rounded to the activations' bits, is nearest to
    itself; what lies beyond is cut off."""
    low, high = float(x.amin()), float(x.amax())
    share = min(SHRUNK, key=lambda share: _rounding(x, share * low, share * high, bits, POWER))
    return torch.tensor([share * low, share * high])


def _rounding(x: torch.Tensor, low: float, high: float, bits: Bits, power: float) -> float:
    """The mean ``power`` of the error of rounding ``x``."""
    return float((in_few_bits(x, low, high, bits) - x).abs().pow(power).mean())


def _groups(seen: list[_Seen], count: int, rows: int | str) -> list[int]:
    """Which row each call belongs to: its own, all in one, or runs of calls whose ranges are alike,
    cut where neighbours differ most."""
    if rows == "static":
        return [0] * count
    if rows == "steps" or int(rows) >= count:
        return list(range(count))
    wide = [
        [max(float(x.amax() - x.amin()) for x in call) for call in layer.values] for layer in seen
    ]
    logs = torch.tensor(wide).T.clamp(min=1e-6).log()
    gaps = (logs[1:] - logs[:-1]).norm(dim=1)
    cuts = set((gaps.topk(int(rows) - 1).indices + 1).tolist())
    row, out = 0, []
    for call in range(count):
        row += call in cuts
        out.append(row)
    return out
