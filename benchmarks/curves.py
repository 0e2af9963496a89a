"""Curves as a picture that a document shows: SVG, both axes logarithmic."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from html import escape

from benchmarks.results_io import FOLDER, read

WIDTH, HEIGHT, LEFT, RIGHT, TOP, BOTTOM = 880, 460, 64, 230, 16, 48
COLORS = ("#0b7285", "#e8590c", "#5f3dc4", "#2b8a3e", "#c2255c", "#1864ab")
COLORS += ("#e67700", "#862e9c", "#495057", "#087f5b", "#a61e4d", "#364fc7")
SHOWN = {  # (rounding, rows) of a quantization
    ("nearest", "static"): "nearest, one row",
    ("gptq", "static"): "GPTQ, one row",
    ("gptq", "steps"): "GPTQ, a row per step",
}
FEW = 6  # values along x that are all marked
Points = Sequence[tuple[float, float]]


def curves(series: dict[str, Points], x_title: str, y_title: str) -> str:
    """A line for each series, named at the right from the highest end to the lowest."""
    xs = [x for points in series.values() for x, _ in points]
    ys = [y for points in series.values() for _, y in points]
    across = _axis(min(xs), max(xs), LEFT, WIDTH - RIGHT)
    up = _axis(min(ys), max(ys), HEIGHT - BOTTOM, TOP)
    parts = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>']
    few = sorted(set(xs))
    for tick in few if len(few) <= FEW else _ticks(min(xs), max(xs)):
        x = across(tick)
        parts.append(_line(x, TOP, x, HEIGHT - BOTTOM))
        parts.append(_text(x, HEIGHT - BOTTOM + 18, f"{tick:g}", "middle"))
    for tick in _ticks(min(ys), max(ys)):
        y = up(tick)
        parts.append(_line(LEFT, y, WIDTH - RIGHT, y))
        parts.append(_text(LEFT - 8, y + 4, f"{tick:g}", "end"))
    parts.append(_text((LEFT + WIDTH - RIGHT) / 2, HEIGHT - 10, x_title, "middle"))
    parts.append(_text(LEFT + 6, TOP + 12, y_title, "start"))
    order = sorted(series, key=lambda name: -series[name][-1][1])
    places = _apart([up(series[name][-1][1]) for name in order], 15)
    for number, (name, place) in enumerate(zip(order, places, strict=True)):
        color = COLORS[number % len(COLORS)]
        spots = [(across(x), up(y)) for x, y in series[name]]
        route = " ".join(f"{x:.1f},{y:.1f}" for x, y in spots)
        parts.append(f'<polyline points="{route}" fill="none" stroke="{color}" stroke-width="2"/>')
        (x, y), near = spots[-1], WIDTH - RIGHT + 8
        parts.append(f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{color}"/>')
        parts.append(_line(x, y, near, place - 4, color))
        parts.append(_text(near + 4, place, name, "start", color))
    body = "\n".join(parts)
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" '
        f'font-family="sans-serif" font-size="12">\n{body}\n</svg>\n'
    )


def distilling() -> str | None:
    """FD on the way of every objective, None where it was not measured."""
    if not (FOLDER / "distilling.json").exists():
        return None
    rows = [row for row in read("distilling")["rows"] if row["objective"] != "teacher"]
    series = {}
    for row in rows:
        points = [(one["seconds"], one["fd"]) for one in row["curve"] if one["fd"] is not None]
        count = row["plans"][0]["evaluations"]
        name = f"{row['objective']}, {count} evaluation{'s' * (count > 1)}"
        if points:
            series[name] = points
    return curves(series, "seconds", "FD (n = 500)") if series else None


def bits() -> str | None:
    """ODE error over bits, by how weights are rounded, with one row of ranges and with one per
    step; None where not measured."""
    if not (FOLDER / "smaller.json").exists():
        return None
    rows = [row for row in read("smaller")["rows"] if row["kind"] == "distance"]
    series: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        weights, _, activations = row["bits"].removeprefix("w").partition("a")
        if (row["rounding"], row["rows"]) not in SHOWN:
            continue
        kind = SHOWN[row["rounding"], row["rows"]]
        for name, fixed, moving in (
            ("activations", weights, activations),
            ("weights", activations, weights),
        ):
            if fixed == "8" and int(moving) <= 8:
                points = series.setdefault(f"bits of {name}, {kind}", [])
                points.append((float(moving), row["rmse"]))
    ordered = {name: sorted(points) for name, points in series.items()}
    return curves(ordered, "bits, the others 8", "ODE error (RMSE)")


def replay() -> str | None:
    """Regret of a search in percent (half a percent where it is less, for the axis), by what the
    search was given, on average over models and bars; None where not measured."""
    if not (FOLDER / "tuner_replay.json").exists():
        return None
    rows = read("tuner_replay")["rows"]
    shares = sorted({row["share"] for row in rows})
    series = {}
    for name in rows[0]["searches"]:
        means = [
            [row["searches"][name]["mean"] for row in rows if row["share"] == share]
            for share in shares
        ]
        series[name] = [
            (100 * share, max(0.5, 100 * sum(values) / len(values)))
            for share, values in zip(shares, means, strict=True)
        ]
    return curves(series, "% of what measuring every plan costs", "regret, %")


def _axis(low: float, high: float, begin: float, end: float) -> Callable[[float], float]:
    """The place of a value on a logarithmic axis."""
    first, span = math.log(low), max(math.log(high) - math.log(low), 1e-9)
    return lambda value: begin + (math.log(value) - first) / span * (end - begin)


def _ticks(low: float, high: float) -> list[float]:
    """1, 2, 5, 10, ... from low to high."""
    every = [step * 10.0**power for power in range(-6, 7) for step in (1, 2, 5)]
    return [tick for tick in every if low <= tick <= high]


def _apart(places: list[float], least: float) -> list[float]:
    """Places from top to bottom, moved so that neighbours are at least ``least`` apart, and none
    runs over the edge."""
    out: list[float] = []
    for place in places:
        out.append(max(place, out[-1] + least) if out else place)
    over = max(0.0, out[-1] - (HEIGHT - BOTTOM)) if out else 0.0
    for number in range(len(out) - 1, -1, -1):
        limit = HEIGHT - BOTTOM - (len(out) - 1 - number) * least
        out[number] = min(out[number], limit) if over else out[number]
    return out


def _line(x: float, y: float, to_x: float, to_y: float, color: str = "#dee2e6") -> str:
    ends = f'x1="{x:.1f}" y1="{y:.1f}" x2="{to_x:.1f}" y2="{to_y:.1f}"'
    return f'<line {ends} stroke="{color}" stroke-width="0.7"/>'


def _text(x: float, y: float, text: str, anchor: str, color: str = "#343a40") -> str:
    place = f'x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"'
    return f'<text {place} fill="{color}">{escape(text)}</text>'
