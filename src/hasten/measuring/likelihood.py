"""Likelihood: bits a dimension that a model gives real pictures, by its probability-flow ODE."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch

from hasten.core.condition import Condition
from hasten.core.denoiser import NetworkDenoiser
from hasten.core.errors import NonFiniteError, UserError, require, require_choice, require_whole
from hasten.core.model import Model
from hasten.core.plan import Plan, PlanLike, as_plan
from hasten.core.random_streams import Stream, generator
from hasten.data.rows import Pictures, evenly_spread, load_rows, picture_column
from hasten.measuring.interval import mean_interval
from hasten.measuring.probability_flow import Flow

CHECKED = 8  # pictures whose integral is also taken with half the steps
PROBES = ("rademacher", "gaussian")
DEQUANTISATION = "uniform, one draw a picture"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Likelihood:
    """Bits a dimension of ``n`` pictures of 8 bits, with uniform noise added to their integers: in
    expectation no less than what the model, summed over each integer's cell, gives the integers.

    Attributes:
        bits: the mean over pictures; ``low`` and ``high`` its 95% interval.
        ratios: sigma / alpha of the lowest and the noisiest level; the density is that of data with
            as much noise as the lowest level has.
        labels: whether the density is that of a picture given its label, of "no label", or of a
            model without labels.
        integration: the mean change in bits with half the steps, on the first pictures.
    """

    bits: float
    low: float
    high: float
    n: int
    dequantisation: str
    labels: str
    ratios: tuple[float, float]
    steps: int
    evaluations: int
    probes: str
    integration: float
    data: str = ""

    def to_dict(self) -> dict[str, object]:
        """Plain data, as ``--json`` prints it."""
        return dataclasses.asdict(self)

    def __str__(self) -> str:
        return (
            f"{self.bits:.4f} bits a dimension (95%: {self.low:.4f} to {self.high:.4f}, n = "
            f"{self.n}; {self.labels}; dequantisation {self.dequantisation}; {self.probes}; "
            f"{self.evaluations} evaluations; half the steps change it by {self.integration:.1e})"
        )


def likelihood(
    model: Model,
    pictures: torch.Tensor,
    *,
    condition: object = None,
    plan: PlanLike | None = None,
    steps: int = 50,
    probes: int = 1,
    probe: str = "rademacher",
    seed: int = 0,
    batch: int = 64,
) -> Likelihood:
    """The likelihood of ``pictures``, uint8 (n, c, h, w).

    Args:
        condition: their labels (n); None is "no label".
        plan: its engine and dtype run the network, which has to be eager in float32; it must not
            ask for guidance or clipping, which change the flow.
        steps: of classical Runge-Kutta, four evaluations each, evenly in log-SNR.
        probes: random probes a trace; probe: rademacher or gaussian.
        seed: picture i's probes and dequantisation depend on (seed, i) alone.
        batch: pictures at a time.

    Raises:
        UserError: latents of another model's codec, an engine without gradients, no labels where
            the model needs them, or an argument out of range.
    """
    plan = as_plan(plan)
    for name, value, low, high in (("steps", steps, 2, 100_000), ("probes", probes, 1, 1000)):
        require_whole(name, value, low, high)
    require_whole("seed", seed, 0, 2**63 - 1)
    require_whole("batch", batch, 1, 1 << 20)
    require_choice("probe", probe, PROBES)
    _require_plan(model, plan)
    shape, want = tuple(pictures.shape[1:]), model.picture_shape
    whole = pictures.dtype == torch.uint8 and shape == want and len(pictures) > 0
    require(whole, f"pictures are {pictures.dtype} {shape}; likelihood takes torch.uint8 {want}.")
    condition, said = _condition(model, len(pictures), condition)
    net = plan.parts.engine.prepare(model, plan.dtype)
    flow = Flow(model, NetworkDenoiser(model, net), probes, probe)
    bits, change = _bits(flow, pictures, condition, seed, steps, batch)
    mean, low, high = mean_interval(bits)
    return Likelihood(
        bits=mean,
        low=low,
        high=high,
        n=len(bits),
        dequantisation=DEQUANTISATION,
        labels=said,
        ratios=(flow.low.ratio, flow.high.ratio),
        steps=steps,
        evaluations=4 * steps,
        probes=f"{probes} {probe} probe{'s' if probes > 1 else ''} a trace",
        integration=change,
    )


def likelihood_of(
    model: Model,
    data: str | None,
    *,
    pictures: int = 1000,
    plan: PlanLike | None = None,
    **options: Any,
) -> Likelihood:
    """:func:`likelihood` of ``pictures`` of ``data``, evenly spread through its rows, given their
    labels where the model and the data have them.

    Args:
        data: a parquet file, a folder of pictures, or a hub name.
        options: as :func:`likelihood` takes them.

    Raises:
        UserError: there is no data, or it cannot be read.
    """
    require_whole("pictures", pictures, 1, 10_000_000)
    if data is None:
        raise UserError("likelihood is of real pictures; name them with data.")
    plan = as_plan(plan)
    _require_plan(model, plan)
    rows = load_rows(data)
    places = evenly_spread(len(rows), pictures)
    label = "label" if model.labels is not None and "label" in rows.column_names else None
    dataset = Pictures(rows.select(places), model.picture_shape, picture_column(rows), label)
    some = dataset[np.arange(len(dataset))]
    result = likelihood(model, some, condition=dataset.labels, plan=plan, **options)
    return dataclasses.replace(result, data=data)


def _bits(
    flow: Flow,
    pictures: torch.Tensor,
    condition: Condition,
    seed: int,
    steps: int,
    batch: int,
) -> tuple[torch.Tensor, float]:
    """Bits a dimension (n,), and their mean change with half the steps on the first pictures."""
    batch_bits, change = [], 0.0
    for first in range(0, len(pictures), batch):
        part = pictures[first : first + batch]
        streams = [generator(seed, first + k, Stream.LIKELIHOOD) for k in range(len(part))]
        x, draws = _dequantised(part, streams), flow.draws(streams)
        places = range(first, first + len(part))
        some = condition.rows(places).to(flow.model.device)
        batch_bits.append(flow.bits(x, some, draws, steps))
        if first == 0:
            few = slice(0, CHECKED)
            some = some.rows(range(min(CHECKED, len(part))))
            coarse = flow.bits(x[few], some, draws[:, few], steps // 2)
            change = float((coarse - batch_bits[0][few]).abs().mean())
    bits = torch.cat(batch_bits)
    if not torch.isfinite(bits).all():
        raise NonFiniteError(
            "the likelihood is not finite: the network's answer or its gradient is not. Its "
            "weights may be damaged; load the model again."
        )
    return bits, change


def _dequantised(pictures: torch.Tensor, streams: Sequence[torch.Generator]) -> torch.Tensor:
    """uint8 integers with uniform noise on [0, 1) added, as numbers in [0, 1), float64."""
    noise = torch.empty(pictures.shape, dtype=torch.float64)
    for row, stream in zip(noise, streams, strict=True):
        row.uniform_(generator=stream)
    return (pictures.cpu() + noise) / 256


def _condition(model: Model, n: int, condition: object) -> tuple[Condition, str]:
    if model.labels is None:
        return model.condition(n, condition), "a model without labels"
    require(
        condition is not None or model.null_label is not None,
        f"model {model.name!r} was not trained without labels, and the pictures have none; give "
        "condition, or data with a column 'label'.",
    )
    return model.condition(n, condition), "no label" if condition is None else "given the labels"


def _require_plan(model: Model, plan: Plan) -> None:
    require(
        plan.engine == "eager" and plan.dtype == "float32",
        f"likelihood needs gradients of the network in float32, and the plan has engine "
        f"{plan.engine!r} and dtype {plan.dtype!r}; set engine=eager, dtype=float32.",
    )
    require(
        plan.guidance == 1.0 and plan.clip is None,
        "guidance and clip change the flow whose likelihood is measured; set guidance=1 and drop "
        "clip.",
    )
    require(
        model.codec.bound == 1.0,
        f"likelihood is of pixels, but model {model.name!r} makes latents, whose codec has no "
        "exact inverse; use a model whose codec is identity or pixel-unshuffle.",
    )
