"""Reports as a table for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

from hasten.core.plan import Plan

COLUMNS = ("solver", "grid", "steps", "evals", "ms", "p90", "pics/s", "drift (95%)")
WORDS = 2  # the first columns are words, the rest numbers


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A report's cells under COLUMNS, as the terminal and the page show them; what else the plan
    says stands with the solver."""
    plan = Plan(**row["plan"])
    others = {name: value for name, value in plan.chosen().items() if name not in COLUMNS}
    more = "".join(f", {name}={value}" for name, value in others.items())
    drift = row["drift"]
    apart = "draws noise" if drift is None else f"{drift['rmse']:.4f} ±{_half(drift):.4f}"
    return (
        plan.solver + more,
        plan.grid,
        str(plan.steps),
        str(row["evaluations"]),
        f"{row['latency_ms']['median']:.1f}",
        f"{row['latency_ms']['p90']:.1f}",
        f"{row['throughput']['pictures_per_s']:.1f}",
        apart,
    )


def table(rows: list[dict[str, Any]]) -> None:
    """Print reports to stdout, as wide as the terminal."""
    body = Table(header_style="bold", box=None, pad_edge=False)
    for place, name in enumerate(COLUMNS):
        words = place < WORDS
        justify = "left" if words else "right"
        body.add_column(name, overflow="fold", no_wrap=not words, justify=justify)
    for row in rows:
        body.add_row(*cells(row))
    Console(soft_wrap=False).print(body)


def _half(drift: dict[str, Any]) -> float:
    return drift["high"] - drift["rmse"]
