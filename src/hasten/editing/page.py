"""The page about an edit: one HTML file with clips or pictures beside it, and the JSON it shows."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from hasten.core.files import write_text
from hasten.core.report import finite
from hasten.editing.clip import ClipEdit
from hasten.editing.measures import Measures
from hasten.media.page import rendered

TEMPLATE = Path(__file__).with_name("page.html")
SOURCE, EDIT, BASELINE = "source", "edit", "frame by frame"
COLOURS = {SOURCE: "#9aa5b1", EDIT: "#e8590c", BASELINE: "#0b7285"}
PLOTS = {"strength": "edit strength", "flicker": "flicker", "warp_error": "warp error"}
Json = dict[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Shown:
    """One of the clips or pictures: its name, its file beside the page, what its edit took (None
    for a source or a picture), and what was measured of it."""

    name: str
    file: str
    measures: Measures
    took: ClipEdit | None = None

    def to_dict(self) -> Json:
        rate = {"frames_a_second": self.took.frames_a_second} if self.took else {}
        return {**dataclasses.asdict(self), **rate, "means": self.measures.means()}


def write_page(
    folder: Path,
    shown: Sequence[Shown],
    facts: Mapping[str, object],
    *,
    times: Sequence[float] = (),
    plotly: str = "",
) -> None:
    """Write report.html and report.json.

    Args:
        shown: the source first.
        facts: how the edit was made, and where.
        times: of the frames of a clip, in seconds; none for a picture.
        plotly: the source of plotly.js, for the figures of a clip.

    Raises:
        UserError: Jinja2 is missing, or the folder cannot be written.
    """
    rows = [each.to_dict() for each in shown]
    page = rendered(
        TEMPLATE,
        rows=rows,
        facts=facts,
        gain=gain(shown),
        clip=bool(times),
        figures=figures(shown, times),
        plotly=plotly,
    )
    numbers = {"facts": facts, "times": list(times), "shown": rows, "gain": gain(shown)}
    write_text(folder / "report.html", page)
    write_text(folder / "report.json", json.dumps(finite(numbers), indent=1, default=str) + "\n")


def gain(shown: Sequence[Shown]) -> float | None:
    """The frames a second of the edit, as times those of editing every frame by itself; None where
    that was not timed."""
    took = {each.name: each.took for each in shown}
    edit, alone = took.get(EDIT), took.get(BASELINE)
    return edit.frames_a_second / alone.frames_a_second if edit and alone else None


def figures(shown: Sequence[Shown], times: Sequence[float]) -> dict[str, Json]:
    """Plotly figures by measure, with a line for each clip it was taken of."""
    out = {}
    for measure, title in PLOTS.items():
        lines = [
            _line(each, getattr(each.measures, measure), times)
            for each in shown
            if not (measure == "strength" and each.name == SOURCE)
        ]
        if any(line["y"] for line in lines) and len(times) > 1:
            out[measure] = {"data": lines, "layout": _layout(title)}
    return out


def _line(each: Shown, values: Sequence[float | None], times: Sequence[float]) -> Json:
    """What lies between two frames is shown at the time of the second."""
    return {
        "x": list(times)[len(times) - len(values) :],
        "y": list(values),
        "name": each.name,
        "mode": "lines",
        "line": {"color": COLOURS[each.name]},
    }


def _layout(title: str) -> Json:
    return {
        "xaxis": {"title": {"text": "seconds"}},
        "yaxis": {"title": {"text": title}, "rangemode": "tozero"},
        "margin": {"l": 60, "r": 10, "t": 10, "b": 45},
        "legend": {"orientation": "h", "y": 1.2},
        "height": 240,
        "showlegend": True,
    }
