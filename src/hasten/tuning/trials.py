"""The questions a tuner asks about plans, and how each is answered: one function a question.

A question is plain data ``{"ask": name, ...}``, and so is its answer: a journal can hold both, and
a process of its own can be asked.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from hasten.core.engine import Prepared, beside, engines
from hasten.core.errors import UserError
from hasten.core.files import write_bytes
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Stream, generator
from hasten.learning.compression.quantize import learn_quantize
from hasten.measuring.features import FeatureNet
from hasten.measuring.frechet import frechet, influence, statistics
from hasten.measuring.measure import measure, pictures_of
from hasten.measuring.memory import free_mb, predicted_mb, require_memory, weights_mb
from hasten.measuring.ode_error import Reference, reference
from hasten.measuring.quality import Quality, quality
from hasten.measuring.real import Real, real_for
from hasten.measuring.timer import side_by_side, timed
from hasten.sampling import build, prepare

Facts = dict[str, Any]
QUALITY = tuple(field.name for field in dataclasses.fields(Quality))
KEPT = 6  # sets of pictures
ROOM = 3.0  # times the weights: less than that is free, and prepared networks make room
EIGHT, ROUNDED = "w8a8,float", 0.02  # bits of layers, and how far they may move a plan's pictures
BOUNDS = {"float32": 1e-3, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 5e-2}


@dataclasses.dataclass(kw_only=True)
class Lab:
    """A model on a bench, with everything that several questions share.

    Attributes:
        seed: of the reference's noise.
        data, features: what pictures are held against, see :func:`real_for`.
        folder: where the converged solution is kept, so that the next process need not make it
            again.
    """

    model: Model
    seed: int = 0
    data: str | None = None
    features: str | None = None
    folder: Path | None = None
    _nets: dict[tuple[str, ...], Prepared] = dataclasses.field(default_factory=dict)
    _references: dict[str, Reference] = dataclasses.field(default_factory=dict)
    _made_pictures: dict[tuple[str, int], torch.Tensor] = dataclasses.field(default_factory=dict)
    _real: Real | None = None

    def answer(self, question: Facts) -> Facts:
        """The answer to ``question``.

        Raises:
            UserError: the plan cannot be run here, with the reason.
        """
        known: dict[str, Callable[..., Facts]] = {
            "call": self.call,
            "converge": self.converge,
            "ode_error": self.ode_error,
            "report": self.report,
            "quality": self.quality,
            "worse": self.worse,
            "race": self.race,
            "quantize": self.quantize,
            "time": self.time,
        }
        return known[question["ask"]](**{k: v for k, v in question.items() if k != "ask"})

    def call(self, plan: Facts, batch: int) -> Facts:
        """What one network call of the plan's engine costs, the first apart, and how far its answer
        is from the eager float32 one (root mean square, relative)."""
        chosen = Plan(**plan)
        require_memory(self.model, chosen, batch)
        net = self._net(chosen)
        rows = batch * (2 if chosen.guidance != 1.0 else 1)
        x, t, condition = self._inputs(chosen, rows)
        with torch.inference_mode():
            with beside(engines.parse(chosen.engine)):
                timing = timed(lambda: net(x, t, condition), device=self.model.device, seconds=1.0)
            wanted = self._net(Plan())(x, t, condition)
            apart = float((net(x, t, condition) - wanted).norm() / wanted.norm())
        bound = BOUNDS[net.precision]
        if not apart <= bound:
            raise UserError(
                f"engine {chosen.engine!r} in {net.precision} answers {apart:.2g} (relative) apart "
                f"from eager float32, more than {bound:g}; set engine=eager or dtype=float32."
            )
        facts = {"precision": net.precision, "weights_mb": net.weights_mb, **net.versions}
        return {**timing.milliseconds(), "batch": batch, "apart": apart, **facts}

    def converge(self, against: Facts) -> Facts:
        """Makes the reference; the answer is what it is."""
        held = self.converged(against)
        return {"plan": str(held.plan), "n": len(held.noise)}

    def ode_error(self, plan: Facts, n: int, against: Facts) -> Facts:
        """Evaluations, and ODE error on ``n`` pictures from the converged solution ``against``: the
        plan that makes it, and of how many pictures."""
        chosen = Plan(**plan)
        net = self._net(chosen)
        held = self.converged(against).first(n)
        apart = held.ode_error(chosen, net, self.together)
        evaluations = build(self.model, chosen, net=net).evaluations
        found = None if apart is None else dataclasses.asdict(apart)
        return {"evaluations": evaluations, "ode_error": found}

    def report(self, plan: Facts, against: Facts, batch: int, seconds: float) -> Facts:
        """The plan's Report without the distances from real pictures."""
        chosen = Plan(**plan)
        held = None if chosen.stochastic else self.converged(against)
        found = measure(
            self.model,
            chosen,
            n=0,
            against=held,
            pictures=0,
            batch=batch,
            seconds=seconds,
            net=self._net(chosen),
        )
        return found.to_dict()

    def quality(self, plan: Facts, n: int) -> Facts:
        """FD, KD, precision and recall of ``n`` pictures."""
        return dataclasses.asdict(quality(self._pictures(Plan(**plan), n), self._reals()))

    def worse(self, plan: Facts, than: Facts, n: int, share: float) -> Facts:
        """FD of ``plan`` minus 1 + ``share`` of FD of ``than``, from the same noise, with the
        interval of their paired difference."""
        real = self._reals()
        value, pulls = 0.0, torch.zeros(n, dtype=torch.float64)
        for one, weight in ((plan, 1.0), (than, -1.0 - share)):
            seen = real.features(self._pictures(Plan(**one), n))
            value += weight * frechet(*statistics(seen), real.mean, real.covariance)
            pulls += weight * influence(seen, real.mean, real.covariance)
        half = 1.96 * float(pulls.std()) / n**0.5
        return {"value": value, "low": value - half, "high": value + half, "n": n}

    def _pictures(self, plan: Plan, n: int) -> torch.Tensor:
        """Kept from one question to the next, while they are few."""
        key = (plan.key, n)
        if key not in self._made_pictures:
            if len(self._made_pictures) >= KEPT:
                self._made_pictures.pop(next(iter(self._made_pictures)))
            sampler = build(self.model, plan, net=self._net(plan))
            self._made_pictures[key] = pictures_of(sampler, n, self.together)
        return self._made_pictures[key]

    def time(self, plan: Facts, batch: int, seconds: float, number: int) -> Facts:
        """What ``batch`` pictures of the plan take, alone; ``number`` tells repetitions apart."""
        chosen = Plan(**plan)
        condition = None if self.model.labels is None else 0
        sampler = build(self.model, chosen, net=self._net(chosen))
        one = timed(
            lambda: sampler.sample(batch, condition=condition, batch=batch),
            device=self.model.device,
            seconds=seconds,
        )
        return one.milliseconds()

    def race(
        self,
        plans: list[Facts],
        batch: int,
        rounds: int,
        seconds: float = float("inf"),
        least: int = 1,
    ) -> Facts:
        """Latencies of the plans, timed in turn with each other."""
        condition = None if self.model.labels is None else 0
        chosen = [Plan(**plan) for plan in plans]
        samplers = [build(self.model, plan, net=self._net(plan)) for plan in chosen]
        calls = [
            lambda sampler=sampler: sampler.sample(batch, condition=condition, batch=batch)
            for sampler in samplers
        ]
        timings = side_by_side(
            calls, device=self.model.device, rounds=rounds, seconds=seconds, least=least
        )
        return {"timings": [timing.milliseconds() for timing in timings]}

    @functools.cached_property
    def together(self) -> int:
        """How many pictures at a time half of the free memory can hold, 64 at most."""
        for batch in (64, 16, 4):
            need = predicted_mb(self.model, Plan(guidance=2.0 if self.model.labels else 1.0), batch)
            if need is None or need < 0.5 * free_mb(self.model.device):
                return batch
        return 1

    def quantize(self, plan: Facts, file: str) -> Facts:
        """The network in eight bits but for the layers that need floats, calibrated on the plan;
        how far each layer alone moves its pictures."""
        held = learn_quantize(self.model, Plan(**plan), file, bits=EIGHT, ode_error=ROUNDED)
        layers = [
            {"layer": name, "bits": str(held.bits.get(name, "float")), "ode_error": moved}
            for name, moved in held.sensitivities.items()
        ]
        return {"file": file, "layers": sorted(layers, key=lambda one: -one["ode_error"])}

    def _net(self, plan: Plan) -> Prepared:
        key = plan.network
        if key not in self._nets:
            if free_mb(self.model.device) < ROOM * weights_mb(self.model.net):
                self._nets.clear()
            self._nets[key] = prepare(self.model, plan)
        return self._nets[key]

    def _inputs(self, plan: Plan, rows: int) -> tuple[torch.Tensor, torch.Tensor, Any]:
        """Noisy pictures of no content over the whole range of levels, as the network sees them."""
        levels = Plan(steps=min(max(rows, 3), 50)).levels(self.model.schedule)[:-1]
        model = self.model
        x = torch.stack(
            [
                torch.randn(model.shape, generator=generator(self.seed, i, Stream.TUNER))
                for i in range(rows)
            ]
        )
        at = [levels[(i * 7 + 3) % len(levels)] for i in range(rows)]
        scale = torch.tensor([model.prediction.at(level).scale * level.sigma for level in at])
        x = x * scale.float().reshape(-1, *[1] * (x.ndim - 1))
        condition = None
        if model.labels is not None:
            condition = (torch.arange(rows) % model.labels).to(model.device)
        t = torch.tensor([level.t for level in at], dtype=torch.float32)
        return x.to(model.device), t.to(model.device), condition

    def converged(self, against: Facts) -> Reference:
        """The converged solution ``against``, made once: by ``plan``, of ``n`` pictures."""
        plan, n = Plan(**against["plan"]), against["n"]
        key = f"converged-{self.model.sha256[:12]}-{n}-{self.seed}-{plan.key}"
        if key not in self._references:
            self._references[key] = self._kept(plan, n, key) or self._made(plan, n, key)
        return self._references[key]

    def _made(self, plan: Plan, n: int, key: str) -> Reference:
        facts = {"plan": plan, "seed": self.seed, "net": self._net(plan)}
        held = reference(self.model, n, batch=self.together, **facts)
        if self.folder is not None:
            kept = {"noise": held.noise, "pictures": held.pictures}
            write_bytes(self.folder / f"{key}.safetensors", save(kept))
        return held

    def _kept(self, plan: Plan, n: int, key: str) -> Reference | None:
        file = None if self.folder is None else self.folder / f"{key}.safetensors"
        if file is None or not file.is_file():
            return None
        try:
            held = load(file.read_bytes())
        except SafetensorError:  # cut off or damaged: made again
            return None
        labels = self.model.labels
        condition = None if labels is None else [i % labels for i in range(n)]
        beside = FeatureNet.for_model(self.model)
        return Reference(model=self.model, plan=plan, condition=condition, features=beside, **held)

    def _reals(self) -> Real:
        if self._real is None:
            self._real = real_for(self.model, self.data, self.features)
        if self._real is None:
            raise UserError(f"model {self.model.name!r} ships no statistics; give data.")
        return self._real
