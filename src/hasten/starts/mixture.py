"""Start from a mixture of Gaussians."""

from __future__ import annotations

import dataclasses
import functools
import math

import numpy as np
import torch

from hasten.core.condition import Condition
from hasten.core.denoiser import FunctionDenoiser
from hasten.core.errors import require, require_whole
from hasten.core.executor import executors
from hasten.core.level import Level
from hasten.core.model import Model
from hasten.core.noise_schedule import NoiseSchedule
from hasten.core.program import Program
from hasten.core.session import Session
from hasten.core.solver import solvers, trace
from hasten.core.start import Begin, LatentsOf, starts
from hasten.starts.early import Early, streams
from hasten.starts.files import FIELD, FromFile
from hasten.starts.normals import NAMES, Drawn, Normals, rows_of

NOISIEST = 80.0


@starts.add("mixture")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Mixture(FromFile, Early):
    """Several normal distributions for each label, crossed from the top to ``ratio`` by the
    probability flow of the mixture in ``steps`` steps: its denoiser is a formula, and which
    distribution a picture ends in follows from its noise. Without a label, all of them.

    ``steps`` = 0 crosses nothing: a distribution is drawn for each picture, and its own flow is
    exact. The law is the mixture's at hardly any cost, but pictures are no longer near those that
    the whole walk makes of the same noise.
    """

    names = NAMES

    steps: int = 8

    def __post_init__(self) -> None:
        super().__post_init__()
        require_whole("start option steps", self.steps, 0, 1000)

    def prepare(self, model: Model, other: LatentsOf) -> Begin:
        normals = self._normals(model)
        shares = _shares(normals, model)
        top, run = model.schedule.at(model.schedule.noisy), executors.parse("sequential").run

        @functools.cache
        def down_to(level: Level) -> Program:
            return trace(solvers.parse("dpmpp(order=2)"), self._levels(model.schedule, level))

        @functools.cache
        def drawn(level: Level) -> Drawn:
            return _drawn(normals, model, level)

        def begin(noise: torch.Tensor, level: Level, condition: Condition) -> torch.Tensor:
            if level == top:
                return noise * top.spread
            if self.steps == 0:
                return drawn(level)(noise, _uniform(noise), condition.labels)
            every = torch.full((len(noise),), len(shares) - 1, device=noise.device)
            chances = shares[rows_of(condition.labels, model.null_label, every)].log()
            wanted = chances.isfinite().any(0).nonzero()[:, 0]
            some, chosen = normals.some(wanted), chances[:, wanted]
            exact = FunctionDenoiser(lambda x, level: some.denoise(x, level, chosen))
            session = Session(exact, lambda *_: noise)
            x = run(down_to(level), {"x": noise.flatten(1) * top.spread}, session)
            return x.view(noise.shape)

        return begin

    def drawn(self, model: Model, level: Level) -> Drawn | None:
        return _drawn(self._normals(model), model, level) if self.steps == 0 else None

    def _normals(self, model: Model) -> Normals:
        file = self.learned()
        file.facts.check(model)
        normals = Normals.of(file.tensors, model)
        labels = set(range(model.labels or 0))
        require(labels <= set(normals.label.tolist()), f"{FIELD} lacks a label; learn it again.")
        return normals

    def _levels(self, schedule: NoiseSchedule, last: Level) -> list[Level]:
        """Evenly in log-SNR; a top without signal is kept, and counts as one at 80."""
        high = min(schedule.at(schedule.noisy).ratio, max(NOISIEST, 2 * last.ratio))
        logs = np.linspace(math.log(high), math.log(last.ratio), self.steps + 1)[1:-1]
        between = [schedule.at(schedule.position(-value)) for value in logs]
        return [schedule.at(schedule.noisy), *between, last]


def _drawn(normals: Normals, model: Model, level: Level) -> Drawn:
    top = model.schedule.at(model.schedule.noisy)
    return Drawn(normals, _shares(normals, model), model.null_label, top, level)


def _shares(normals: Normals, model: Model) -> torch.Tensor:
    """The share (rows, count) of each distribution among the pictures of each label, those of every
    label in the last row."""
    labels = torch.arange(model.labels or 0, device=normals.label.device)
    mine = (labels[:, None] == normals.label).to(normals.weight.dtype)
    return torch.cat([mine * normals.weight, normals.weight[None]])


def _uniform(noise: torch.Tensor) -> torch.Tensor:
    """A number (n,) from 0 to 1 for each picture, from its noise's own bits."""
    draws = [torch.rand((), generator=stream) for stream in streams(noise)]
    return torch.stack(draws).to(noise.device)
