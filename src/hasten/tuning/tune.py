"""tune(model) -> Tuning: which plan to use on this model and this device.

Cheap questions first, each answered in a process of its own and written to a journal:
1. what one network call costs in every engine and dtype, and whether its answer is right;
2. the ODE error of programs (solver, grid, steps) on few pictures: :mod:`hasten.tuning.search`;
3. a full report of what is on the front or near it, in the fastest engines;
4. FD, KD, precision and recall, of few pictures first, where there are real ones;
5. a race: the finalists timed in turn, and the winner again in fresh processes.
"""

from __future__ import annotations

import dataclasses
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tqdm import tqdm

from hasten.core.errors import UserError, require_number, require_whole
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.conditions import conditions
from hasten.measuring.ode_error import reference_plan
from hasten.measuring.real import FEWEST, real_for
from hasten.sampling import subject
from hasten.tuning.budget import Pace, paced
from hasten.tuning.final_selection import Finals, loss_of, recommend
from hasten.tuning.journal import Trials
from hasten.tuning.network_levers import try_cheaper
from hasten.tuning.optional_phases import ask_parallel, try_reuse
from hasten.tuning.pareto import front
from hasten.tuning.search import Row, Search
from hasten.tuning.space import Refused, Space, distilled, imitators, learned
from hasten.tuning.trials import Lab
from hasten.tuning.worker import Child, Here

COMPILE_S = 60.0  # what torch.compile takes for a batch size, about
EXACT = 1e-3  # how far from eager float32 an engine may answer and still stand for it
SHARES = {"engines": 0.25, "climb": 0.52, "refine": 0.6, "random": 0.66, "glance": 0.82}
SHARES |= {"report": 0.87, "all": 1.0}
ENDING_S, CALLS, ENDING = 45.0, 200, 0.2  # kept for the last race and the fresh processes: seconds,
# or that many calls of a slow network, this share of the budget at most


@dataclasses.dataclass(frozen=True, kw_only=True)
class Tuning:
    """What the tuner found.

    Attributes:
        best: the recommended plan; why: one sentence.
        front: Reports of the plans no other plan beats in time, loss and recall, fastest first,
            and of the best.
        finalists: Reports of every plan that was looked at closely, the front among them.
        engines: what a network call costs in each engine and dtype.
        screened: plan, evaluations and ODE error on few pictures of every program tried.
        random: what random search found in the same time.
        refused: plans and engines that this model, device or installation cannot run, and why.
        skipped: what was left out because time ran out, and tricks that do not pay here.
        layers: how far (root mean square) the pictures of the plan that led move when one layer of
            the network alone is in eight bits, and in what each then was; empty where that was not
            asked.
        expected: low and high bounds of the recommended plan's median latency (ms) in a fresh
            process (99%), None where no process of its own could be asked.
        baseline: what 1000 ancestral steps in eager float32, the published sampler, cost here.
        reference: the plan that made the converged solution; converged: of how many pictures, from
            the noise of ``seed``.
        asked: questions that were answered; seconds: how long all took, ``random_seconds`` of it
            for random search.
    """

    model: str
    best: Plan
    why: str
    batch: int
    front: list[Row]
    finalists: list[Row]
    engines: list[Row]
    screened: list[Row]
    random: Row
    refused: list[dict[str, str]]
    skipped: list[str]
    layers: list[Row]
    expected: dict[str, Any] | None
    baseline: Row
    reference: str
    converged: int
    seed: int
    max_loss: float
    asked: int
    seconds: float
    random_seconds: float
    isolated: bool
    conditions: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        """Plain data; ``report.json`` holds it."""
        return {**dataclasses.asdict(self), "best": self.best.model_dump()}


def tune(
    model: Model,
    *,
    minutes: float = 5.0,
    max_loss: float = 0.05,
    data: str | None = None,
    features: str | None = None,
    guidance: float = 1.0,
    batch: int = 1,
    space: Space | None = None,
    out: str | Path | None = None,
    seed: int = 0,
    quiet: bool = True,
) -> Tuning:
    """The best plan for ``model`` on its device.

    Args:
        minutes: the budget, the last race and the fresh processes included; questions begun in it
            are finished.
        max_loss: how much may be lost. With real pictures: by what share FD may be above, and by
            how much recall below, the most faithful plan's. Without: how far a picture may be from
            the model's converged solution (ODE error: RMSE, pixels in 0 to 1).
        data: real pictures (a parquet file, a folder, a hub name); without them, and without
            statistics that ship with the model, ODE error alone decides.
        features: what FD compares in: "random", or a vision model's folder or hub id; by default
            what ships with the model, else "random".
        guidance: the classifier-free guidance scale that all plans use.
        batch: how many pictures at a time the plan is for.
        space: the plans to consider; by default every solver, grid and engine.
        out: a folder for the journal of trials; a second run there goes on where the first ended.
        seed: of the reference's noise and of the search.
        quiet: no progress bar on stderr.

    Raises:
        UserError: an argument is out of range, no time is left for a single plan, or ``out`` holds
            trials of something else.
    """
    require_number("minutes", minutes, 0.05, 1e5)
    require_number("max_loss", max_loss, 1e-6, 10)
    require_whole("batch", batch, 1, 1 << 16)
    require_whole("seed", seed, 0, 2**31)
    Plan(guidance=guidance)  # refuses a scale out of range
    real_for(model, data, features, FEWEST)  # refuses what cannot be read before a file is written
    space = space or Space()
    with tempfile.TemporaryDirectory(prefix="hasten-tune-") as scratch:
        folder = Path(scratch) if out is None else Path(out)
        lab = Lab(model=model, seed=seed, data=data, features=features, folder=folder)
        subject = _subject(lab, guidance, batch)
        trials = Trials(None if out is None else folder / "trials.jsonl", subject)
        found, refused = space.lines(model, guidance)
        run = _Run(
            lab=lab,
            trials=trials,
            bar=tqdm(
                total=round(minutes * 60),
                disable=quiet,
                file=sys.stderr,
                bar_format="tuning {percentage:3.0f}%|{bar:20}| {elapsed} of {total} s{postfix}",
            ),
            minutes=minutes,
            refused=refused,
            folder=None if out is None else folder,
        )
        try:
            return _tuned(run, space, found, max_loss, guidance, batch)
        finally:
            run.close()


@dataclasses.dataclass(kw_only=True)
class _Run:
    """Asks questions: through the journal, in a process of its own, within the budget."""

    lab: Lab
    trials: Trials
    bar: Any
    minutes: float
    refused: list[Refused]
    folder: Path | None = None
    skipped: list[str] = dataclasses.field(default_factory=list)
    asked: int = 0
    pace: Pace | None = None

    def __post_init__(self) -> None:
        self.began = time.monotonic()
        self.end = self.began + self.minutes * 60
        folder = self.lab.model.folder
        self.there: Here | Child = Here(self.lab) if folder is None else Child(self.lab)

    def until(self, share: str) -> float:
        """When the share that a phase may reach into ends, of the budget without the ending."""
        return self.began + SHARES[share] * (self.minutes * 60 - self.ending)

    @property
    def ending(self) -> float:
        """Seconds of the budget that are kept for the last race and the fresh processes."""
        slow = 0.0 if self.pace is None else CALLS * self.pace.call
        return min(max(ENDING_S, slow), ENDING * self.minutes * 60)

    def ask(self, name: str, note: str, **facts: Any) -> Row | None:
        """The answer, None where the plan was refused or its process killed (kept in refused)."""
        question = {"ask": name, **facts}
        limit = max(30.0, self.end - time.monotonic())
        answer = self.trials.ask(question, lambda: self.there.ask(question, limit))
        self.asked += 1
        self.bar.set_postfix_str(f" {note}", refresh=False)
        self.bar.n = min(round(time.monotonic() - self.began), self.bar.total)
        self.bar.refresh()
        why = answer.get("refused") or answer.get("died")
        if why is None:
            return answer
        plan = facts.get("plan")
        self.refused.append(Refused(Plan(**plan) if plan else Plan(), f"{name}: {why}"))
        return None

    def fresh(self) -> None:
        """The next question goes to a new process."""
        self.there.close()

    def close(self) -> None:
        self.there.close()
        self.bar.close()


def _tuned(
    run: _Run, space: Space, lines: list[Any], max_loss: float, guidance: float, batch: int
) -> Tuning:
    model = run.lab.model
    engines = _engines(run, space, guidance, batch)
    exact = next(row for row in engines if row["apart"] <= EXACT)
    run.pace = paced(run, exact, guidance, batch)
    n, steps = run.pace.converged
    plan = reference_plan(guidance, exact["engine"]).model_copy(update={"steps": steps})
    against = {"plan": plan.model_dump(), "n": n}
    if run.ask("converge", "the converged solution", against=against) is None:
        why = run.refused[-1].why.removeprefix("converge: ")
        late = "; give more --minutes" if why.startswith("took longer") else ""
        raise UserError(f"the converged solution of {n} pictures: {why}{late}")
    search, luck, lucky = _searched(run, space, lines, max_loss, guidance, against)
    finals = Finals(run=run, engines=engines, max_loss=max_loss, against=against, batch=batch)
    if finals.real:
        finals.by_distance(search.rows, _unscreened(space, model, guidance))
    else:
        finals.by_ode_error(search.rows)
    if not finals.rows:
        raise UserError(f"no plan could be measured: {run.refused[-1].why}")
    side = ask_parallel(run, guidance, batch)
    if side is not None:
        run.skipped.append(side.why)
        if side.pays:
            finals.in_parallel()
    smaller = imitators(model) if space.students else []
    said, layers = try_cheaper(run, finals, run.folder, smaller)
    run.skipped += said
    rows, baseline = finals.race(guidance)
    chosen, why = recommend(rows, max_loss, baseline, batch)
    on_front = front(rows, _latency, loss_of, _unseen)
    if chosen not in on_front:
        on_front = sorted([*on_front, chosen], key=_latency)
    best = Plan(**chosen["plan"])
    return Tuning(
        model=model.name,
        best=best,
        why=why,
        batch=batch,
        front=on_front,
        finalists=rows,
        engines=engines,
        screened=_unique(search.rows),
        random=luck,
        refused=[{"plan": str(one.plan), "why": one.why} for one in run.refused],
        skipped=run.skipped,
        layers=layers,
        expected=finals.confirm(best) if run.there.isolated else None,
        baseline=baseline,
        reference=str(plan),
        converged=n,
        seed=run.lab.seed,
        max_loss=max_loss,
        asked=run.asked,
        seconds=time.monotonic() - run.began,
        random_seconds=lucky,
        isolated=run.there.isolated,
        conditions=chosen["conditions"],
    )


def _searched(
    run: _Run, space: Space, lines: list[Any], max_loss: float, guidance: float, against: Row
) -> tuple[Search, Row, float]:
    """The programs tried on few pictures, what random search found, and its seconds."""
    model, pace = run.lab.model, run.pace
    assert pace is not None
    spent = time.monotonic() - run.began

    def few(plan: Plan, by: str) -> Row | None:
        there = plan.model_copy(update={"engine": against["plan"]["engine"]}).model_dump()
        answer = run.ask("ode_error", str(plan), plan=there, n=pace.few, against=against)
        if answer is None:
            return None
        return {"text": str(plan), "plan": plan.model_dump(), "by": by, **answer}

    search = Search(
        model=model, space=space, guidance=guidance, bar=max_loss, seed=run.lab.seed, ask=few
    )
    search.climb(lines, run.until("climb"))
    if not search.rows:
        raise UserError(
            f"minutes is {run.minutes:g}, and engines and reference alone took {spent:.0f} s; "
            f"give {1.5 * spent / 60 / SHARES['climb'] / (1 - ENDING):.1f} or more."
        )
    if space.programs:
        search.learned(learned(model, guidance))
    search.refine(run.until("refine"))
    why_not = try_reuse(search, model)
    if why_not is not None:
        run.skipped.append(why_not)
    begun = time.monotonic()
    luck = search.random(run.until("random"))
    lucky = time.monotonic() - begun
    if search.skipped:
        run.skipped.append(f"{search.skipped} dearer programs: time ran out")
    return search, luck, lucky


def _engines(run: _Run, space: Space, guidance: float, batch: int) -> list[Row]:
    """What one network call costs in each engine and dtype, fastest first."""
    rows = []
    kind = run.lab.model.device.type
    for engine, dtype in space.engines_on(kind):
        plan = Plan(guidance=guidance).model_copy(update={"engine": engine, "dtype": dtype})
        name = f"engine={engine},dtype={dtype}"
        facts = {"plan": plan.model_dump(), "batch": batch}
        known = run.trials.knows({"ask": "call", **facts})
        late = time.monotonic() + (COMPILE_S if engine == "compile" else 0) > run.until("engines")
        if rows and not known and late:
            need = 2 * COMPILE_S / SHARES["engines"] / 60
            give = f"; give --minutes {need:.0f} or more" if engine == "compile" else ""
            run.skipped.append(f"{name}: time was too short{give}")
            continue
        answer = run.ask("call", name, **facts)
        if answer is not None:
            rows.append({"engine": engine, "dtype": dtype, **answer})
    if not any(row["apart"] <= EXACT for row in rows):
        raise UserError(run.refused[-1].why if run.refused else "no engine could be measured.")
    return sorted(rows, key=lambda row: row["median"])


def _latency(row: Row) -> float:
    return row["race_ms"]["median"]


def _unseen(row: Row) -> float:
    """The share of real pictures that a plan does not reach; 0 where that was not asked."""
    return 1 - row["recall"]["value"] if row["recall"] else 0.0


def _unscreened(space: Space, model: Model, guidance: float) -> list[Row]:
    """Programs whose ODE error says little of their pictures, because they draw noise, begin from
    something cheap or run another network, as screened rows without a drift."""
    plans = space.drawing(model, guidance) + space.early_starts(model, guidance)
    plans += distilled(model, guidance) if space.students else []
    return [
        {
            "text": str(plan),
            "plan": plan.model_dump(),
            "evaluations": plan.trace(subject(model, plan).schedule).evaluations,
            "ode_error": None,
        }
        for plan in plans
    ]


def _unique(rows: list[Row]) -> list[Row]:
    return list({row["text"]: row for row in reversed(rows)}.values())[::-1]


def _subject(lab: Lab, guidance: float, batch: int) -> Row:
    model = lab.model
    return {
        "model": model.name,
        "sha256": model.sha256,
        **({"prompts": list(model.prompts)} if model.prompts else {}),
        "reference": str(reference_plan(guidance)),
        "batch": batch,
        "seed": lab.seed,
        "data": [lab.data, lab.features],
        "conditions": conditions(model.device),
    }
