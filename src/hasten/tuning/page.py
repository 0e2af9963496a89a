"""The tuner's report: one HTML file that needs nothing else, and the JSON it is a view of."""

from __future__ import annotations

import base64
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from hasten.core.artifact import BUILTIN
from hasten.core.engine import Prepared
from hasten.core.files import write_text
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.core.report import finite
from hasten.core.words import in_words
from hasten.measuring.ode_error import Reference
from hasten.media.page import plotly_source, rendered
from hasten.media.pictures import grid, png, save_png
from hasten.sampling import build, network_key, prepare
from hasten.tuning.pareto import front
from hasten.tuning.records import Finalist
from hasten.tuning.requests import ReferenceSpec
from hasten.tuning.result import Tuning
from hasten.tuning.serialization import Json
from hasten.tuning.table import cells, columns
from hasten.tuning.trials import TrialExecutor

SHOWN = 20  # samples of each plan on the page, at most
WIDE = 1000  # pixels of a sheet that fills a page
TEMPLATE = Path(__file__).with_name("page.html")
GREY, BLUE, ORANGE = "#9aa5b1", "#0b7285", "#e8590c"


def write_report(tuning: Tuning, model: Model, out: str | Path) -> None:
    """Write plan.json, report.json, report.html and a grid of samples for each plan on the front.

    Raises:
        UserError: plotly or Jinja2 is missing, or ``out`` cannot be written.
    """
    out, plotly = Path(out), plotly_source()
    executor = TrialExecutor(model=model, seed=tuning.seed, folder=out)
    spec = ReferenceSpec(plan=Plan.read(tuning.reference), samples=tuning.reference_samples)
    sheets = _sheets(tuning, model, executor.reference(spec).first(SHOWN))
    for name, sheet in sheets.items():
        facts = {"model": model.name, "plan": name}
        save_png(sheet, out / "pictures" / f"{name}.png", facts, _zoom(sheet))
    # What the model can be loaded from again: a name, or the folder it lies in.
    named = model.folder is None or model.name.startswith(BUILTIN)
    source = model.name if named else str(model.folder)
    text = page(tuning, sheets, plotly, source, str(out))
    write_text(out / "report.html", text)
    write_text(out / "report.json", json.dumps(finite(tuning.to_dict()), indent=1) + "\n")
    tuning.best.write(out / "plan.json")


def page(
    tuning: Tuning,
    sheets: Mapping[str, torch.Tensor],
    plotly: str,
    source: str = "MODEL",
    out: str = "OUT",
) -> str:
    """The page as HTML.

    Args:
        sheets: the grids of samples by the key of their plan, that of the reference as "reference".
        plotly: the source of plotly.js.
        source: what the model is loaded from; out: the folder of plan.json, both as commands on
            the page name them.
    """
    judged = next((finalist.report for finalist in tuning.finalists if finalist.report.fd), None)
    names = columns([finalist.report for finalist in tuning.front])
    return rendered(
        TEMPLATE,
        tuning=tuning,
        best=in_words(tuning.best),
        source=source,
        out=out,
        samples="one picture" if tuning.batch == 1 else f"{tuning.batch} pictures",
        rows=_rows(tuning, sheets, names),
        columns=names,
        prompted=judged is not None and judged.prompt_accuracy is not None,
        reference=_embedded(sheets["reference"]),
        screened=sorted(tuning.screened, key=lambda trial: trial.rmse),
        plotly=plotly,
        figure=_figure(tuning),
        random=_random_search(tuning),
        features=None if judged is None else judged.features,
        fd_samples=None if judged is None or judged.fd is None else judged.fd.n,
    )


def _random_search(tuning: Tuning) -> str:
    """What random search came to, in a sentence."""
    baseline = tuning.random
    effort = f"{baseline.plans} programs in {baseline.seconds:.1f} s of measurements"
    if baseline.share < 1:
        effort += f" ({baseline.share:.0%} of what the search took; the budget ended)"
    if baseline.best is None:
        return f"Random search tried {effort} and found none below the bar."
    bar = tuning.max_loss
    passing = [
        trial.evaluations
        for trial in tuning.screened
        if trial.by != "random search"
        and trial.passes(bar)
        and trial.ode_error
        and trial.ode_error.n >= tuning.reference_samples
    ]
    ours = f"the search's takes {min(passing)}" if passing else "the search found none"
    return (
        f"Random search tried {effort}; its cheapest program with an ODE error below {bar:g} takes "
        f"{baseline.best.evaluations} evaluations ({in_words(baseline.best.plan, engine=False)}), "
        f"{ours}."
    )


def _sheets(tuning: Tuning, model: Model, reference: Reference) -> dict[str, torch.Tensor]:
    columns = min(10, len(reference.pictures))
    sheets = {"reference": grid(reference.pictures, columns=columns)}
    nets: dict[tuple[str, ...], Prepared] = {}
    for finalist in tuning.front:
        plan = finalist.plan
        key = network_key(model, plan)
        if key not in nets:
            nets[key] = prepare(model, plan)
        sampler = build(model, plan, net=nets[key])
        pictures = sampler.sample(noise=reference.noise, condition=reference.condition)
        sheets[finalist.report.key] = grid(pictures, columns=columns)
    return sheets


def _rows(tuning: Tuning, sheets: Mapping[str, torch.Tensor], names: Sequence[str]) -> list[Json]:
    """The rows of the table of plans."""
    return [
        {
            "key": finalist.report.key,
            "name": in_words(finalist.plan),
            "text": str(finalist.plan),
            "cells": cells(finalist.report, finalist.latency, names),
            "best": finalist.report.key == tuning.best.key,
            "picture": _embedded(sheets[finalist.report.key]),
        }
        for finalist in tuning.front
    ]


def _embedded(sheet: torch.Tensor) -> str:
    return "data:image/png;base64," + base64.b64encode(png(sheet, zoom=_zoom(sheet))).decode()


def _zoom(sheet: torch.Tensor) -> int:
    """Twice as large where the pictures are small."""
    return 2 if sheet.shape[-1] <= WIDE else 1


def _figure(tuning: Tuning) -> Json:
    """Plotly data: every plan measured closely, the front, and the recommended finalist."""
    finalists, batch = tuning.finalists, tuning.batch
    best = [finalist for finalist in finalists if finalist.report.key == tuning.best.key]
    two_sided = front(
        finalists, lambda finalist: finalist.latency.median, lambda finalist: finalist.loss
    )
    star = {"color": ORANGE, "size": 14, "symbol": "star"}
    judged = next((finalist.report.fd for finalist in tuning.front if finalist.report.fd), None)
    loss = "ODE error (RMSE)" if judged is None else f"FD (n = {judged.n})"
    bar = {"x0": 0, "x1": 1, "y0": tuning.max_loss, "y1": tuning.max_loss}
    dotted = {"dash": "dot", "color": ORANGE, "width": 1}
    line = {"type": "line", "xref": "paper", **bar, "line": dotted}
    latencies = [finalist.latency.median / batch for finalist in finalists]
    return {
        "data": [
            _points(finalists, batch, "measured", "markers", {"color": GREY}),
            _points(two_sided, batch, "front", "lines+markers", {"color": BLUE}),
            _points(best, batch, "recommended", "markers", star),
        ],
        "layout": {
            "xaxis": _axis("milliseconds a picture", latencies),
            "yaxis": _axis(loss, [finalist.loss for finalist in finalists]),
            "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
            "legend": {"orientation": "h", "y": 1.12},
            "height": 420,
            "shapes": [line] if judged is None else [],
        },
    }


def _axis(title: str, values: Sequence[float]) -> Json:
    """A logarithmic axis with readable ticks however short it is."""
    finite = [value for value in values if 0 < value < math.inf] or [1.0]
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    candidates = [step * 10.0**power for power in range(-9, 9) for step in steps]
    inside = [tick for tick in candidates if min(finite) / 1.3 <= tick <= max(finite) * 1.3]
    ticks = inside[:: len(inside) // 10 + 1]
    labels = {"tickvals": ticks, "ticktext": [f"{tick:.3g}" for tick in ticks]}
    return {"title": {"text": title}, "type": "log", **labels}


def _points(finalists: Sequence[Finalist], batch: int, name: str, mode: str, marker: Json) -> Json:
    return {
        "x": [finalist.latency.median / batch for finalist in finalists],
        "y": [finalist.loss for finalist in finalists],
        "text": [_hover(finalist) for finalist in finalists],
        "hovertemplate": "%{text}<br>%{x:.1f} ms a picture<extra></extra>",
        "name": name,
        "mode": mode,
        "marker": marker,
    }


def _hover(finalist: Finalist) -> str:
    report = finalist.report
    lines = [*in_words(report.plan).split(", "), f"{report.evaluations:g} evaluations"]
    if report.ode_error:
        lines.append(f"ODE error {report.ode_error.rmse:.4f} (n = {report.ode_error.n})")
    if report.fd:
        lines.append(f"FD {report.fd.value:.2f} (n = {report.fd.n})")
    return "<br>".join(lines)
