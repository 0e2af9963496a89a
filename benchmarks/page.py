"""The web page in headless Chromium: ``python -m benchmarks.page``. Needs Chromium.

The shipped student, from the smaller of its mixtures, is exported in floats and in eight bits; what
a picture takes is the time that the page itself shows (previews apart), of SEEDS pictures after the
first ones; what the folder takes is all of its files.
"""

from __future__ import annotations

import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.browser import Browser, served

import hasten
from benchmarks.results_io import write
from hasten.learning.compression.quantize import learn_quantize
from hasten.levers.student import student_plans

STUDENT, SEEDS, WARM = "builtin:mnist-2", 100, 5
TOOK = "document.body.dataset.took"
Facts = dict[str, Any]


def pictures(folder: Path, gpu: bool = False) -> Facts:
    """The page's own times, and on what it ran."""
    with served(folder) as url, Browser(1000, 800, gpu) as window:
        window.ask("Page.navigate", url=url)
        window.until(TOOK)
        times = []
        for _ in range(SEEDS + WARM):
            window.value(f"delete {TOOK}; document.getElementById('again').click()")
            times.append(float(window.until(TOOK)))
        runtime = window.value("document.getElementById('runtime').textContent")
    times = sorted(times[WARM:])
    median, p90 = statistics.median(times), times[int(0.9 * len(times))]
    return {"runtime": runtime, "median": median, "p90": p90, "n": len(times)}


def row(plan: hasten.Plan, bits: str | None, to: str, scratch: Path) -> Facts:
    """Export a plan, open the page, look at the clock."""
    model, name = hasten.load("builtin:mnist"), f"{plan.steps}-{bits}-{to}"
    if bits is not None:
        file = scratch / f"{name}.safetensors"
        learn_quantize(model, plan, file, bits=bits, rows="static")
        plan = plan.with_lever(f"quantize(file={str(file)!r})")
    began = time.perf_counter()
    found = hasten.export(model, plan, to, scratch / name)
    seconds = time.perf_counter() - began
    files = [path for path in (scratch / name).rglob("*") if path.is_file()]
    return {
        "evaluations": plan.steps,
        "bits": bits or "float",
        "to": to,
        "megabytes": sum(path.stat().st_size for path in files) / 1e6,
        "export_seconds": seconds,
        "psnr": found.psnr,
        **pictures(scratch / name, "gpu" in to),
    }


def plans() -> list[hasten.Plan]:
    """The student's plans, from the mixture whose file is a quarter of the other's."""
    found = []
    for fields in student_plans(STUDENT):
        start = fields["start"].replace("mixture.safetensors", "mixture-small.safetensors")
        student = f"student(folder={STUDENT!r})"
        found.append(hasten.Plan(**{**fields, "start": start}, levers=(student,)))
    return found


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        rows = [
            row(plan, bits, "web", Path(scratch)) for plan in plans() for bits in (None, "w8a8")
        ]
        rows.append(row(plans()[0], None, "web(gpu=True)", Path(scratch)))
    write("page", "the page of the student in headless Chromium, milliseconds a picture", rows)


if __name__ == "__main__":
    main()
