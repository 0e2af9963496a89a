"""The dear questions: full reports of the finalists, their quality, a race, fresh processes."""

from __future__ import annotations

import dataclasses
import math
import statistics
import time
from typing import Any

from hasten.core.plan import Plan
from hasten.tuning.pareto import front
from hasten.tuning.search import Row, drift_of, evaluations_of

BATCH = 16  # of the throughput
NEAR = 1.15  # how close to the front, in drift, a program must be to be looked at
JUDGED = 4  # finalists whose pictures are held against real ones, beside the most faithful
PICTURES = (2000, 1000, 500, 200)
RACERS, ROUNDS = 10, 9
PROCESSES = 4
T99 = 5.841  # Student's t for PROCESSES - 1 degrees of freedom, 99%
LEAST_SPREAD = 0.02  # processes differ by this much even where four of them did not
SHARE = 50  # the published sampler is timed over 1000 / SHARE steps


@dataclasses.dataclass(kw_only=True)
class Finals:
    """Narrows the finalists down; ``rows`` are their Reports.

    Attributes:
        run: asks the questions, within the budget.
        engines: what a call costs in each engine, fastest first.
        against: the plan that made the reference.
    """

    run: Any
    engines: list[Row]
    max_loss: float
    against: Row
    batch: int
    rows: list[Row] = dataclasses.field(default_factory=list)

    def report(self, screened: list[Row]) -> None:
        """Full reports, nearest to the bar first: every program in the fastest engine, those that
        may pass in the fastest float32 engine too."""
        end = self.run.until("report")
        for program in _programs(screened, self.max_loss):
            for engine, dtype in self._engines(program):
                plan = self._on(Plan(**program["plan"]), engine, dtype).model_dump()
                facts = {
                    "plan": plan,
                    "against": self.against,
                    "batch": max(BATCH, self.batch),
                    "seconds": 0.5,
                }
                known = self.run.trials.knows({"ask": "report", **facts})
                if self.rows and not known and time.monotonic() > end:
                    return
                row = self.run.ask("report", f"measuring {Plan(**plan)}", **facts)
                if row is not None:
                    self.rows.append(row)

    def judge(self) -> None:
        """FD, KD, precision and recall of the most faithful finalist and of the fastest that pass
        by drift; all of equally many pictures, as many as there is time for."""
        lab = self.run.lab
        folder = lab.model.folder
        if not self.rows or not (
            lab.data or (folder is not None and (folder / "features").is_dir())
        ):
            return
        good = sorted(
            (row for row in self.rows if row["drift"]["high"] <= self.max_loss),
            key=lambda row: row["latency_ms"]["median"],
        )
        asked = [min(self.rows, key=drift_of), *good[:JUDGED]]
        asked = list({row["key"]: row for row in asked}.values())
        pace = sum(1 / row["throughput"]["pictures_per_s"] for row in asked)
        left = self.run.until("all") - time.monotonic()
        n = next((n for n in PICTURES if n * pace <= left), PICTURES[-1])
        for row in asked:
            facts = {"plan": row["plan"], "n": n, "batch": row["throughput"]["batch"]}
            found = self.run.ask(
                "quality", f"judging {n} pictures of {Plan(**row['plan'])}", **facts
            )
            if found is not None:
                row.update({name: value for name, value in found.items() if name != "seconds"})

    def race(self, guidance: float) -> tuple[list[Row], Row]:
        """The finalists with ``race_ms``, timed in turn with each other and with a part of the
        published sampler in eager float32, and what all of that sampler costs."""
        racers = sorted(self.rows, key=lambda row: abs(math.log(_safe(row) / self.max_loss)))
        judged = [row for row in self.rows if row["fd"]]
        chosen = list({row["key"]: row for row in [*judged, *racers]}.values())[:RACERS]
        part = Plan(solver="ddpm", grid="uniform", steps=1000 // SHARE, guidance=guidance)
        plans = [row["plan"] for row in chosen]
        facts = {"batch": self.batch, "rounds": ROUNDS}
        done = self.run.ask("race", "timing in turn", plans=[*plans, part.model_dump()], **facts)
        why = None
        if done is None:
            why = self.run.refused.pop().why
            done = self.run.ask("race", "timing in turn", plans=plans, **facts)
        timings = (done or {}).get("timings") or [row["latency_ms"] for row in chosen]
        rows = [{**row, "race_ms": one} for row, one in zip(chosen, timings, strict=False)]
        if why is not None or done is None:
            return rows, {"latency_ms": None, "why": why}
        how = f"{1000 // SHARE} of its steps timed in turn with the plans, n = {ROUNDS}"
        return rows, {"latency_ms": timings[-1]["median"] * SHARE, "how": how}

    def confirm(self, best: Plan) -> Row | None:
        """Between which bounds the median latency of ``best`` lies in a fresh process (99%), from
        the medians in PROCESSES of them, as log-normal."""
        medians = []
        for number in range(PROCESSES):
            self.run.fresh()
            facts = {"plan": best.model_dump(), "batch": self.batch, "seconds": 1.0}
            found = self.run.ask("time", f"fresh process {number + 1}", number=number, **facts)
            if found is not None:
                medians.append(found["median"])
        if len(medians) < PROCESSES:
            return None
        logs = [math.log(value) for value in medians]
        spread = max(statistics.stdev(logs), LEAST_SPREAD)
        half = T99 * spread * math.sqrt(1 + 1 / PROCESSES)
        middle = math.exp(statistics.fmean(logs))
        return {
            "latency_ms": round(middle, 4),
            "low": round(middle * math.exp(-half), 4),
            "high": round(middle * math.exp(half), 4),
            "processes": PROCESSES,
            "level": 0.99,
        }

    def _engines(self, program: Row) -> list[tuple[str, str]]:
        fastest = self.engines[0]
        exact = next(row for row in self.engines if row["dtype"] == "float32")
        able = drift_of(program) <= 1.3 * self.max_loss
        rows = [fastest] if exact is fastest or not able else [fastest, exact]
        return [(row["engine"], row["dtype"]) for row in rows]

    def _on(self, plan: Plan, engine: str, dtype: str) -> Plan:
        device = self.run.lab.model.device.type
        return plan.model_copy(update={"engine": engine, "dtype": dtype, "device": device})


def recommend(rows: list[Row], max_loss: float, baseline: Row, batch: int) -> tuple[Row, str]:
    """The fastest plan that passes, else the most faithful one, and why in one sentence."""
    closest = min(rows, key=drift_of)
    ordered = sorted(rows, key=lambda row: row["race_ms"]["median"])
    judged = any(row["fd"] for row in rows)
    good = [row for row in ordered if _passes(row, closest, max_loss, judged)]
    row = good[0] if good else closest
    drift, latency = row["drift"], row["race_ms"]["median"] / batch
    than = ""
    if baseline["latency_ms"] is not None:
        ratio = baseline["latency_ms"] / row["race_ms"]["median"]
        than = f" ({ratio:.0f} times faster than 1000 ancestral steps in eager float32)"
    what = (
        f"{row['evaluations']} evaluations, {latency:.1f} ms a picture{than}, drift "
        f"{drift['rmse']:.4f} (95%: {drift['low']:.4f} to {drift['high']:.4f}, n = {drift['n']})"
    )
    if row["fd"] and closest["fd"] and row is not closest:
        fd, other = row["fd"], closest["fd"]
        about = f"{fd['low']:.2f} to {fd['high']:.2f}, n = {fd['n']}"
        what += f", FD {fd['value']:.2f} ({about}; the most faithful plan's {other['value']:.2f})"
    if good:
        return row, f"The fastest plan whose loss is below {max_loss:g}: {what}."
    return row, f"No plan's loss is below {max_loss:g}; this one came nearest: {what}."


def _passes(row: Row, closest: Row, max_loss: float, judged: bool) -> bool:
    """Drift is below the bar with its whole interval; FD is not measurably worse than the most
    faithful plan's by more than the bar's share, nor recall lower by more than the bar."""
    if row["drift"]["high"] > max_loss or (judged and not row["fd"]):
        return False
    if not (row["fd"] and closest["fd"]):
        return True
    able = row["fd"]["low"] <= (1 + max_loss) * closest["fd"]["value"]
    if row["recall"] and closest["recall"]:
        able = able and row["recall"]["high"] >= closest["recall"]["value"] - max_loss
    return able


def _programs(screened: list[Row], bar: float) -> list[Row]:
    """The front by its distance from the bar, then what is within NEAR of the front's drift."""
    unique = list({row["text"]: row for row in screened}.values())
    kept = front(unique, evaluations_of, drift_of)

    def excess(row: Row) -> float:
        able = [drift_of(one) for one in kept if one["evaluations"] <= row["evaluations"]]
        return drift_of(row) / max(min(able), 1e-12)

    others = [row for row in unique if row not in kept and excess(row) < NEAR]
    by_bar = sorted(kept, key=lambda row: abs(math.log(_safe(row) / bar)))
    return by_bar + sorted(others, key=excess)


def _safe(row: Row) -> float:
    return max(drift_of(row), 1e-12)
