"""Reports as a table for a terminal and for the page."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from hasten.core.report import Estimate, Latency, OdeError, Report
from hasten.core.words import in_words
from hasten.tuning.records import Finalist

COLUMNS = ("plan", "engine", "NFE", "ms", "p90", "pics/s", "ODE error (95%)")
QUALITY_COLUMNS = ("FD (95%)", "recall")
PROMPT_COLUMN = "prompts met"
TEXT_COLUMNS = ("plan", "engine")
SHORT_DTYPES = {"float32": "f32", "bfloat16": "bf16", "float16": "f16"}
WIDE = 110  # characters; a narrower terminal does without p90


def columns(reports: Sequence[Report]) -> tuple[str, ...]:
    """The names of the columns that ``reports`` fill."""
    names = COLUMNS + (QUALITY_COLUMNS if any(report.fd for report in reports) else ())
    return (*names, PROMPT_COLUMN) if any(report.prompt_accuracy for report in reports) else names


def cells(report: Report, latency: Latency, names: Sequence[str]) -> tuple[str, ...]:
    """A report's cells under ``names``, for the terminal and the page."""
    plan, ode_error = report.plan, report.ode_error
    texts = (
        in_words(plan, engine=False),
        f"{plan.engine} {SHORT_DTYPES[plan.dtype]}",
        f"{round(report.evaluations, 1):g}",
        f"{latency.median:.1f}",
        f"{latency.p90:.1f}",
        f"{report.throughput.pictures_per_s:.1f}",
        "draws noise" if plan.stochastic else _with_interval(ode_error),
        _estimate(report.fd),
        _estimate(report.recall),
        _estimate(report.prompt_accuracy),
    )
    every = (*COLUMNS, *QUALITY_COLUMNS, PROMPT_COLUMN)
    return tuple(text for name, text in zip(every, texts, strict=True) if name in names)


def print_reports(reports: Sequence[Report]) -> None:
    """Print reports to stdout, as wide as the terminal."""
    _print([(report, report.latency_ms) for report in reports])


def print_finalists(finalists: Sequence[Finalist]) -> None:
    """Print finalists with their latencies in the race, as wide as the terminal."""
    _print([(finalist.report, finalist.latency) for finalist in finalists])


def _print(rows: Sequence[tuple[Report, Latency]]) -> None:
    names = columns([report for report, _ in rows])
    print_table(names, [cells(report, latency, names) for report, latency in rows], TEXT_COLUMNS)


def print_table(
    names: Sequence[str], rows: Sequence[Sequence[str]], texts: Sequence[str] = ()
) -> None:
    """Print ``rows`` of cells under ``names`` to stdout, as wide as the terminal. The columns
    ``texts`` are folded, the others stand to the right."""
    console = Console(soft_wrap=False, width=None if sys.stdout.isatty() else 140)
    shown = [i for i, name in enumerate(names) if name != "p90" or console.width >= WIDE]
    table = Table(header_style="bold", box=None, pad_edge=False)
    for place in shown:
        text = names[place] in texts
        table.add_column(
            names[place],
            overflow="fold",
            no_wrap=not text,
            min_width=8 if text else None,
            justify="left" if text else "right",
        )
    for row in rows:
        table.add_row(*[row[place] for place in shown])
    console.print(table)


def _estimate(estimate: Estimate | None) -> str:
    if estimate is None:
        return ""
    return f"{estimate.value:.2f} ±{(estimate.high - estimate.low) / 2:.2f}"


def _with_interval(ode_error: OdeError | None) -> str:
    if ode_error is None:
        return ""
    return f"{ode_error.rmse:.4f} ±{ode_error.high - ode_error.rmse:.4f}"
