"""The dear questions: quality, full reports, a race, fresh processes.

With real pictures FD decides: of few pictures of the programs of least ODE error, level by level down
to where none passes; then of many pictures of the best. Solvers that draw noise, and walks that
begin below the top, are not screened by ODE error and come in here. Without real pictures, ODE error on
more of them decides.
"""

from __future__ import annotations

import dataclasses
import functools
import math
import statistics
import time
from typing import Any

from hasten.core.plan import Plan
from hasten.tuning.optional_phases import MANY, PARALLEL, TRIED
from hasten.tuning.search import ENOUGH, Row, evaluations_of, ode_error_of
from hasten.tuning.trials import QUALITY

SPOILED = 1.2  # how much more ODE error than on few pictures in float32 speaks of lost precision
GLANCE = 500  # pictures of every promising program that FD is first asked about
CLOSE = 1.25  # how much worse FD of so few may be for a second look
A_LEVEL = 3  # programs of one number of evaluations that are glanced at
PICTURES = (2000, 1000, 500)
JUDGED = 4  # plans that get a second look, beside the most faithful
LOOKED, LEAST = 10, 4  # plans that get a full report, time or no time
ROUNDS, RACE_S, ENOUGH_ROUNDS = 25, 15.0, 5  # of plans in turn with each other
PROCESSES, RUNS = 5, 4  # fresh ones at most, and what each of them does at least
T99 = {3: 9.925, 4: 5.841, 5: 4.604}  # Student's t of so many processes, 99%
LEAST_SPREAD = 0.02  # processes differ by this much even where four of them did not
SHARE = 50  # the published sampler is timed over 1000 / SHARE steps


@dataclasses.dataclass(kw_only=True)
class Finals:
    """Narrows the finalists down; ``rows`` are their Reports.

    Attributes:
        run: asks the questions, within the budget.
        engines: what a call costs in each engine, fastest first.
        against: the plan that made the reference, and of how many pictures.
    """

    run: Any
    engines: list[Row]
    max_loss: float
    against: Row
    batch: int
    rows: list[Row] = dataclasses.field(default_factory=list)

    @functools.cached_property
    def real(self) -> bool:
        """Whether there are real pictures to hold plans against; then FD decides, else drift."""
        lab = self.run.lab
        folder = lab.model.folder
        return lab.data is not None or (folder is not None and (folder / "features").is_dir())

    @property
    def at_once(self) -> int:
        """How many pictures at a time throughput is measured with."""
        return max(self.batch, self.run.pace.at_once(self.run.lab.together))

    def by_ode_error(self, screened: list[Row]) -> None:
        """Full reports level by level of evaluations, from one below the cheapest that passed on
        few pictures up to one above the first that passes on all."""
        levels = _levels(screened, [])
        below = [row["evaluations"] for row in screened if ode_error_of(row) <= self.max_loss]
        start = min(below, default=max(levels))
        kept = [level for level in levels if level >= start]
        kept = [level for level in levels if level < start][-1:] + kept
        passed = 0
        for level in kept:
            for program in levels[level]:
                self._reported(program)
            last = [row for row in self.rows if row["evaluations"] == level]
            passed += any(row["ode_error"]["high"] <= self.max_loss for row in last)
            if passed > 1:
                break

    def _reported(self, program: Row) -> None:
        """A report in the fastest engine; where its precision spoils the program, in the fastest
        float32 engine too."""
        exact = next(row for row in self.engines if row["dtype"] == "float32")
        plan = Plan(**program["plan"])
        row = self._report(plan, self.engines[0])
        spoiled = row is None or ode_error_of(row) > SPOILED * ode_error_of(program)
        if spoiled and exact is not self.engines[0]:
            self._report(plan, exact)

    def by_distance(self, screened: list[Row], others: list[Row]) -> None:
        """A glance at promising programs; full reports of the best; a second look, with as many
        pictures as there is time for, at the fastest that may pass."""
        faithful = self._faithful(screened)
        took = GLANCE * faithful["evaluations"] * self.run.pace.each
        if took > self.run.until("glance") - time.monotonic():
            self.run.skipped.append(
                f"FD: {GLANCE} pictures take about {took:.0f} s here, more than is left; ODE error "
                "decides"
            )
            return self.by_ode_error(screened)
        seen = self._glances(faithful, screened, others)
        first = self._finalist(seen[0]) if seen else None
        if first is None:
            return self.by_ode_error(screened)
        first["faithful"] = True
        bar = CLOSE * (1 + self.max_loss) * seen[0]["fd"]["value"]
        order = sorted(seen[1:], key=lambda one: (one["fd"]["value"] > bar, one["evaluations"]))
        for one in order[: LOOKED - 1]:
            self._finalist(one)
        able = sorted(
            (row for row in self.rows if row["fd"] and self._may_pass(row, first, bar)),
            key=lambda row: (row["evaluations"], row["fd"]["value"]),
        )
        asked = list({row["key"]: row for row in [first, *able[:JUDGED]]}.values())
        pace = sum(1 / row["throughput"]["pictures_per_s"] for row in asked)
        left = self.run.until("all") - time.monotonic()
        n = next((n for n in PICTURES if n * pace <= left), PICTURES[-1])
        for row in asked:
            self._second_look(row, first, n)
        return None

    def _second_look(self, row: Row, first: Row, n: int) -> None:
        """The quality of ``n`` pictures, and how much worse it is than the faithful plan's."""
        row["second"] = self._judged(Plan(**row["plan"]), n)
        if row["second"] and row is not first:
            facts = {"plan": row["plan"], "than": first["plan"], "n": n, "share": self.max_loss}
            row["second"]["worse"] = self.run.ask("worse", "comparing FD", **facts)

    def _finalist(self, glanced: Row) -> Row | None:
        """The full report of a program that was glanced at."""
        row = self._report(Plan(**glanced["plan"]), self.engines[0])
        if row is not None:
            row.update({name: glanced[name] for name in QUALITY})
        return row

    def _may_pass(self, row: Row, faithful: Row, bar: float) -> bool:
        """Whether a glance leaves a chance: FD below ``bar``, recall not measurably too low."""
        return row["fd"]["value"] <= bar and _diverse(row, faithful, self.max_loss)

    def _faithful(self, screened: list[Row]) -> Row:
        """The cheapest program that is as good as converged, else the one of least drift."""
        able = [row for row in screened if ode_error_of(row) <= ENOUGH * self.max_loss]
        return min(able, key=evaluations_of) if able else min(screened, key=ode_error_of)

    def _glances(self, faithful: Row, screened: list[Row], others: list[Row]) -> list[Row]:
        """Rows with the quality of GLANCE pictures: the faithful program's, the students', then
        level by level of evaluations, downwards from the cheapest whose ODE error passes while some
        pass, else upwards.
        """
        first = self._glanced(faithful)
        if first is None:
            return []
        seen, bar = [first], CLOSE * (1 + self.max_loss) * first["fd"]["value"]
        students = [row for row in others if row["plan"]["student"]]
        seen += [found for row in students if (found := self._glanced(row))]
        levels = _levels(screened, [row for row in others if row not in students])
        below = [row["evaluations"] for row in screened if ode_error_of(row) <= self.max_loss]
        start = min(below, default=faithful["evaluations"])
        down = sorted((level for level in levels if level <= start), reverse=True)
        up = [level for level in levels if start < level < faithful["evaluations"]]
        for climb in (down, up):
            for level in climb:
                if time.monotonic() > self.run.until("glance"):
                    return seen
                found = [one for row in levels[level] if (one := self._glanced(row))]
                seen += found
                passing = any(one["fd"]["value"] <= bar for one in found)
                if passing == (climb is up):
                    break
            if any(one["fd"]["value"] <= bar for one in seen[1:]):
                break
        return seen

    def _glanced(self, row: Row) -> Row | None:
        found = self._judged(self.on(Plan(**row["plan"]), self.engines[0]), GLANCE)
        return None if found is None else {**row, **{name: found[name] for name in QUALITY}}

    def _report(self, plan: Plan, engine: Row) -> Row | None:
        plan = self.on(plan, engine)
        facts = {
            "plan": plan.model_dump(),
            "against": self.against,
            "batch": self.at_once,
            "seconds": 0.5,
        }
        late = time.monotonic() > self.run.until("report")
        if (
            len(self.rows) >= LEAST
            and late
            and not self.run.trials.knows({"ask": "report", **facts})
        ):
            return None
        row = self.run.ask("report", f"measuring {plan}", **facts)
        if row is not None:
            self.rows.append(row)
        return row

    def _judged(self, plan: Plan, n: int) -> Row | None:
        facts = {"plan": plan.model_dump(), "n": n}
        return self.run.ask("quality", f"judging {n} pictures of {plan}", **facts)

    def on(self, plan: Plan, engine: Row) -> Plan:
        """``plan`` in that engine and dtype."""
        changes = {"engine": engine["engine"], "dtype": engine["dtype"]}
        changes["device"] = self.run.lab.model.device.type
        return plan.model_copy(update=changes)

    def in_parallel(self) -> None:
        """Reports of the finalists of many evaluations sampled in parallel, which makes the same
        pictures."""
        dear = [row for row in self.rows if row["evaluations"] >= MANY]
        for row in sorted(dear, key=lambda row: -row["evaluations"])[:TRIED]:
            plan = Plan(**row["plan"]).model_copy(update={"executor": PARALLEL})
            again = self._report(plan, {"engine": "eager", "dtype": "float32"})
            if again is not None:
                same = {name: row[name] for name in (*QUALITY, "second") if name in row}
                again.update(same)

    def leader(self) -> Row | None:
        """The row of the fastest report that passes."""
        closest = next((row for row in self.rows if row.get("faithful")), None)
        closest = closest or min(self.rows, key=ode_error_of)
        judged = any(row.get("second") for row in self.rows)
        able = [row for row in self.rows if _passes(row, closest, self.max_loss, judged)]
        return min(able, key=lambda row: row["latency_ms"]["median"], default=None)

    def again(self, plan: Plan, like: Row) -> None:
        """The report and the quality of ``plan``, as they were asked of the finalist ``like``."""
        facts = {"against": self.against, "batch": self.at_once}
        row = self.run.ask(
            "report", f"measuring {plan}", plan=plan.model_dump(), seconds=0.5, **facts
        )
        if row is not None:
            self.rows.append(row)
            if like.get("second"):
                row.update(self._judged(plan, GLANCE) or {})
                first = next(one for one in self.rows if one.get("faithful"))
                self._second_look(row, first, like["second"]["fd"]["n"])

    def racing(self, seconds: float) -> Row:
        """How plans are timed in turn that take ``seconds`` in all: fewer rounds of slow ones."""
        least = max(1, min(ENOUGH_ROUNDS, int(self.run.ending / max(seconds, 1e-9))))
        return {"batch": self.batch, "rounds": ROUNDS, "seconds": RACE_S, "least": least}

    def race(self, guidance: float) -> tuple[list[Row], Row]:
        """The finalists with ``race_ms``, timed in turn with each other and with a part of the
        published sampler in eager float32, and what all of that sampler costs."""
        part = Plan(solver="ddpm", grid="uniform", steps=1000 // SHARE, guidance=guidance)
        plans = [row["plan"] for row in self.rows]
        facts = self.racing(sum(map(_median_s, self.rows)) + part.steps * self.run.pace.call)
        done = self.run.ask("race", "timing in turn", plans=[*plans, part.model_dump()], **facts)
        why = None
        if done is None:
            why = self.run.refused.pop().why
            done = self.run.ask("race", "timing in turn", plans=plans, **facts)
        timings = (done or {}).get("timings") or [row["latency_ms"] for row in self.rows]
        rows = [{**row, "race_ms": one} for row, one in zip(self.rows, timings, strict=False)]
        if why is not None or done is None:
            return rows, {"latency_ms": None, "why": why}
        how = f"{1000 // SHARE} of its steps timed in turn with the plans, n = {timings[-1]['n']}"
        return rows, {"latency_ms": timings[-1]["median"] * SHARE, "how": how}

    def confirm(self, best: Plan) -> Row | None:
        """Between which bounds the median latency of ``best`` lies in a fresh process (99%), from
        the medians in PROCESSES of them, fewer where time is up, as log-normal; None for a plan
        that is too slow."""
        took = next(_median_s(row) for row in self.rows if row["plan"] == best.model_dump())
        if RUNS * min(T99) * took > self.run.ending:
            self.run.skipped.append(f"{min(T99)} fresh processes: time was too short")
            return None
        medians: list[float] = []
        for number in range(PROCESSES):
            if len(medians) >= min(T99) and time.monotonic() > self.run.end:
                break
            self.run.fresh()
            facts = {"plan": best.model_dump(), "batch": self.batch, "seconds": 1.0}
            found = self.run.ask("time", f"fresh process {number + 1}", number=number, **facts)
            if found is not None:
                medians.append(found["median"])
        count = len(medians)
        if count not in T99:
            return None
        logs = [math.log(value) for value in medians]
        spread = max(statistics.stdev(logs), LEAST_SPREAD)
        half = T99[count] * spread * math.sqrt(1 + 1 / count)
        middle = math.exp(statistics.fmean(logs))
        return {
            "latency_ms": round(middle, 4),
            "low": round(middle * math.exp(-half), 4),
            "high": round(middle * math.exp(half), 4),
            "processes": count,
            "level": 0.99,
        }


def _median_s(row: Row) -> float:
    return row["latency_ms"]["median"] / 1000


def loss_of(row: Row) -> float:
    """What a finalist loses: FD where real pictures decide, else drift."""
    return row["fd"]["value"] if row["fd"] else ode_error_of(row)


def recommend(rows: list[Row], max_loss: float, baseline: Row, batch: int) -> tuple[Row, str]:
    """The fastest plan that passes, else the most faithful one, and why in one sentence."""
    closest = next((row for row in rows if row.get("faithful")), min(rows, key=ode_error_of))
    ordered = sorted(rows, key=lambda row: row["race_ms"]["median"])
    judged = any(row.get("second") for row in rows)
    good = [row for row in ordered if _passes(row, closest, max_loss, judged)]
    row = good[0] if good else closest
    latency = row["race_ms"]["median"] / batch
    several = "s" * (row["evaluations"] != 1)
    what = f"{row['evaluations']} evaluation{several}, {latency:.1f} ms a picture"
    if baseline["latency_ms"] is not None:
        ratio = baseline["latency_ms"] / row["race_ms"]["median"]
        what += f" ({ratio:.0f} times faster than 1000 ancestral steps in eager float32)"
    ode_error = row["ode_error"]
    if ode_error is not None:
        about = f"95%: {ode_error['low']:.4f} to {ode_error['high']:.4f}, n = {ode_error['n']}"
        what += f", ODE error {ode_error['rmse']:.4f} ({about})"
    if judged and row.get("second"):
        fd, recall = (row["second"][name] for name in ("fd", "recall"))
        what += f", FD {fd['value']:.2f} (95%: {fd['low']:.2f} to {fd['high']:.2f}, n = {fd['n']}"
        if closest.get("second"):
            what += f"; the most faithful plan's {closest['second']['fd']['value']:.2f}"
        if row["second"].get("worse"):
            worse = row["second"]["worse"]
            most = (worse["high"] - worse["low"]) / 2
            what += f", paired difference within ±{most:.2f}"
        what += ")" if recall is None else f"), recall {recall['value']:.2f}"
    if good:
        return row, f"The fastest plan whose loss is below {max_loss:g}: {what}."
    return row, f"No plan's loss is below {max_loss:g}; this one came nearest: {what}."


def _passes(row: Row, closest: Row, max_loss: float, judged: bool) -> bool:
    """Where pictures were held against real ones: FD not measurably (95%, paired) worse than the
    bar's share above the most faithful plan's, and recall not measurably more than the bar below.
    Else the ODE error's whole interval below the bar."""
    if not judged:
        return row["ode_error"] is not None and row["ode_error"]["high"] <= max_loss
    mine, other = row.get("second"), closest.get("second")
    if not (mine and other):
        return False
    worse = mine.get("worse")
    able = row is closest or (worse is not None and worse["low"] <= 0)
    return able and _diverse(mine, other, max_loss)


def _diverse(mine: Row, other: Row, max_loss: float) -> bool:
    """Whether recall, where it was measured, is not measurably more than the bar below."""
    if not (mine["recall"] and other["recall"]):
        return True
    return mine["recall"]["high"] >= other["recall"]["value"] - max_loss


def _levels(screened: list[Row], others: list[Row]) -> dict[int, list[Row]]:
    """By evaluations, ascending: the A_LEVEL programs of least ODE error, and what was not screened."""
    out: dict[int, list[Row]] = {}
    for row in sorted(screened, key=lambda row: (row["evaluations"], ode_error_of(row))):
        level = out.setdefault(row["evaluations"], [])
        known = {ode_error_of(other) for other in level}  # equal drifts are one table by two names
        if len(level) < A_LEVEL and ode_error_of(row) not in known:
            level.append(row)
    for row in others:
        if row["evaluations"] in out or row["plan"].get("student"):
            out.setdefault(row["evaluations"], []).append(row)
    return out
