"""What the recommended plan gains over diffusers here: ``python -m benchmarks.beside demo``.

Adds a section to the tuner's report of ``builtin:mnist`` in that folder, and ``beside.json``: the
plan in hasten and exported, the best training-free configuration of diffusers and its DDPM with
1000 steps, each in a process of its own and timed in turn on this machine. Which configuration is
the best at the same FD is what the sweep of all of diffusers' schedulers found
(``results/ahead.json``).
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import jinja2

import hasten
from benchmarks.ahead import raced
from benchmarks.results_io import read
from hasten.core.files import write_text

PLACE = "<!-- beside -->"
ROUNDS, FULL = 9, (4,)
Facts = dict[str, Any]
SECTION = """<h2>Beside diffusers</h2>
<p class="soft">One picture at a time, on this machine, each in a process of its own and timed
  in turn (medians of {{ rounds }}, 1000 steps once); peak MB: the most that the process held,
  Python and libraries included. An export runs without hasten and torch. Of diffusers' schedulers
  that need no training, a sweep of all of them found the one below to be the fastest at this FD,
  or the nearest to it (measured before; no process here repeats it). FD falls with the number of
  pictures.</p>
<div class="wide"><table>
  <tr><th></th><th>FD</th><th>ms a picture</th><th>times as long</th><th>peak MB</th>
    <th>of DDPM's</th></tr>
  {% for row in rows %}
  <tr{% if loop.first %} class="best"{% endif %}><td>{{ row.name }}</td><td>{{ row.fd }}</td>
    <td>{{ "%.1f"|format(row.median) }}</td><td>{{ "%.1f"|format(row.times) }}</td>
    <td>{{ row.peak_mb }}</td><td>{{ "%.0f%%"|format(100 * row.share) }}</td></tr>
  {% endfor %}
</table></div>
"""


def named(row: Facts) -> str:
    """What a contender is, in words."""
    if row["side"] == "hasten":
        return "the recommended plan, in hasten"
    if row["side"] != "diffusers":
        return f"the recommended plan, exported ({row['side'].removeprefix('export, ')})"
    steps = "1 step" if row["steps"] == 1 else f"{row['steps']} steps"
    return f"diffusers, {row['config']}, {steps}, {row['engine']}"


def compared(rows: list[Facts], fd: Facts | None, n: int) -> list[Facts]:
    """The rows of the section, fastest first: times the fastest, and shares of DDPM's memory. FD of
    the peers is of ``n`` pictures."""
    rows = sorted(rows, key=lambda row: row["median"])
    first, ddpm = rows[0], max(rows, key=lambda row: row.get("steps", 0))
    mine = _of(fd["value"], fd["n"]) if fd else ""
    return [
        {
            "name": named(row),
            "fd": (_of(row["fd"], n) if "fd" in row else "") if "config" in row else mine,
            "median": row["median"],
            "times": row["median"] / first["median"],
            "peak_mb": row["peak_mb"],
            "share": row["peak_mb"] / ddpm["peak_mb"],
        }
        for row in rows
    ]


def _of(fd: float, n: int) -> str:
    return f"{fd:.2f} (n = {n})"


def main(folder: Path) -> None:
    plan = hasten.Plan.read(folder / "plan.json")
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    best = next(row for row in report["finalists"] if row["key"] == plan.key)
    fd = (best["final_quality"] or best)["fd"]
    before = next(row for row in read("ahead")["rows"] if row["batch"] == 1)
    try:
        found = raced(
            1, plan.model_dump(), [before["fastest_peer"]], FULL, ROUNDS, folder / "exported"
        )
    except hasten.UserError as error:  # a plan that no other runtime can take
        print(f"beside diffusers: not measured: {error}")
        return
    rows = compared(found, fd, before["n"])
    (folder / "beside.json").write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined)
    section = environment.from_string(SECTION).render(rows=rows, rounds=ROUNDS)
    page = folder / "report.html"
    write_text(page, page.read_text(encoding="utf-8").replace(PLACE, section, 1))
    for row in rows:
        print(f"{row['median']:9.1f} ms {row['peak_mb']:5.0f} MB  {row['name']}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
