"""Reports as a table for a terminal."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table

COLUMNS = ("plan", "evaluations", "ms/picture", "p90", "pictures/s", "drift (95%)")


def cells(row: dict[str, Any]) -> tuple[str, ...]:
    """A report's cells under COLUMNS, as the terminal and the page show them."""
    from hasten.core.plan import Plan

    drift = row["drift"]
    apart = "draws noise" if drift is None else f"{drift['rmse']:.4f} ±{_half(drift):.4f}"
    return (
        str(Plan(**row["plan"])),
        str(row["evaluations"]),
        f"{row['latency_ms']['median']:.1f}",
        f"{row['latency_ms']['p90']:.1f}",
        f"{row['throughput']['pictures_per_s']:.1f}",
        apart,
    )


def table(rows: list[dict[str, Any]]) -> None:
    """Print reports to stdout, as wide as the terminal."""
    body = Table(header_style="bold", box=None, pad_edge=False)
    body.add_column(COLUMNS[0], overflow="fold")
    for name in COLUMNS[1:]:
        body.add_column(name, no_wrap=True, justify="right")
    for row in rows:
        body.add_row(*cells(row))
    Console(soft_wrap=False).print(body)


def _half(drift: dict[str, Any]) -> float:
    return drift["high"] - drift["rmse"]
