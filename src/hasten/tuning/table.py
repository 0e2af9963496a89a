"""Reports as a table for a terminal and for the page."""

from __future__ import annotations

import sys
from typing import Any

from rich.console import Console
from rich.table import Table

from hasten.core.plan import Plan

COLUMNS = ("plan", "engine", "evals", "ms", "p90", "pics/s", "ODE error (95%)")
QUALITY = ("FD (95%)", "recall")
WORDS = ("plan", "engine")
SHORT = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
NAMED = ("solver", "grid", "steps", "program", "engine", "dtype", "device")
WIDE = 110  # a narrower terminal does without p90


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A report's cells under COLUMNS and QUALITY, as the terminal and the page show them."""
    plan = Plan(**row["plan"])
    others = {name: value for name, value in plan.chosen().items() if name not in NAMED}
    more = "".join(f" {name}={value}" for name, value in others.items())
    ode_error, latency = row["ode_error"], row.get("race_ms", row["latency_ms"])
    walk = plan.program or f"{plan.solver} {plan.grid} {plan.steps}"
    return (
        f"{walk}{more}",
        f"{plan.engine} {SHORT[plan.dtype]}",
        f"{round(row['evaluations'], 1):g}",
        f"{latency['median']:.1f}",
        f"{latency['p90']:.1f}",
        f"{row['throughput']['pictures_per_s']:.1f}",
        "draws noise" if ode_error is None else f"{ode_error['rmse']:.4f} ±{_half(ode_error):.4f}",
        _estimate(row["fd"]),
        _estimate(row["recall"]),
    )


def table(rows: list[dict[str, Any]]) -> None:
    """Print reports to stdout, as wide as the terminal."""
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 140)
    names = COLUMNS + (QUALITY if any(row["fd"] for row in rows) else ())
    shown = [i for i, name in enumerate(names) if name != "p90" or console.width >= WIDE]
    body = Table(header_style="bold", box=None, pad_edge=False)
    for place in shown:
        words = names[place] in WORDS
        body.add_column(
            names[place],
            overflow="fold",
            no_wrap=not words,
            min_width=8 if words else None,
            justify="left" if words else "right",
        )
    for row in rows:
        known = cells(row)
        body.add_row(*[known[place] for place in shown])
    console.print(body)


def _estimate(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    return f"{found['value']:.2f} ±{(found['high'] - found['low']) / 2:.2f}"


def _half(ode_error: dict[str, Any]) -> float:
    return ode_error["high"] - ode_error["rmse"]
