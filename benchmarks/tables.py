"""Write the tables of the documents from ``results/``: ``python -m benchmarks.tables [--check]``.

A table stands between ``<!-- table: NAME -->`` and ``<!-- end -->``; nobody types its numbers.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import hasten
from benchmarks import curves, tables_few, tables_serving
from benchmarks.markdown import markdown, where
from benchmarks.results_io import read
from hasten.core.files import MANIFEST, write_manifest
from hasten.tuning.pareto import front

ROOT = Path(__file__).parents[1]
DOCUMENTS = (
    "README.md",
    "docs/measurements.md",
    "docs/learned-programs.md",
    "docs/parallel-sampling.md",
    "docs/tuning.md",
    "docs/levers.md",
    "docs/distillation.md",
    "docs/export.md",
    "docs/serve.md",
    "docs/pipelines.md",
    "src/hasten/assets/mnist/README.md",
)
DRAWINGS = {
    "docs/images/distilling.svg": curves.distilling,
    "docs/images/bits.svg": curves.bits,
    "docs/images/replay.svg": curves.replay,
}
PLACE = re.compile(r"(<!-- table: ([\w-]+) -->\n).*?(<!-- end -->)", re.S)


def plans() -> str:
    result = read("plans")
    head = ("plan", "evaluations", "ms per picture", "ODE error", "95%")
    return markdown(head, [_plan(row) for row in result["rows"]]) + where(result)


def best() -> str:
    """The plans that no other beats in both evaluations and ODE error."""
    result = read("plans")
    kept = front(result["rows"], lambda row: row["evaluations"], lambda row: row["ode_error"])
    head = ("plan", "evaluations", "ms per picture", "ODE error", "95%")
    note = (
        f"\nOf {len(result['rows'])} plans; n = {kept[0]['n']} pictures for the ODE error, "
        f"{kept[0]['n_times']} timings, batch 1."
    )
    return markdown(head, [_plan(row) for row in kept]) + note + where(result)


def _plan(row: dict[str, Any]) -> tuple[str, ...]:
    low, high = row["ode_error_interval"]
    return (
        f"`{row['plan']}`",
        str(row["evaluations"]),
        f"{row['latency_ms']:.0f}",
        f"{row['ode_error']:.4f}",
        f"{low:.4f} to {high:.4f}",
    )


def fd() -> str:
    result = read("fd")
    rows = [
        (
            f"`{row['plan']}`",
            str(row["evaluations"]),
            f"{row['fd']:.2f}",
            f"{row['right_class']:.1%}",
        )
        for row in result["rows"]
    ]
    note = f"\nFD at n = {result['rows'][0]['n']}; compare at equal n only."
    return markdown(("plan", "evaluations", "FD", "right class"), rows) + note + where(result)


def right() -> str:
    result = read("right")
    rows = [
        (row["sampler"], str(row["steps"]), f"`{row['plan']}`", f"{row['max_abs_difference']:.1e}")
        for row in result["rows"]
    ]
    head = ("diffusers", "steps", "hasten", "largest difference")
    note = f"\nLatents of {result['rows'][0]['n']} pictures, float32, values of about -1 to 1."
    return markdown(head, rows) + note + where(result)


def ancestral() -> str:
    result = read("ancestral")
    rows = [
        (
            row["what"],
            *(f"{row[side]['value']:.4f}" for side in ("hasten", "diffusers")),
            f"{row['difference']:.4f} ±{row['interval']:.4f}",
            "yes" if row["equal"] else "no",
        )
        for row in result["rows"]
    ]
    head = ("", "hasten", "diffusers", "difference (95%)", "equal")
    note = f"\n{result['what']}; other noise on the two sides."
    return markdown(head, rows) + note + where(result)


def agreement() -> str:
    result = read("agreement")
    rows = [
        (
            row["what"],
            f"{row['hasten']:.4f}",
            f"{row['interval'][0]:.3f} to {row['interval'][1]:.3f}",
            *(_known(row[name]) for name in ("torchmetrics", "torch_fidelity")),
            f"{row['relative_difference']:.0e}",
        )
        for row in result["rows"]
    ]
    head = ("", "hasten", "95%", "torchmetrics", "torch-fidelity", "largest relative difference")
    note = f"\nn = {result['rows'][0]['n']}; {result['what']}."
    return markdown(head, rows) + note + where(result)


def _known(value: float | None) -> str:
    return "" if value is None else f"{value:.4f}"


def headline() -> str:
    """The published sampler and the tuner's plan on the same frozen weights, one picture at a
    time."""
    result = read("training_free")
    row = next(row for row in result["rows"] if row["batch"] == 1)
    ours, ddpm, peer = row["timings"][0], row["timings"][-1], _fastest_peer(row)
    cells = [
        ("before: diffusers, DDPM as published", "1000", *_speed(ddpm, ddpm), ""),
        (
            f"diffusers, {peer['config']}, {peer['engine']}",
            str(peer["steps"]),
            *_speed(peer, ddpm),
            f"{peer['fd']:.2f}",
        ),
        (
            "after: the plan of `hasten tune`",
            str(row["evaluations"]),
            *_speed(ours, ddpm),
            _fd(row),
        ),
    ]
    head = ("", "evaluations", "ms per picture", "times faster", "FD (95%)")
    note = (
        f"\nOn the digits of `builtin:mnist`, batch 1. In the middle the fastest of diffusers' "
        f"schedulers whose FD is at most 5% above that of hasten's plan. Medians of {ours['n']} "
        f"runs in turn (DDPM: {ddpm['n']}); FD of {row['n']} pictures."
    )
    return markdown(head, cells) + note + where(result)


def _speed(row: dict[str, Any], before: dict[str, Any]) -> tuple[str, str]:
    faster = before["median"] / row["median"]
    return f"{row['median']:.3g}" if row[
        "median"
    ] < 1000 else f"{row['median']:,.0f}", f"{faster:,.0f}"


def _fd(row: dict[str, Any]) -> str:
    return f"{row['fd']:.2f} ({row['fd_interval'][0]:.2f} to {row['fd_interval'][1]:.2f})"


def _fastest_peer(row: dict[str, Any]) -> dict[str, Any]:
    peers = [timing for timing in row["timings"][:-1] if timing["side"] == "diffusers"]
    return min(peers, key=lambda timing: timing["median"])


def training_free() -> str:
    """Plans for frozen weights beside diffusers' schedulers: neither side was trained."""
    return _beside("training_free", exports=False)


def student_times() -> str:
    """What the student that ships costs in each runtime."""
    result, cells = read("ahead"), []
    for row in result["rows"]:
        batch, ours = row["batch"], row["timings"][0]
        for timing in row["timings"]:
            if timing["side"] != "diffusers":
                name = timing["side"].replace("hasten", f"hasten, `{_engine(row['plan'])}`")
                fd = _fd(row) if timing is ours else ""
                cells.append((name, str(batch), fd, *_ms(timing, batch, ours)))
    head = ("", "batch", "FD (95%)", "ms per picture", "95%", "times slower", "peak MB")
    note = (
        f"\n`builtin:mnist-2`, one evaluation from its mixture; FD of n = {result['rows'][0]['n']} "
        f"pictures; each in a process of its own, timed in turn, n = "
        f"{result['rows'][0]['timings'][0]['n']}. Memory is that of the whole process."
    )
    return markdown(head, cells) + note + where(result)


def _engine(plan: str) -> str:
    return f"engine={hasten.Plan.read(plan).engine}"


def ahead() -> str:
    """The student beside diffusers' training-free schedulers, at each batch size."""
    return _beside("ahead", exports=True)


def _beside(name: str, exports: bool) -> str:
    """Our plans, the fastest of diffusers with the same FD, and DDPM-1000, at each batch size."""
    result, rows = read(name), []
    for row in result["rows"]:
        batch, timings = row["batch"], row["timings"]
        ours, ddpm, peer = timings[0], timings[-1], _fastest_peer(row)
        rows += [
            (f"**hasten**: `{_short(row['plan'])}`", str(batch), _fd(row), *_ms(ours, batch, ours)),
            *(
                (f"the same, {timing['side']}", str(batch), "", *_ms(timing, batch, ours))
                for timing in timings
                if exports and timing["side"].startswith("export")
            ),
            (
                f"diffusers: {peer['config']}, {peer['steps']} steps, {peer['engine']}",
                str(batch),
                f"{peer['fd']:.2f}",
                *_ms(peer, batch, ours),
            ),
            ("diffusers: DDPM, 1000 steps, eager", str(batch), "", *_ms(ddpm, batch, ours)),
        ]
    head: tuple[str, ...] = ("", "batch", "FD (95%)", "ms per picture", "95%", "times slower")
    if any("peak_mb" in row for row in result["rows"][0]["timings"]):
        head = (*head, "peak MB")
    else:
        rows = [row[: len(head)] for row in rows]
    none = [row for row in result["rows"] if not row["peers_that_reach_it"]]
    nearest = "; where none does, 5% above the lowest of theirs" if none else ""
    first, last = result["rows"][0], result["rows"][-1]
    memory = " Memory is that of the whole process." if "peak MB" in head else ""
    note = (
        f"\nThe fastest of diffusers' schedulers (5 to 50 steps, eager and compiled) whose FD is "
        f"at most 5% above hasten's{nearest}. FD of n = {first['n']} pictures; each in a process "
        f"of its own, timed in turn, n = {first['timings'][0]['n']} (DDPM: "
        f"{first['timings'][-1]['n']} at batch 1, {last['timings'][-1]['n']} at batch 64).{memory}"
    )
    return markdown(head, rows) + note + where(result)


def _short(plan: str) -> str:
    """A plan as it is written today, whichever version of hasten it was measured with."""
    return str(hasten.Plan.read(plan)).replace(",device=cpu", "")


def _ms(row: dict[str, Any], batch: int, ours: dict[str, Any]) -> tuple[str, ...]:
    low, median, high = (row[name] / batch for name in ("low", "median", "high"))
    times = row["median"] / ours["median"]
    spread = f"{low:.3g} to {high:.3g}"
    return f"{median:.3g}", spread, f"{times:.3g}", str(row.get("peak_mb", ""))


def peers() -> str:
    """The best of diffusers at each number of network calls."""
    result = read("peers")
    rows = [row for row in result["rows"] if row.get("fd") is not None]
    rows = sorted(rows, key=lambda row: (row["evaluations"], row["fd"]))
    kept: dict[int, list[dict[str, Any]]] = {}
    for row in rows:
        kept.setdefault(row["evaluations"], []).append(row)
    cells = [
        (f"{row['config']}, {row['steps']} steps", str(row["evaluations"]), f"{row['fd']:.2f}")
        for level in kept.values()
        for row in level[:5]
    ]
    note = f"\nThe five best at each number of calls; n = {rows[0]['n']}."
    return markdown(("diffusers", "calls", "FD"), cells) + note + where(result)


def limits() -> str:
    rows = [*read("overhead")["rows"], *read("training")["rows"]]
    cells = [(row["what"], _number(row["what"], row["value"]), str(row["n"])) for row in rows]
    return markdown(("what", "measured", "n"), cells) + where(read("overhead"))


def two_checkouts() -> str:
    result = read("two_checkouts")
    cells = [
        (row["what"], f"{row['before']:.3g}", f"{row['after']:.3g}", f"{row['times']:.2f}")
        for row in result["rows"]
    ]
    note = f"\nMedians of {result['rows'][0]['n']} processes of each, in turn."
    return markdown(("what", "before", "after", "times"), cells) + note + where(result)


def _number(what: str, value: float) -> str:
    if what.startswith("latents"):
        return str(value)
    return f"{value:.2f} s" if what.startswith("seconds") else f"{value:.1%}"


def filled(text: str) -> str:
    """``text`` with every table made anew."""
    known = {**vars(tables_few), **vars(tables_serving), **globals()}
    return PLACE.sub(lambda found: found[1] + known[found[2]]() + found[3], text)


def main() -> None:
    stale = []
    for name in DOCUMENTS:
        file = ROOT / name
        if not file.exists():
            continue
        text = file.read_text(encoding="utf-8")
        if filled(text) != text:
            stale.append(name)
            if "--check" not in sys.argv:
                file.write_text(filled(text), encoding="utf-8")
                if (file.parent / MANIFEST).exists():  # a model's card is part of its folder
                    write_manifest(file.parent)
    for name, drawn in DRAWINGS.items():
        file, text = ROOT / name, drawn()
        if text is not None and not (file.exists() and file.read_text(encoding="utf-8") == text):
            stale.append(name)
            if "--check" not in sys.argv:
                file.write_text(text, encoding="utf-8")
    if stale and "--check" in sys.argv:
        sys.exit(f"tables are not what results/ say in {', '.join(stale)}: make bench")
    print(f"tables: {', '.join(stale) or 'nothing'} changed")


if __name__ == "__main__":
    main()
