"""Carries out the tuner's measurements on a model: one method for each kind of request."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from hasten.core.engine import Prepared, beside
from hasten.core.errors import UserError
from hasten.core.files import write_bytes
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.random_streams import Stream, generator
from hasten.core.report import Estimate, Latency, Report
from hasten.learning.compression.quantize import learn_quantize
from hasten.measuring.features import FeatureNet
from hasten.measuring.frechet import frechet, influence, statistics
from hasten.measuring.macs import network_macs
from hasten.measuring.measure import measure, pictures_of
from hasten.measuring.memory import free_mb, predicted_mb, require_memory, weights_mb
from hasten.measuring.ode_error import Reference, reference
from hasten.measuring.probe import matmul_gflops
from hasten.measuring.prompts import checked_prompts
from hasten.measuring.quality import Quality, quality
from hasten.measuring.real import Real, real_for
from hasten.measuring.timer import side_by_side, timed
from hasten.sampling import Sampler, build, network_key, prepare
from hasten.tuning.records import EngineCost, LayerSensitivity
from hasten.tuning.requests import (
    AnswerT,
    CalibratedNetwork,
    CalibrateQuantization,
    CompareFd,
    MakeReference,
    MeasureQuality,
    MeasureReport,
    Race,
    ReferenceSpec,
    Request,
    Screen,
    Screening,
    TimeAlone,
    TimeNetworkCall,
    TimePlans,
)

KEPT_BYTES = 1 << 28  # of samples that are kept for further requests
FREE_WEIGHTS = (
    3.0  # prepared networks are dropped when less memory than this times the weights is free
)
BATCHES = (64, 16, 4)
MAX_RELATIVE_ERROR = {"float32": 1e-3, "tf32": 1e-2, "float16": 2e-2, "bfloat16": 5e-2}


@dataclasses.dataclass(kw_only=True)
class TrialExecutor:
    """A model with everything that several measurements share.

    Attributes:
        seed: of the reference's noise.
        data, features: the real pictures and the features to compare in, see :func:`real_for`.
        folder: where the reference solution is kept, so that the next process need not make it
            again.
        bounds: for each precision, the relative error above which an engine's answers are wrong.
    """

    model: Model
    seed: int = 0
    data: str | None = None
    features: str | None = None
    folder: Path | None = None
    bounds: Mapping[str, float] = dataclasses.field(default_factory=MAX_RELATIVE_ERROR.copy)
    _nets: dict[tuple[str, ...], Prepared] = dataclasses.field(default_factory=dict)
    _references: dict[str, Reference] = dataclasses.field(default_factory=dict)
    _samples: dict[tuple[str, int], torch.Tensor] = dataclasses.field(default_factory=dict)

    def answer(self, request: Request[AnswerT]) -> AnswerT:
        """Carry out ``request``.

        Raises:
            UserError: the plan cannot be run here, with the reason.
        """
        methods: dict[type[Request[Any]], Callable[[Any], Any]] = {
            TimeNetworkCall: self.time_network_call,
            MakeReference: self.make_reference,
            Screen: self.screen,
            MeasureReport: self.measure_report,
            MeasureQuality: self.measure_quality,
            CompareFd: self.compare_fd,
            TimePlans: self.time_plans,
            TimeAlone: self.time_alone,
            CalibrateQuantization: self.calibrate_quantization,
        }
        return methods[type(request)](request)

    def time_network_call(self, request: TimeNetworkCall) -> EngineCost:
        """What one network call costs, and how far its answer is from eager float32."""
        plan = request.plan
        require_memory(self.model, plan, request.batch)
        net = self.prepared(plan)
        rows = request.batch * (2 if plan.guidance != 1.0 else 1)
        x, t, condition = self._inputs(rows)
        limit = matmul_gflops(net.precision, self.model.device)
        with torch.inference_mode():
            with beside(plan.parts.engine):
                timing = timed(lambda: net(x, t, condition), device=self.model.device, seconds=1.0)
            expected = self.prepared(Plan())(x, t, condition)
            error = float((net(x, t, condition) - expected).norm() / expected.norm())
        bound = self.bounds[net.precision.partition(",")[0]]
        if not error <= bound:
            raise UserError(
                f"engine {plan.engine!r} in {net.precision} answers with a relative error of "
                f"{error:.2g} against eager float32, more than {bound:g}; set engine=eager or "
                "dtype=float32."
            )
        return EngineCost(
            engine=plan.engine,
            dtype=plan.dtype,
            precision=net.precision,
            batch=request.batch,
            latency=timing.milliseconds(),
            relative_error=error,
            weights_mb=net.weights_mb,
            versions=net.versions,
            gflops=2e-9 * rows * self._macs / timing.median,
            limit_gflops=limit,
        )

    @functools.cached_property
    def _macs(self) -> int:
        """Multiply-accumulates of one row of the model's network."""
        return network_macs(self.model)[0]

    def make_reference(self, request: MakeReference) -> ReferenceSpec:
        """Make the reference solution; the answer says what it is."""
        solution = self.reference(request.reference)
        return dataclasses.replace(request.reference, plan=solution.plan)

    def screen(self, request: Screen) -> Screening:
        """Evaluations, and ODE error on the first samples of the reference."""
        net = self.prepared(request.plan)
        solution = self.reference(request.reference).first(request.samples)
        ode_error = solution.ode_error(request.plan, net, self.max_batch)
        evaluations = build(self.model, request.plan, net=net).evaluations
        if evaluations is None:
            raise UserError(
                f"executor {request.plan.executor!r} decides the number of evaluations while it "
                "runs; set executor=sequential."
            )
        return Screening(evaluations=evaluations, ode_error=ode_error)

    def measure_report(self, request: MeasureReport) -> Report:
        """The plan's Report without the comparison with real pictures."""
        plan = request.plan
        return measure(
            self.model,
            plan,
            n=0,
            against=None if plan.stochastic else self.reference(request.reference),
            pictures=0,
            batch=request.batch,
            seconds=request.seconds,
            net=self.prepared(plan),
        )

    def measure_quality(self, request: MeasureQuality) -> Quality:
        """FD, KD, precision and recall against the real pictures, and prompt accuracy."""
        n = request.samples
        return quality(self._generated(request.plan, n), self._real, checked_prompts(self.model, n))

    def compare_fd(self, request: CompareFd) -> Estimate:
        """FD of the plan minus what is allowed, with the interval of the paired difference."""
        value, n = 0.0, request.samples
        influences = torch.zeros(n, dtype=torch.float64)
        weighted = ((request.plan, 1.0), (request.baseline, -1.0 - request.allowed_excess))
        for plan, weight in weighted:
            real = self._real
            features = real.features(self._generated(plan, n))
            value += weight * frechet(*statistics(features), real.mean, real.covariance)
            influences += weight * influence(features, real.mean, real.covariance)
        half = 1.96 * float(influences.std()) / n**0.5
        return Estimate(value=value, low=value - half, high=value + half, n=n)

    def time_alone(self, request: TimeAlone) -> Latency:
        """Latency of a batch of the plan."""
        call = self._sampling_call(request.plan, request.batch)
        return timed(call, device=self.model.device, seconds=request.seconds).milliseconds()

    def time_plans(self, request: TimePlans) -> Race:
        """Latencies of the plans, timed in turn with each other."""
        timings = side_by_side(
            [self._sampling_call(plan, request.batch) for plan in request.plans],
            device=self.model.device,
            rounds=request.rounds,
            seconds=request.seconds,
            least=request.min_rounds,
        )
        return Race(latencies=tuple(timing.milliseconds() for timing in timings))

    def calibrate_quantization(self, request: CalibrateQuantization) -> CalibratedNetwork:
        """The quantized network, calibrated on the plan's own samples."""
        quantization = learn_quantize(
            self.model,
            request.plan,
            request.file,
            bits=request.bits,
            ode_error=request.max_ode_error,
        )
        layers = [
            LayerSensitivity(
                layer=name, bits=str(quantization.bits.get(name, "float")), ode_error=moved
            )
            for name, moved in quantization.sensitivities.items()
        ]
        layers.sort(key=lambda layer: -layer.ode_error)
        return CalibratedNetwork(file=request.file, layers=tuple(layers))

    @functools.cached_property
    def max_batch(self) -> int:
        """How many samples at a time half of the free memory can hold, 64 at most."""
        plan = Plan(guidance=2.0 if self.model.labels else 1.0)
        for batch in BATCHES:
            needed_mb = predicted_mb(self.model, plan, batch)
            if needed_mb is None or needed_mb < 0.5 * free_mb(self.model.device):
                return batch
        return 1

    @property
    def has_real_pictures(self) -> bool:
        """Whether there are real pictures to compare samples with."""
        folder = self.model.folder
        return self.data is not None or (folder is not None and (folder / "features").is_dir())

    def prepared(self, plan: Plan) -> Prepared:
        """The plan's network; plans of equal networks share it."""
        key = network_key(self.model, plan)
        if key not in self._nets:
            if free_mb(self.model.device) < FREE_WEIGHTS * weights_mb(self.model.net):
                self._nets.clear()
            self._nets[key] = prepare(self.model, plan)
        return self._nets[key]

    def reference(self, spec: ReferenceSpec) -> Reference:
        """The reference solution, made once."""
        numbers = f"{spec.first}-{spec.samples}" if spec.first else f"{spec.samples}"
        key = f"converged-{self.model.sha256[:12]}-{numbers}-{self.seed}-{spec.plan.key}"
        if key not in self._references:
            file = None if self.folder is None else self.folder / f"{key}.safetensors"
            self._references[key] = self._read(spec, file) or self._made(spec, file)
        return self._references[key]

    def _made(self, spec: ReferenceSpec, file: Path | None) -> Reference:
        net = self.prepared(spec.plan)
        solution = reference(
            self.model,
            spec.samples,
            plan=spec.plan,
            seed=self.seed,
            first=spec.first,
            net=net,
            batch=self.max_batch,
        )
        if file is not None:
            write_bytes(file, save({"noise": solution.noise, "pictures": solution.pictures}))
        return solution

    def _read(self, spec: ReferenceSpec, file: Path | None) -> Reference | None:
        if file is None or not file.is_file():
            return None
        try:
            tensors = load(file.read_bytes())
        except SafetensorError:  # cut off or damaged: made again
            return None
        condition = self.model.labels_in_turn(spec.samples, spec.first)
        features = FeatureNet.for_model(self.model)
        return Reference(
            model=self.model, plan=spec.plan, condition=condition, features=features, **tensors
        )

    def _sampler(self, plan: Plan) -> Sampler:
        return build(self.model, plan, net=self.prepared(plan))

    def _sampling_call(self, plan: Plan, batch: int) -> Callable[[], torch.Tensor]:
        sampler, model = self._sampler(plan), self.model
        return lambda: sampler.sample(batch, condition=model.request(batch), batch=batch)

    def _generated(self, plan: Plan, n: int) -> torch.Tensor:
        """Samples of the plan, kept for the next request while they take little memory."""
        key = (plan.key, n)
        if key in self._samples:
            return self._samples[key]
        samples = pictures_of(self._sampler(plan), n, self.max_batch)
        self._samples[key] = samples
        while self._samples and sum(kept.nbytes for kept in self._samples.values()) > KEPT_BYTES:
            self._samples.pop(next(iter(self._samples)))
        return samples

    def _inputs(self, rows: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]:
        """Pure noise scaled to levels of the whole schedule, as the network sees it."""
        model = self.model
        levels = Plan(steps=min(max(rows, 3), 50)).levels(model.schedule)[:-1]
        x = torch.stack(
            [
                torch.randn(model.shape, generator=generator(self.seed, i, Stream.TUNER))
                for i in range(rows)
            ]
        )
        chosen = [levels[(i * 7 + 3) % len(levels)] for i in range(rows)]
        scale = torch.tensor([model.prediction.at(level).scale * level.sigma for level in chosen])
        x = x * scale.float().reshape(-1, *[1] * (x.ndim - 1))
        condition = None
        if model.labels is not None:
            condition = (torch.arange(rows) % model.labels).to(model.device)
        t = torch.tensor([level.t for level in chosen], dtype=torch.float32)
        return x.to(model.device), t.to(model.device), condition

    @functools.cached_property
    def _real(self) -> Real:
        real = real_for(self.model, self.data, self.features)
        if real is None:
            raise UserError(f"model {self.model.name!r} ships no statistics; give data.")
        return real
