"""The tuner's report: one HTML file that needs nothing else, and the JSON it is a view of."""

from __future__ import annotations

import base64
import json
from pathlib import Path
from typing import Any

from hasten.core.errors import UserError
from hasten.core.files import write_text
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.measuring.drift import Reference, reference
from hasten.pictures import grid, png, save_png
from hasten.sampler import build
from hasten.tuning.table import COLUMNS, cells
from hasten.tuning.tune import Tuning

SHOWN = 20  # pictures of each plan on the page
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
    held = reference(model, SHOWN, guidance=found.best.guidance)
    sheets = _sheets(found, model, held)
    for name, sheet in sheets.items():
        save_png(sheet, out / "pictures" / f"{name}.png", {"model": model.name, "plan": name}, 2)
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    page = environment.from_string(TEMPLATE.read_text(encoding="utf-8")).render(
        found=found,
        rows=_rows(found, sheets),
        columns=COLUMNS,
        reference=_embedded(sheets["reference"]),
        screened=sorted(found.screened, key=lambda row: row["drift"]["rmse"]),
        plotly=plotly.offline.get_plotlyjs(),
        figure=_figure(found),
    )
    write_text(out / "report.html", page)
    write_text(out / "report.json", json.dumps(found.to_dict(), indent=1) + "\n")
    found.best.write(out / "plan.json")


def _sheets(found: Tuning, model: Model, held: Reference) -> dict[str, Any]:
    sheets = {"reference": grid(held.pictures, columns=10)}
    for row in found.front:
        sampler = build(model, Plan(**row["plan"]))
        pictures = sampler.sample(noise=held.noise, cond=held.cond)
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
    return "data:image/png;base64," + base64.b64encode(png(sheet, zoom=2)).decode()


def _figure(found: Tuning) -> dict[str, Any]:
    """Plotly data: every plan measured, the front, and the recommended one."""

    def points(rows: list[dict[str, Any]], name: str, **style: Any) -> dict[str, Any]:
        return {
            "x": [row["latency_ms"]["median"] for row in rows],
            "y": [row["drift"]["rmse"] for row in rows],
            "text": [f"{Plan(**row['plan'])}<br>{row['evaluations']} evaluations" for row in rows],
            "hovertemplate": "%{text}<br>%{x:.1f} ms, drift %{y:.4f}<extra></extra>",
            "name": name,
            **style,
        }

    best = [row for row in found.finalists if row["key"] == found.best.key]
    grey, line, star = "#9aa5b1", "#0b7285", "#e8590c"
    return {
        "data": [
            points(found.finalists, "measured", mode="markers", marker={"color": grey}),
            points(found.front, "front", mode="lines+markers", marker={"color": line}),
            points(
                best,
                "recommended",
                mode="markers",
                marker={"color": star, "size": 14, "symbol": "star"},
            ),
        ],
        "layout": {
            "xaxis": {"title": {"text": "milliseconds a picture"}, "type": "log", "dtick": "D2"},
            "yaxis": {"title": {"text": "drift (RMSE)"}, "type": "log", "dtick": "D2"},
            "margin": {"l": 60, "r": 10, "t": 10, "b": 50},
            "legend": {"orientation": "h", "y": 1.12},
            "height": 420,
            "shapes": [
                {
                    "type": "line",
                    "xref": "paper",
                    "x0": 0,
                    "x1": 1,
                    "y0": found.max_drift,
                    "y1": found.max_drift,
                    "line": {"dash": "dot", "color": star, "width": 1},
                }
            ],
        },
    }
