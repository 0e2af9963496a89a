"""tune(model) -> Tuning: which plan to use on this model and this device.

Cheap questions first. Every line of plans (a solver on a grid) is climbed by steps with a few
pictures until its drift is far below the bar; what is then on or near the front is asked again with
more pictures and a clock, and the fastest plan whose drift is below the bar is recommended.
"""

from __future__ import annotations

import dataclasses
import math
import sys
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hasten.core.errors import UserError, require_number
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.conditions import conditions
from hasten.measuring.drift import Reference, reference, reference_plan
from hasten.measuring.measure import measure
from hasten.measuring.timer import side_by_side
from hasten.sampler import build
from hasten.tuning.pareto import front
from hasten.tuning.space import Line, lines
from hasten.tuning.trials import Trials

FEW, MANY, BATCH = 8, 64, 16
NEAR = 1.15  # how close to the front, in drift, a plan must be to be asked again
ENOUGH = 0.25  # a line ends once its drift is below this share of the bar
TENTH = Plan(solver="ddpm", grid="uniform", steps=100)

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """What the tuner found.

    Attributes:
        best: the recommended plan; why: one sentence.
        front: Reports of the plans no other plan beats, fastest first.
        finalists: Reports of every plan that was asked again, the front among them.
        screened: plan, evaluations and drift on few pictures of every plan tried.
        refused: plans the model cannot run, and why.
        skipped: how many plans were left out because time ran out.
        baseline: what 1000 ancestral steps, the published sampler, cost here.
    """

    model: str
    best: Plan
    why: str
    front: list[Row]
    finalists: list[Row]
    screened: list[Row]
    refused: list[dict[str, str]]
    skipped: int
    baseline: Row
    reference: str
    max_drift: float
    seconds: float
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``report.json`` holds it."""
        return {**dataclasses.asdict(self), "best": self.best.model_dump()}


def tune(
    model: Model,
    *,
    minutes: float = 5.0,
    max_drift: float = 0.05,
    guidance: float = 1.0,
    out: str | Path | None = None,
    quiet: bool = True,
) -> Tuning:
    """The best plan for ``model`` on its device.

    Args:
        minutes: the budget; the first pass takes at most two thirds of it.
        max_drift: how far a picture may be from the model's converged solution (RMSE, in [0, 1]).
        guidance: the classifier-free guidance scale that all plans use.
        out: a folder for the journal of trials; a second run there goes on where the first ended.
        quiet: no progress bar on stderr.

    Raises:
        UserError: an argument is out of range, no time is left for a single plan, or ``out`` holds
            trials of something else.
    """
    require_number("minutes", minutes, 0.05, 1e5)
    require_number("max_drift", max_drift, 1e-6, 10)
    began = time.monotonic()
    file = None if out is None else Path(out) / "trials.jsonl"
    trials = Trials(file, _subject(model, guidance))
    held = reference(model, MANY, guidance=guidance)
    found, refused = lines(model, guidance)
    with tqdm(unit="plan", desc="tuning", disable=quiet, file=sys.stderr) as bar:
        search = _Search(held=held, trials=trials, max_drift=max_drift, bar=bar)
        screened = search.screen(found, began + minutes * 60 * 2 / 3)
        if not screened:
            spent = time.monotonic() - began
            raise UserError(
                f"minutes is {minutes:g}, and the reference solution alone took {spent:.0f} s; "
                f"give {spent / 20:.1f} or more."
            )
        finalists = search.again(screened, began + minutes * 60)
        finalists, baseline = search.side_by_side(finalists)
    on_front = front(finalists, lambda row: row["latency_ms"]["median"], _rmse)
    chosen, why = _recommend(on_front, max_drift, baseline)
    return Tuning(
        model=model.name,
        best=Plan(**chosen["plan"]),
        why=why,
        front=on_front,
        finalists=finalists,
        screened=screened,
        refused=[{"plan": str(one.plan), "why": one.why} for one in refused],
        skipped=search.skipped,
        baseline=baseline,
        reference=str(held.plan),
        max_drift=max_drift,
        seconds=time.monotonic() - began,
        conditions=conditions(model.device),
    )


@dataclasses.dataclass(kw_only=True)
class _Search:
    """The two passes over the plans; every answer goes through the journal."""

    held: Reference
    trials: Trials
    max_drift: float
    bar: Any
    skipped: int = 0

    def screen(self, found: list[Line], end: float) -> list[Row]:
        """Climb all lines side by side, fewest steps first, so that lack of time costs the dear."""
        few = self.held.first(FEW)
        plans = [
            (plan.steps, index, plan) for index, line in enumerate(found) for plan in line.plans
        ]
        screened: list[Row] = []
        done: set[int] = set()
        for _, index, plan in sorted(plans, key=lambda entry: entry[:2]):
            if index in done:
                continue
            question = f"screen {plan.key}"
            if question not in self.trials.known and time.monotonic() > end:
                self.skipped += 1
                continue
            row = self.trials.ask(question, lambda plan=plan: _quick(plan, few))
            screened.append(row)
            self._show(f"{row['text']}: drift {row['drift']['rmse']:.4f}")
            if row["drift"]["rmse"] < ENOUGH * self.max_drift:
                done.add(index)
        return screened

    def again(self, screened: list[Row], end: float) -> list[Row]:
        """Reports of what is on the front, nearest to the bar first, and then of what is near the
        front, while there is time."""
        finalists: list[Row] = []
        for row in _finalists(screened, self.max_drift):
            plan = Plan(**row["plan"])
            question = f"report {plan.key}"
            if finalists and question not in self.trials.known and time.monotonic() > end:
                break
            finalists.append(self.trials.ask(question, lambda plan=plan: self._report(plan)))
            self._show(f"measured {plan}")
        return finalists

    def side_by_side(self, finalists: list[Row]) -> tuple[list[Row], Row]:
        """The finalists with latencies timed in turn with each other and with a tenth of the
        published sampler, and what all of that sampler costs."""
        model, guidance = self.held.model, self.held.plan.guidance
        plans = [Plan(**row["plan"]) for row in finalists]
        tenth, why = TENTH.model_copy(update={"guidance": guidance}), None
        try:
            build(model, tenth)
            plans.append(tenth)
        except UserError as error:
            why = str(error)
        question = "side by side " + " ".join(plan.key for plan in plans)
        timings = self.trials.ask(question, lambda: self._timed(plans))
        rows = [
            {**row, "latency_ms": timing} for row, timing in zip(finalists, timings, strict=False)
        ]
        if why is not None:
            return rows, {"latency_ms": None, "why": why}
        how = f"100 of its steps timed in turn with the plans, n = {timings[-1]['n']}"
        return rows, {"latency_ms": timings[-1]["median"] * 10, "how": how}

    def _timed(self, plans: list[Plan]) -> list[Row]:
        model = self.held.model
        cond = None if model.labels is None else 0
        samplers = [build(model, plan) for plan in plans]
        calls = [lambda sampler=sampler: sampler.sample(1, cond=cond) for sampler in samplers]
        return [timing.milliseconds() for timing in side_by_side(calls, device=model.device)]

    def _report(self, plan: Plan) -> Row:
        report = measure(self.held.model, plan, against=self.held, batch=BATCH, seconds=1.0)
        return report.to_dict()

    def _show(self, text: str) -> None:
        self.bar.set_postfix_str(text, refresh=False)
        self.bar.update(1)


def _quick(plan: Plan, few: Reference) -> Row:
    drift = few.drift(plan)
    assert drift is not None
    evaluations = build(few.model, plan).evaluations
    facts = {"text": str(plan), "plan": plan.model_dump(), "evaluations": evaluations}
    return {**facts, "drift": dataclasses.asdict(drift)}


def _finalists(screened: list[Row], max_drift: float) -> list[Row]:
    """The front by its distance from the bar, then what is within NEAR of the front's drift."""
    kept = front(screened, lambda row: row["evaluations"], _rmse)

    def excess(row: Row) -> float:
        able = [_rmse(one) for one in kept if one["evaluations"] <= row["evaluations"]]
        return _rmse(row) / min(able)

    others = [row for row in screened if row not in kept and excess(row) < NEAR]
    by_bar = sorted(kept, key=lambda row: abs(math.log(max(_rmse(row), 1e-12) / max_drift)))
    return by_bar + sorted(others, key=excess)


def _rmse(row: Row) -> float:
    return row["drift"]["rmse"]


def _recommend(on_front: list[Row], max_drift: float, baseline: Row) -> tuple[Row, str]:
    """The fastest plan whose whole interval is below the bar, else the one that came nearest."""
    good = [row for row in on_front if row["drift"]["high"] <= max_drift]
    row = good[0] if good else min(on_front, key=_rmse)
    drift, latency = row["drift"], row["latency_ms"]["median"]
    than = ""
    if baseline["latency_ms"] is not None:
        than = f" ({baseline['latency_ms'] / latency:.0f} times faster than 1000 ancestral steps)"
    what = (
        f"{row['evaluations']} evaluations, {latency:.1f} ms a picture{than}, drift "
        f"{drift['rmse']:.4f} (95%: {drift['low']:.4f} to {drift['high']:.4f}, n = {drift['n']})"
    )
    if good:
        return row, f"The fastest plan whose drift is below {max_drift:g}: {what}."
    return row, f"No plan reached a drift of {max_drift:g}; this one came nearest: {what}."


def _subject(model: Model, guidance: float) -> Row:
    return {
        "model": model.name,
        "sha256": model.sha256,
        "reference": str(reference_plan(guidance)),
        "pictures": [FEW, MANY],
        "conditions": conditions(model.device),
    }
