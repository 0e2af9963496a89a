"""The tuner's report: one HTML file that needs nothing else, and the JSON it is a view of."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

from hasten.core.errors import UserError
from hasten.core.files import write_text
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.ode_error import Reference
from hasten.media.pictures import grid, png, save_png
from hasten.sampling import build, prepare
from hasten.tuning.final_selection import loss_of
from hasten.tuning.pareto import front
from hasten.tuning.table import COLUMNS, QUALITY, cells
from hasten.tuning.trials import Lab
from hasten.tuning.tune import Tuning

SHOWN = 20  # pictures of each plan on the page, at most
WIDE = 1000  # pixels of a sheet that fills a page
TEMPLATE = Path(__file__).with_name("page.html")


def write_report(found: Tuning, model: Model, out: str | Path) -> None:
    """Write plan.json, report.json, report.html and a grid of pictures for each plan on the front.

    Raises:
        UserError: plotly or Jinja2 is missing, or ``out`` cannot be written.
    """
    out = Path(out)
    try:
        import jinja2
        import plotly.offline
    except ImportError as error:
        raise UserError('the report needs: pip install "hasten[tune]"') from error
    lab = Lab(model=model, seed=found.seed, folder=out)
    against = {"plan": Plan.read(found.reference).model_dump(), "n": found.converged}
    held = lab.converged(against).first(SHOWN)
    sheets = _sheets(found, model, held)
    for name, sheet in sheets.items():
        facts = {"model": model.name, "plan": name}
        save_png(sheet, out / "pictures" / f"{name}.png", facts, _zoom(sheet))
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        found=found,
        rows=_rows(found, sheets),
        columns=COLUMNS + (QUALITY if any(row["fd"] for row in found.front) else ()),
        reference=_embedded(sheets["reference"]),
        screened=sorted(found.screened, key=lambda row: row["ode_error"]["rmse"]),
        plotly=plotly.offline.get_plotlyjs(),
        figure=_figure(found),
        luck=_luck(found),
        **_judged(found),
    )
    write_text(out / "report.html", page)
    write_text(out / "report.json", json.dumps(found.to_dict(), indent=1) + "\n")
    found.best.write(out / "plan.json")


def _judged(found: Tuning) -> dict[str, Any]:
    """In which features FD is, and of how many pictures."""
    row = next((row for row in found.finalists if row["fd"]), None)
    none = {"features": None, "judged": None}
    return none if row is None else {"features": row["features"], "judged": row["fd"]["n"]}


def _luck(found: Tuning) -> str:
    """What random search came to, in a sentence."""
    luck = found.random
    spent = f"{luck['plans']} programs in {luck['seconds']:.1f} s of questions"
    if luck["share"] < 1:
        spent += f" ({luck['share']:.0%} of what the search took; the budget ended)"
    if luck["best"] is None:
        return f"Random search tried {spent} and found none below the bar."
    best, bar = luck["best"], found.max_loss
    mine = [row["evaluations"] for row in found.screened if row["ode_error"]["rmse"] <= bar]
    ours = f"the search's takes {min(mine)}" if mine else "the search found none"
    return (
        f"Random search tried {spent}; its cheapest program with an ODE error below {bar:g} takes "
        f"{best['evaluations']} evaluations ({best['text']}), {ours}."
    )


def _sheets(found: Tuning, model: Model, held: Reference) -> dict[str, Any]:
    sheets = {"reference": grid(held.pictures, columns=10)}
    nets: dict[tuple[str, ...], Any] = {}
    for row in found.front:
        plan = Plan(**row["plan"])
        net = nets.setdefault(plan.network, prepare(model, plan))
        sampler = build(model, plan, net=net)
        pictures = sampler.sample(noise=held.noise, condition=held.condition)
        sheets[row["key"]] = grid(pictures, columns=10)
    return sheets


def _rows(found: Tuning, sheets: dict[str, Any]) -> list[dict[str, Any]]:
    best = found.best.key
    return [
        {
            "key": row["key"],
            "name": str(Plan(**row["plan"])),
            "cells": cells(row),
            "best": row["key"] == best,
            "picture": _embedded(sheets[row["key"]]),
        }
        for row in found.front
    ]


def _embedded(sheet: Any) -> str:
    return "data:image/png;base64," + base64.b64encode(png(sheet, zoom=_zoom(sheet))).decode()


def _zoom(sheet: Any) -> int:
    """Twice as large where the pictures are small."""
    return 2 if sheet.shape[-1] <= WIDE else 1


def _figure(found: Tuning) -> dict[str, Any]:
    """Plotly data: every plan looked at closely, the front, and the recommended one."""
    best = [row for row in found.finalists if row["key"] == found.best.key]
    grey, line, star = "#9aa5b1", "#0b7285", {"color": "#e8590c", "size": 14, "symbol": "star"}
    rows = found.finalists
    judged = any(row["fd"] for row in rows)
    loss = f"FD (n = {found.front[0]['fd']['n']})" if judged else "ODE error (RMSE)"
    line_of = front(rows, lambda row: row["race_ms"]["median"], loss_of)
    bar = {"x0": 0, "x1": 1, "y0": found.max_loss, "y1": found.max_loss}
    dotted = {"dash": "dot", "color": star["color"], "width": 1}
    return {
        "data": [
            _points(found.finalists, found.batch, "measured", "markers", {"color": grey}),
            _points(line_of, found.batch, "front", "lines+markers", {"color": line}),
            _points(best, found.batch, "recommended", "markers", star),
        ],
        "layout": {
            "xaxis": _axis(
                "milliseconds a picture", [row["race_ms"]["median"] / found.batch for row in rows]
            ),
            "yaxis": _axis(loss, [loss_of(row) for row in rows]),
            "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
            "legend": {"orientation": "h", "y": 1.12},
            "height": 420,
            "shapes": [] if judged else [{"type": "line", "xref": "paper", **bar, "line": dotted}],
        },
    }


def _axis(title: str, values: list[float]) -> dict[str, Any]:
    """A logarithmic axis with readable ticks however short it is."""
    known = [value for value in values if 0 < value < math.inf]
    steps = (1, 1.2, 1.5, 2, 2.5, 3, 4, 5, 6, 8)
    every = [step * 10.0**power for power in range(-9, 9) for step in steps]
    inside = [tick for tick in every if min(known) / 1.3 <= tick <= max(known) * 1.3]
    ticks = inside[:: len(inside) // 10 + 1]
    shown = {"tickvals": ticks, "ticktext": [f"{tick:.3g}" for tick in ticks]}
    return {"title": {"text": title}, "type": "log", **shown}


def _points(
    rows: list[dict[str, Any]], batch: int, name: str, mode: str, marker: dict[str, Any]
) -> dict[str, Any]:
    return {
        "x": [row["race_ms"]["median"] / batch for row in rows],
        "y": [loss_of(row) for row in rows],
        "text": [_hover(row) for row in rows],
        "hovertemplate": "%{text}<br>%{x:.1f} ms a picture<extra></extra>",
        "name": name,
        "mode": mode,
        "marker": marker,
    }


def _hover(row: dict[str, Any]) -> str:
    lines = str(Plan(**row["plan"])).split(",")
    lines.append(f"{row['evaluations']} evaluations")
    if row["ode_error"]:
        lines.append(f"ODE error {row['ODE error']['rmse']:.4f} (n = {row['ODE error']['n']})")
    if row["fd"]:
        lines.append(f"FD {row['fd']['value']:.2f} (n = {row['fd']['n']})")
    return "<br>".join(lines)
