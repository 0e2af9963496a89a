"""The tables of the documents on fewer evaluations, on distillation and on cheaper evaluations."""

from __future__ import annotations

import itertools
import re
from typing import Any

from benchmarks.markdown import markdown, where
from benchmarks.results_io import FOLDER, read


def axes() -> str:
    """What learned programs and starts are worth to the tuner."""
    if not (FOLDER / "axes.json").exists():
        return "Not measured yet: `python -m benchmarks.axes`.\n"
    result, cells = read("axes"), []
    for row in result["rows"]:
        for name, plan in row["plans"].items():
            fd = row["fd"][name]
            cells.append(
                (
                    f"{name}: `{plan}`",
                    f"{row['ms'][name]:.1f}",
                    f"{fd['value']:.2f} ({fd['low']:.2f} to {fd['high']:.2f})",
                    f"{row['recall'][name]['value']:.2f}",
                )
            )
    row = result["rows"][0]
    worse = row["fd_minus_without"]
    note = (
        f"\n{row['times_faster']:.2f} times faster, batch {row['batch']}, timed in turn; FD of the "
        f"second minus the first, paired: {worse['value']:.2f} ({worse['low']:.2f} to "
        f"{worse['high']:.2f}), n = {row['n']}. {result['what'].capitalize()}."
    )
    return markdown(("", "ms", "FD (95%)", "recall"), cells) + note + where(result)


SIDES = {
    "hasten": "hasten, `hasten.build`",
    "hasten, applied": "the same pipeline, `hasten.apply`",
}


def requests() -> str:
    """Requests of builtin:shapes, from prompt to picture."""
    if not (FOLDER / "text_to_image.json").exists():
        return "Not measured yet: `python -m benchmarks.text_to_image PLAN`.\n"
    result, cells = read("text_to_image"), []
    for row in result["rows"]:
        name = SIDES.get(row["side"]) or (
            f"diffusers, {row['config'] or row['scheduler']}, {row['steps']} steps, {row['engine']}"
        )
        cells.append(
            (
                name,
                f"{row['median']:.0f}",
                f"{row['times_faster_than_stock']:.1f}",
                f"{row['prompt_accuracy']:.1%}",
                f"{row['fd']:.2f}",
                f"{row['recall']:.2f}",
                str(row["peak_mb"]),
            )
        )
    rows = result["rows"]
    plans = dict.fromkeys(row["plan"] for row in rows if "plan" in row)
    note = (
        f"\nOne request at a time, text encoder and VAE included, each contender in a process of "
        f"its own and timed in turn, medians of {rows[0]['n']}; prompt accuracy, FD and recall of "
        f"{rows[0]['pictures']} pictures of prompts that nothing was trained on. hasten's plan: "
        f"{' and '.join(f'`{plan}`' for plan in plans)}."
    )
    head = ("", "ms", "times faster", "prompt accuracy", "FD", "recall", "peak MB")
    return markdown(head, cells) + note + where(result)


NAMED = {  # program: how its authors or users call it
    "solver=heun,grid=karras": "Heun on Karras levels, EDM's own sampler",
    "solver=ddim,grid=karras": "Euler (DDIM) on Karras levels",
    "solver=dpmpp,grid=karras": "DPM-Solver++ 2M on Karras levels",
    "solver=ipndm,grid=karras": "iPNDM on Karras levels",
    "solver=dpmpp(order=3),grid=log-snr": "DPM-Solver++ 3M, even in log-SNR",
    "solver=unipc(order=3),grid=log-snr": "UniPC of order 3, even in log-SNR",
}
BARS = (0.1, 0.05, 0.03)


def cifar10() -> str:
    """Evaluations that named programs need on CIFAR-10, from the tuner's table."""
    result = read("tuner_table_cifar10")
    rows = [(row["plan"], row["evaluations"], _pooled(row["errors"])) for row in result["rows"]]
    cells = []
    for program, name in NAMED.items():
        mine = [row for row in rows if row[0].startswith(f"{program},steps=")]
        cells.append((name, *(_fewest(mine, bar) for bar in BARS), *_at(mine, (6, 10))))
    cells.append(("the best of all", *(_fewest(rows, bar) for bar in BARS), *_at(rows, (6, 10))))
    head = ("", *(f"ODE error below {bar:g}" for bar in BARS), "at 6", "at 10")
    note = (
        "\nNetwork evaluations a picture until the ODE error is below a bar, and the ODE error at "
        "6 and 10 of them. Steps of 3, 4, 5, 6, 8 and 10 were tried (Heun takes two evaluations a "
        "step, one on the last), nearly all of them clipped to pixels; n = "
        f"{len(result['rows'][0]['errors'])}; the best of {len(rows)} plans."
    )
    return markdown(head, cells) + note + where(result)


def _pooled(errors: list[float]) -> float:
    """RMSE over all pictures."""
    return (sum(error**2 for error in errors) / len(errors)) ** 0.5


def _fewest(rows: list[tuple[str, int, float]], bar: float) -> str:
    """The fewest evaluations whose error is below ``bar``; more than the most where none is."""
    enough = [evaluations for _, evaluations, error in rows if error < bar]
    return str(min(enough)) if enough else f"> {max(evaluations for _, evaluations, _ in rows)}"


def _at(rows: list[tuple[str, int, float]], counts: tuple[int, ...]) -> tuple[str, ...]:
    """The least error at each number of evaluations."""
    errors = [[error for _, evaluations, error in rows if evaluations == n] for n in counts]
    return tuple(f"{min(some):.3f}" if some else "" for some in errors)


def gpu() -> str:
    """Milliseconds of a call of ``sample`` on a GPU, and how far its pictures are from float32."""
    result = read("gpu")
    timed: dict[tuple[str, str, str], dict[str, str]] = {}
    for row in result["rows"]:
        if "model" in row:
            cells = timed.setdefault((row["model"], row["engine"], row["dtype"]), {})
            if "ms" in row:
                cells[str(row["batch"])] = f"{row['ms']:.1f}"
            else:
                cells["rmse"] = f"{row['rmse']:.4f}"
    columns = ("1", "64", "1024", "rmse")
    rows = [(*what, *(cells.get(name, "") for name in columns)) for what, cells in timed.items()]
    head = ("model", "engine", "dtype", "batch 1", "batch 64", "batch 1024", "RMSE from float32")
    facts = result["conditions"]
    note = (
        "\nMilliseconds of a whole call, medians of 15, 7 and 3; RMSE of 64 pictures. 10 steps of "
        "UniPC on the digits, 8 of iPNDM on CIFAR-10. Empty: not measured, because time ran out."
    )
    below = f"\n{result['date']}; {facts['device']}, torch {facts['torch']}.\n"
    return markdown(head, rows) + note + below


def families() -> str:
    """What works on every family of diffusers pipelines."""
    result = read("families")
    head = ("pipeline", "latents", "pictures", "apply, undo", "OpenVINO", "W8A8", "learned program")
    cells = [
        (
            f"{row['pipeline'].removesuffix('Pipeline')} (`{row['family']}`)",
            _apart(row["latents"]),
            _apart(row["pictures"]),
            "bit-equal" if row["undone"] and row["finite"] else "differs",
            _apart(row["openvino"]),
            _apart(row["quantize"]),
            _apart(row["learn program"]),
        )
        for row in result["rows"]
    ]
    refused = [
        f"{row['pipeline']}: {row['openvino'].split(' (')[0]}"
        for row in result["rows"]
        if isinstance(row["openvino"], str)
    ]
    note = (
        "\nTiny pipelines with random weights: what runs, not how good or fast it is. Latents: "
        "relative difference of a Sampler's from the pipeline's own, same noise and levels; "
        "pictures: the largest difference of a pixel in 0 to 1, decoding included. OpenVINO: "
        "relative difference from eager PyTorch. Qwen-Image with guidance of one scale only, "
        "InstructPix2Pix with its two. Not compared: pipelines that begin with a picture. Apply, "
        "undo: the pipeline's pictures before apply and after undo. Refused: "
        f"{'; '.join(refused)}."
    )
    return markdown(head, cells) + note + where(result)


def _apart(value: float | str | None) -> str:
    if value is None:
        return "not compared"
    if isinstance(value, float):
        return f"{value:.0e}"
    return value if len(value) < 20 else "refused"


def learned() -> str:
    """Learned programs beside the best of the others, at each number of evaluations."""
    result = read("programs")
    rows = [row for row in result["rows"] if "evaluations" in row]
    cells = []
    for row in rows:
        best, mine = row["best of diffusers"], row["learned"]
        gits = min(
            (row["ipndm + gits"], row["ipndm + gits, clipped"]), key=lambda r: r["ode_error"]
        )
        cells.append(
            (
                str(row["evaluations"]),
                f"{mine['ode_error']:.4f} ±{mine['half']:.4f}",
                f"{best['ode_error']:.4f} ({best['config']})",
                f"{gits['ode_error']:.4f}",
                f"{row['ratio']:.2f}",
                f"{mine['fd']:.2f}",
                f"{mine['recall']:.2f}",
            )
        )
    floor = next(row["floor"] for row in result["rows"] if "floor" in row)
    others = ("best of diffusers", "iPNDM + GITS", "ratio")
    head = ("evaluations", "ODE error, learned", *others, "FD", "recall")
    note = (
        f"\nODE error at n = {rows[0]['n']}, FD at n = {rows[0]['pictures']}; the lowest FD that "
        f"any solver reached on this network is {floor:.2f}. The ratio is to the better of the two "
        "others."
    )
    later = [str(row["evaluations"]) for row in rows if "measured" in row["learned"]]
    if later:
        note += f" Learned programs of {', '.join(later)}: a later run on the same noise."
    return markdown(head, cells) + note + where(result)


def early_stop() -> str:
    """Starts below the top beside noise, with as many evaluations."""
    result, cells = read("early_stop"), []
    for group in result["rows"]:
        for row in group["rows"]:
            apart = row["fd_minus_noise"]
            cells.append(
                (
                    _start(row["plan"]),
                    str(row["evaluations"]),
                    f"{row['fd']:.2f}",
                    f"{apart['value']:.2f} ({apart['low']:.2f} to {apart['high']:.2f})",
                    f"{row['recall']:.2f}",
                    f"{row['ode_error']:.3f}",
                    f"{row['start_share_of_the_budget']:.1%}",
                )
            )
    row = result["rows"][0]["rows"][0]
    head = (
        "start",
        "evaluations",
        "FD",
        "minus noise (95%)",
        "recall",
        "ODE error",
        "cost of the start",
    )
    n = f"FD and recall at n = {row['n']}, ODE error at n = {row['n_ode_error']}"
    note = f"\n{n}; paired by noise."
    return markdown(head, cells) + note + where(result)


def _start(plan: str) -> str:
    found = re.search(r"start=(\w+)\(ratio=([\d.]+)", plan)
    return "noise" if found is None else f"{found[1]}, ratio {float(found[2]):g}"


def reuse() -> str:
    """How many times fewer multiply-accumulates than DeepCache at its ODE error."""
    result = read("reuse")
    kinds = ("fewer steps", "uniform, forecast", "learned", "learned, forecast")
    cells = []
    for row in result["rows"]:
        if row["kind"] != "times fewer at the ODE error of":
            continue
        every = re.search(r"cache_interval=(\d+)", row["plan"])
        if every is None:
            continue
        walk = re.match(r"solver=(\w+).*steps=(\d+)", row["base"])
        assert walk is not None
        found = [f"{row[kind]:.2f}" if row.get(kind) else "" for kind in kinds]
        cells.append((f"{walk[1]}, {walk[2]} steps, every {every[1]}", *found))
    n = result["rows"][0]["n"]
    note = (
        "\nHow many times fewer multiply-accumulates than DeepCache at the same ODE error; "
        f"n = {n}; empty: off the curve."
    )
    return markdown(("", *kinds), cells) + note + where(result)


def parallel() -> str:
    """Rounds of the parallel executors beside the evaluations of the run in order."""
    result, cells = read("parallel"), []
    for row in result["rows"]:
        if "rounds" not in row:
            continue
        side = row.get("executor") or f"{row['side']}, tolerance {row['tolerance']:g}"
        clock = f"{row['times_faster']:.2f}" if "times_faster" in row else ""
        cells.append(
            (
                f"{row['program']}: {side}",
                f"{row['rounds']:g}",
                f"{row['evaluations']:.0f}",
                f"{row['rmse']:.1e}",
                clock,
            )
        )
    head = ("", "rounds", "evaluations", "RMSE from the run in order", "times faster here")
    note = f"\nn = {result['rows'][0]['n']} pictures; the clock at batch 1."
    return markdown(head, cells) + note + where(result)


def distilling() -> str:
    """Students of every objective at equal training time, beside their teacher."""
    if not (FOLDER / "distilling.json").exists():
        return "Not measured yet: `python -m benchmarks.distilling`.\n"
    result, cells = read("distilling"), []
    for row in result["rows"]:
        for plan in row["plans"]:
            low, high = plan["fd_interval"]
            name = plan["plan"] if row["objective"] == "teacher" else row["objective"]
            fd = f"{plan['fd']:.2f} ({low:.2f} to {high:.2f})"
            cells.append((f"`{name}`", str(plan["evaluations"]), fd, f"{plan['recall']:.2f}"))
    trained = [row for row in result["rows"] if row["objective"] != "teacher"]
    minutes = trained[0]["minutes"] if trained else 0
    n = result["rows"][0]["plans"][0]["n"]
    note = f"\nEvery student trained for {minutes:g} minutes; FD and recall at n = {n}."
    return (
        markdown(("objective", "evaluations", "FD (95%)", "recall"), cells) + note + where(result)
    )


def students() -> str:
    """The students that ship, beside their teacher."""
    result, cells = read("students"), []
    for row in result["rows"]:
        low, high = row["fd_interval"]
        shown = re.sub(r"student=[^,]*,|builtin:mnist/(starts/)?|\.safetensors", "", row["plan"])
        cells.append(
            (
                row["student"] or "teacher",
                f"`{shown}`",
                str(row["evaluations"]),
                f"{row['fd']:.2f} ({low:.2f} to {high:.2f})",
                f"{row['times_the_best_solver']:.2f}",
                f"{row['times_the_best_from_any_start']:.2f}",
                f"{row['recall']:.2f}",
            )
        )
    ratios = ("/ best from noise", "/ best from any start")
    head = ("", "plan", "evaluations", "FD (95%)", *ratios, "recall")
    note = (
        f"\nFD and recall at n = {result['rows'][0]['n']}, the same noise, beside the lowest FD of "
        f"the teacher's plans above; {result['what']}."
    )
    return markdown(head, cells) + note + where(result)


def smaller() -> str:
    """What a quantized or pruned network costs, and how good its pictures are."""
    if not (FOLDER / "smaller.json").exists():
        return "Not measured yet: `python -m benchmarks.smaller`.\n"
    result, cells = read("smaller"), []
    times = {(row["what"], row["batch"]): row for row in result["rows"] if row["kind"] == "call"}
    found = [row for row in result["rows"] if row["kind"] == "quality"]
    for row in found:
        one, many = (times[row["what"], batch] for batch in (1, 64))
        cells.append(
            (
                row["what"],
                f"{one['median']:.2f} ({one['times_faster_than_eager']:.1f})",
                f"{many['median']:.1f} ({many['times_faster_than_eager']:.1f})",
                f"{row['fd']:.2f} ({row['times_the_fd']:.2f})",
                f"{row['recall']:.2f}",
                f"{row['rmse']:.4f}",
                f"{row['weights_mb']:.1f}",
                f"{row['macs']:.0%}",
            )
        )
    head = ("", "ms, batch 1 (times faster)", "ms, batch 64 (times faster)")
    head += ("FD (times float32's)", "recall", "ODE error", "weights, MB", "multiply-accumulates")
    n = next(row["n"] for row in result["rows"] if row["kind"] == "call")
    note = (
        f"\nOne network call, each in a process of its own and timed in turn, n = {n}; FD and "
        f"recall of {found[0]['n']} pictures from the same noise, ODE error (RMSE from the "
        f"pictures of eager float32) of {found[0]['n_rmse']}. {result['what']}."
    )
    return markdown(head, cells) + note + where(result)


def widths() -> str:
    """What a pruned network gives at all evaluations, and at all but one."""
    if not (FOLDER / "smaller.json").exists():
        return "Not measured yet: `python -m benchmarks.smaller`.\n"
    result = read("smaller")
    rows = [row for row in result["rows"] if row["kind"] == "width"]
    cells = [
        (
            "".join("small " if small else "WHOLE " for small in row["at"]).strip(),
            f"{row['macs']:.1%}",
            f"{row['fd']:.3f} ({row['times_the_fd']:.2f})",
            f"{row['recall']:.3f}",
        )
        for row in rows
    ]
    head = ("network at each evaluation", "multiply-accumulates", "FD (times whole)", "recall")
    note = (
        f"\nSix evaluations of DPM++ SDE, n = {rows[0]['n']}, the same noise, OpenVINO in bfloat16."
        if rows
        else ""
    )
    return markdown(head, cells) + note + where(result)


def pruned() -> str:
    """What the pruned network gives in plans of many kinds, beside the whole one."""
    if not (FOLDER / "smaller.json").exists():
        return "Not measured yet: `python -m benchmarks.smaller`.\n"
    result = read("smaller")
    rows = [row for row in result["rows"] if row["kind"] == "plan"]
    cells = [
        (
            f"`{row['plan']}`",
            *(
                f"{fd:.3f} ({recall:.2f})"
                for fd, recall in zip(row["fd"], row["recall"], strict=True)
            ),
            f"{row['times_the_fd']:.2f}",
        )
        for row in sorted(rows, key=lambda row: row["fd"][0])
    ]
    head = ("plan", "FD (recall), whole", "FD (recall), pruned", "times whole")
    note = f"\nn = {rows[0]['n']}, the same noise, OpenVINO in bfloat16." if rows else ""
    return markdown(head, cells) + note + where(result)


def quantization_distance() -> str:
    """How far pictures move from float32 over bits and rows of ranges."""
    if not (FOLDER / "smaller.json").exists():
        return "Not measured yet: `python -m benchmarks.smaller`.\n"
    result = read("smaller")
    rows = [row for row in result["rows"] if row["kind"] == "distance"]
    by = {(row["bits"], row["rounding"], row["rows"]): row for row in rows}
    kinds = list(itertools.product(("nearest", "gptq"), ("static", "steps")))

    def cell(row: dict[str, Any]) -> str:
        return f"{row['rmse']:.4f}" + (f", FD {row['fd']:.2f}" if "fd" in row else "")

    cells = [
        (bits, *(cell(by[bits, *kind]) for kind in kinds))
        for bits in dict.fromkeys(row["bits"] for row in rows)
    ]
    head = ("bits", "nearest, one row", "nearest, a row per step", "GPTQ, one row")
    head += ("GPTQ, a row per step",)
    n, many = rows[0]["n"], next(row["fd_n"] for row in rows if "fd" in row)
    note = (
        f"\nRMSE (pixels in 0 to 1) from the float32 pictures of the same noise, n = {n}; "
        f"FD at n = {many}."
    )
    return markdown(head, cells) + note + where(result)


def page() -> str:
    """What a picture takes in the web page of the student."""
    if not (FOLDER / "page.json").exists():
        return "Not measured yet: `python -m benchmarks.page`.\n"
    result = read("page")
    cells = [
        (
            f"`{row['to']}`",
            row["runtime"],
            str(row["evaluations"]),
            row["bits"],
            f"{row['median']:.0f}",
            f"{row['p90']:.0f}",
            f"{row['megabytes']:.1f}",
            f"{row['export_seconds']:.0f}",
        )
        for row in result["rows"]
    ]
    head = ("", "runs on", "evaluations", "weights", "ms per picture", "90%", "MB", "export, s")
    note = (
        f"\n`builtin:mnist-2` from `mixture-small` in headless Chromium, previews apart, "
        f"n = {result['rows'][0]['n']}; MB: all files of the page. WebGPU here is a software one."
    )
    return markdown(head, cells) + note + where(result)


def replay() -> str:
    """Mean and worst regret of every search, by model, bar and budget."""
    result = read("tuner_replay")
    names = list(result["rows"][0]["searches"])
    cells = []
    for row in result["rows"]:
        regrets = (row["searches"][name] for name in names)
        cells.append(
            (
                row["model"],
                f"{row['bar']:g}",
                f"{row['share']:.1%}",
                *(f"{regret['mean']:.0%} ({regret['worst']:.0%})" for regret in regrets),
            )
        )
    head = ("model", "bar", "budget", *names)
    note = (
        "Regret in evaluations, mean (worst) of ten seeds: 0% is the plan of fewest evaluations of "
        "the table that passes. The budget is a share of what measuring all of the table costs."
    )
    return markdown(head, cells) + f"\n{note}" + where(result)


def tuner() -> str:
    """The tuner's plans beside the best of an exhaustive sweep and random search's."""
    result, cells = read("tuner"), []
    parts = {part["part"]: part["rows"] for part in result["rows"]}
    swept, *rows = parts["search"]
    sweep = swept["sweep"]
    cells.append(
        (
            "sweep",
            f"`{_short(sweep['best'])}`",
            f"{sweep['ms']:.1f}",
            "",
            f"{sweep['seconds']:.0f} s",
        )
    )
    for row in rows:
        share = f"{row['seconds']:.0f} s ({row['share_of_sweep']:.1%})"
        apart = f"{row['slower_than_best']:+.1%}"
        name = f"tuner, seed {row['seed']}"
        cells.append((name, f"`{_short(row['plan'])}`", f"{row['ms']:.1f}", apart, share))
        plan = row["random_plan"]
        apart = f"{row['random_slower_than_best']:+.1%}"
        luck = (
            ("none below the bar", "", "")
            if plan is None
            else (f"`{_short(plan)}`", f"{row['random_ms']:.1f}", apart)
        )
        cells.append((f"random search, seed {row['seed']}", *luck, "as much"))
    fresh, kills = parts["fresh"], parts["kill"][0]
    inside = sum(row["inside"] for row in fresh)
    low, high = fresh[0]["ms_interval"]
    note = (
        f"\nPlans whose ODE error is at most 0.05 (95%), all {sweep['plans']} of the space on one "
        "engine; timed in turn at batch 1. The plan of the first seed again in "
        f"{len(fresh)} fresh processes: {inside} inside the printed interval ({low:.1f} to "
        f"{high:.1f} ms). Killed {kills['kills']} times, "
        f"the tuner lost {kills['lost']} of {kills['finished_trials']} finished trials."
    )
    head = ("", "plan", "ms", "against the sweep's best", "cost")
    return markdown(head, cells) + note + where(result)


def _short(plan: str) -> str:
    return plan.replace(",engine=openvino", "")
