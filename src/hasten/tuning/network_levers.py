"""Cheaper network calls: the fastest plan that passes once more, with each lever that may make its
network cheaper."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from hasten.core.errors import UserError
from hasten.core.lever import Lever, Trait, levers
from hasten.core.plan import Plan
from hasten.levers.quantize import Quantize, layers
from hasten.levers.student import Student
from hasten.sampling import subject
from hasten.tuning.candidates import Candidate, relative_latency
from hasten.tuning.final_selection import FinalSelection
from hasten.tuning.records import Finalist, LayerSensitivity
from hasten.tuning.requests import CalibrateQuantization


def try_levers(
    selection: FinalSelection, folder: Path | None, smaller: Iterable[str] = ()
) -> tuple[LayerSensitivity, ...]:
    """Time the fastest plan that passes with each lever, and make those that are faster finalists;
    ``folder`` is where a quantized network is written. What came of each is added to the notes.

    Returns:
        How sensitive each layer of the network is to quantization, empty where that was not
        measured.
    """
    runner, leader = selection.runner, selection.leader()
    if leader is None:
        runner.notes.append("cheaper network calls: not tried, because no plan passes")
        return ()
    if leader.plan.has(Trait.ORDER) or leader.plan.executor != "sequential":
        runner.notes.append(
            "cheaper network calls: not tried with a feature cache or a parallel executor"
        )
        return ()
    for candidate in lever_candidates(selection, leader.plan, tuple(smaller)):
        runner.notes.append(f"{candidate.name}: {_tried(selection, leader, candidate)}")
    quantized, sensitivities = _quantized(selection, leader, folder)  # last: calibrating is slow
    runner.notes.append(f"{quantized.name}: {_tried(selection, leader, quantized)}")
    return sensitivities


def lever_candidates(
    selection: FinalSelection, plan: Plan, smaller: Sequence[str]
) -> Iterator[Candidate]:
    """The plan with each lever that needs no calibration: ``smaller`` networks, and what the levers
    that are registered offer for the model."""
    for student in smaller:
        yield _with_lever(selection, plan, Student(folder=student), f"smaller network {student!r}")
    for name in levers:
        for lever in levers[name].candidates(selection.runner.model):
            if selection.settings.for_apply and not lever.once:
                continue
            yield _with_lever(selection, plan, lever, f"lever {levers.text(lever)}")


def _with_lever(selection: FinalSelection, plan: Plan, lever: Lever, name: str) -> Candidate:
    """The plan with one more lever, in an engine that can run it. A learned program is kept, though
    it was learned for another network."""
    if lever.engines:
        cost = next((cost for cost in selection.engines if cost.engine in lever.engines), None)
        if cost is None:
            note = f"not tried, because none of {', '.join(lever.engines)} was timed here"
            return Candidate(name=name, plan=None, note=note)
        plan = selection.in_engine(plan, cost)
    replaces = Trait.REPLACES in lever.traits
    changes = {"other_weights": plan.other_weights or (replaces and plan.program is not None)}
    try:
        return Candidate(name=name, plan=plan.model_copy(update=changes).with_lever(lever))
    except UserError as error:
        return Candidate(name=name, plan=None, note=f"not tried: {error}")


def _quantized(
    selection: FinalSelection, leader: Finalist, folder: Path | None
) -> tuple[Candidate, tuple[LayerSensitivity, ...]]:
    """The plan with its network in eight bits, calibrated on it. OpenVINO computes in integers,
    whatever engine the plan was measured in."""
    runner, settings, name = selection.runner, selection.settings, "eight bits"

    def left_out(note: str) -> tuple[Candidate, tuple[LayerSensitivity, ...]]:
        return Candidate(name=name, plan=None, note=note), ()

    if settings.for_apply:
        return left_out("not tried, because hasten.apply does not carry it")
    cost = next((cost for cost in selection.engines if cost.engine == "openvino"), None)
    if cost is None:
        return left_out("not tried, because OpenVINO does not run this network here")
    if folder is None:
        return left_out("not tried, because no folder was given")
    seconds_left = runner.seconds_until()
    if seconds_left < 0:
        return left_out("not tried, because time ran out")
    network = subject(runner.model, leader.plan).net
    samples = settings.calibration_samples + settings.layer_samples * len(layers(network))
    evaluations = samples * leader.report.evaluations
    estimated_s = evaluations * settings.integer_slowdown * runner.budget.sample_s
    if estimated_s > seconds_left:
        return left_out(
            f"not tried, because it takes about {estimated_s:.0f} s, more than is left; "
            "`hasten learn quantize` does it"
        )
    request = CalibrateQuantization(
        plan=leader.plan,
        file=str(folder / f"w8a8-{leader.plan.key}.safetensors"),
        bits=settings.quantize_bits,
        max_ode_error=settings.quantize_ode_error,
    )
    outcome = runner.outcome(request, "calibrating a quantization")
    if outcome.answer is None:
        return left_out(f"not possible here: {outcome.failure}")
    lever = Quantize(file=outcome.answer.file)
    plan = selection.in_engine(leader.plan, cost).with_lever(lever)
    return Candidate(name=name, plan=plan), outcome.answer.layers


def _tried(selection: FinalSelection, leader: Finalist, candidate: Candidate) -> str:
    """What came of the candidate, in words; one that is faster has become a finalist."""
    if candidate.plan is None:
        return candidate.note
    if selection.runner.seconds_until() < 0:
        return "not timed, because time ran out"
    rules = selection.race_rules(2 * leader.report.latency_ms.median / 1000)
    timed = relative_latency(selection.runner, leader.plan, candidate, rules)
    if timed.ratio is None:
        return f"not possible here: {timed.why}"
    engine, dtype = leader.plan.engine, leader.plan.dtype
    finding = f"{timed.ratio:.2g} times as long as {engine} in {dtype} here"
    if not timed.is_faster:
        return f"{finding}, so not used"
    selection.add_variant(candidate.plan, leader)
    return f"{finding}, so tried with the finalists"
