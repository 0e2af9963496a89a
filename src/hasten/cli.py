"""The command line: argument parsing over the functions of hasten, one verb a job.

Data goes to stdout, progress to stderr. Exit status: 0 done, 2 the user's mistake (one line), 1
ours.
"""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import cyclopts

from hasten.cli_smaller import app as learn
from hasten.cli_words import Json, Parameter, PlanText, Prompts, Quiet, named

if TYPE_CHECKING:
    from hasten.core.model import Model
    from hasten.core.plan import Plan

app = cyclopts.App(
    name="hasten",
    help="Make a trained diffusion model generate fast on this device, and measure what it costs.",
    help_format="plaintext",
    version_flags=["--version"],
)
app.command(learn)


@app.command
def info(model: str | None = None, *, prompts: Prompts = None, json_: Json = False) -> None:
    """Show this machine, and a model if one is named.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        json_: print one JSON object.
    """
    from hasten.measuring.conditions import conditions
    from hasten.measuring.memory import free_mb
    from hasten.sampling import engines_here

    facts: dict[str, Any] = {"machine": {**conditions(), "free_mb": round(free_mb())}}
    facts["engines"] = engines_here()
    if model is not None:
        facts["model"] = _describe(named(model, prompts))
    if json_:
        print(json.dumps(facts, indent=1))
        return
    for title, body in facts.items():
        print(title)
        for key, value in body.items():
            print(f"  {key}: {value}")


@app.command
def sample(
    model: str = "builtin:mnist",
    *,
    plan: PlanText = None,
    n: int = 16,
    seed: int = 0,
    cond: int | None = None,
    prompts: Prompts = None,
    out: Path = Path("pictures"),
    zoom: int = 4,
    gif: Annotated[bool, Parameter(negative="")] = False,
    device: str = "cpu",
    json_: Json = False,
) -> None:
    """Make pictures: a grid, single files, and a GIF of the denoising if asked.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        plan: a plan file, or key=value,...
        n: how many pictures.
        seed: picture i depends on (seed, i) alone.
        cond: a label; without one every class in turn.
        out: the folder to write.
        zoom: how many times larger the grid and the GIF show each pixel, 1 to 16.
        gif: also write denoising.gif.
        device: cpu, cuda, cuda:1, mps.
        json_: print one JSON object.
    """
    from hasten.core.errors import require_whole
    from hasten.media.pictures import grid, save_gif, save_png
    from hasten.sampling import build

    require_whole("n", n, 1, 100_000)
    require_whole("zoom", zoom, 1, 16)
    given = None if plan is None else _plan(plan)
    loaded = named(model, prompts, device)
    sampler = build(loaded, given)
    chosen = sampler.plan
    labels = cond
    if cond is None and loaded.labels is not None:
        labels = [i % loaded.labels for i in range(n)]  # type: ignore[assignment]
    frames: list[Any] = []

    def watch(_: int, x0: Any) -> None:
        if gif and len(x0) == n:
            frames.append(grid(loaded.codec.decode(x0).cpu()))

    pictures = sampler.sample(n, seed=seed, cond=labels, watch=watch, batch=n if gif else 64)
    facts = {"model": loaded.name, "sha256": loaded.sha256, "seed": seed, "plan": chosen}
    for index, picture in enumerate(pictures):
        save_png(picture, out / f"{index:05d}.png", {**facts, "picture": index})
    save_png(grid(pictures), out / "grid.png", facts, zoom)
    written = [f"{n} pictures", "grid.png"]
    if gif:
        save_gif([*frames, grid(pictures)], out / "denoising.gif", zoom=zoom)
        written.append("denoising.gif")
    result = {**facts, "plan": chosen.model_dump(), "n": n, "out": str(out)}
    print(json.dumps(result) if json_ else f"wrote {', '.join(written)} to {out}")


@app.command
def measure(
    model: str = "builtin:mnist",
    *,
    plan: Annotated[list[str] | None, Parameter(name="--plan", negative="")] = None,
    n: int = 64,
    pictures: int = 1000,
    data: str | None = None,
    features: str | None = None,
    batch: int = 64,
    seconds: float = 5.0,
    likelihood: Annotated[bool, Parameter(negative="")] = False,
    prompts: Prompts = None,
    device: str = "cpu",
    json_: Json = False,
) -> None:
    """Measure what plans cost here, how far their pictures ODE error from the model's own converged
    solution, and how far they are from real pictures (FD, KD, precision, recall).

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        plan: a plan file, or key=value,...; give it more than once to compare.
        n: pictures for the ODE error; 0 leaves it out.
        pictures: pictures for FD, KD, precision and recall; 0 leaves them out.
        data: real pictures (a parquet file, a folder, a hub name), where none ship with the model.
        features: what FD compares in: random, or a vision model's folder or hub id.
        batch: pictures at a time for the throughput.
        seconds: time for each of latency and throughput.
        likelihood: measure instead how many bits a dimension the model gives that many pictures of
            the data.
        device: cpu, cuda, cuda:1, mps.
        json_: print one JSON object a plan.
    """
    from hasten.core.errors import require_number, require_whole
    from hasten.core.plan import Plan
    from hasten.measuring.measure import measure as run
    from hasten.measuring.ode_error import reference, reference_plan
    from hasten.measuring.real import real_for

    require_whole("n", n, 0, 100_000)
    require_whole("pictures", pictures, 0, 10_000_000)
    require_number("seconds", seconds, 0.0, 1e5)
    given = [_plan(text) for text in plan or []]
    loaded = named(model, prompts, device)
    plans = given or [Plan(**loaded.plan)]
    if likelihood:
        from hasten.measuring.likelihood import likelihood_of

        for one in plans:
            bits = likelihood_of(loaded, data, pictures=pictures, plan=one, batch=batch)
            print(json.dumps(bits.to_dict()) if json_ else bits)
        return
    real = real_for(loaded, data, features) if pictures else None
    held: dict[float, Any] = {}
    reports = []
    for one in plans:
        against = None
        if n > 0 and not one.stochastic:
            if one.guidance not in held:
                held[one.guidance] = reference(loaded, n, plan=reference_plan(one.guidance))
            against = held[one.guidance]
        judged = {"pictures": pictures if real else 0, "real": real}
        report = run(loaded, one, n=n, against=against, batch=batch, seconds=seconds, **judged)
        reports.append(report)
        if json_:
            print(json.dumps(report.to_dict()), flush=True)
    if not json_:
        from hasten.tuning.table import print_reports

        print_reports(reports)


@app.command
def tune(
    model: str = "builtin:mnist",
    *,
    minutes: float = 5.0,
    max_loss: float = 0.05,
    data: str | None = None,
    features: str | None = None,
    guidance: float = 1.0,
    batch: int = 1,
    prompts: Prompts = None,
    out: Path = Path("tuned"),
    seed: int = 0,
    device: str = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Find the best plan for a model on this device, and write a report with pictures.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        minutes: the budget.
        max_loss: how much may be lost. With real pictures: by what share FD may be above, and by
            how much recall below, the most faithful plan's. Without: how far a picture may be from
            the model's converged solution (RMSE, pixels in 0 to 1).
        data: real pictures (a parquet file, a folder, a hub name), where none ship with the model;
            without any, ODE error alone decides.
        features: what FD compares in: random, or a vision model's folder or hub id.
        guidance: the classifier-free guidance scale that all plans use.
        batch: how many pictures at a time the plan is for.
        out: the folder to write; a second run there goes on where the first ended.
        seed: of the reference's noise and of the search.
        device: cpu, cuda, cuda:1, mps.
        json_: print the result as one JSON object.
        quiet: no progress bar.
    """
    from hasten.tuning.page import write_report
    from hasten.tuning.table import print_finalists
    from hasten.tuning.tune import tune as run

    loaded = named(model, prompts, device)
    found = run(
        loaded,
        minutes=minutes,
        max_loss=max_loss,
        data=data,
        features=features,
        guidance=guidance,
        batch=batch,
        out=out,
        seed=seed,
        quiet=quiet,
    )
    write_report(found, loaded, out)
    if json_:
        print(json.dumps(found.to_dict()))
        return
    print_finalists(found.front)
    print(found.why)
    for note in found.notes:
        print(note)
    if found.expected is not None:
        low, high = found.expected.low, found.expected.high
        print(f"a fresh process is expected to take {low:.1f} to {high:.1f} ms (99%)")
    print(f"plan: {found.best}")
    print(f"wrote plan.json, report.html, report.json and pictures to {out}")


@app.command
def train(
    recipe: Path,
    *,
    data: str | None = None,
    test_data: str | None = None,
    out: Path | None = None,
    pictures: int | None = None,
    minutes: float | None = None,
    seed: int | None = None,
    track: str | None = None,
    quiet: Quiet = False,
) -> None:
    """Train a model from a recipe; a second run with the same --out goes on where the first ended.

    Args:
        recipe: a YAML file, see recipes/.
        data: a parquet file, a folder of pictures, or a hub name, in place of the recipe's.
        test_data: the same for the pictures that a classifier is tested on.
        out: the folder to write, runs/NAME by default.
        pictures: how many pictures to see, in place of the recipe's.
        minutes: a budget; the length is set from the rate of the first steps, once for a run.
        seed: in place of the recipe's.
        track: none, tensorboard or trackio.
        quiet: no progress bar.
    """
    from hasten.training.recipe import load_recipe
    from hasten.training.train import train as run

    changes: dict[str, Any] = {"data__source": data, "test__source": test_data}
    changes |= {"pictures": pictures, "seed": seed, "track": track}
    loaded = load_recipe(recipe, **changes)
    folder = run(loaded, out or Path("runs") / loaded.name, minutes=minutes, quiet=quiet)
    print(f"wrote {folder}")


@app.command
def export(
    model: str = "builtin:mnist",
    *,
    plan: PlanText = None,
    to: str = "onnx",
    prompts: Prompts = None,
    out: Path = Path("exported"),
) -> None:
    """Write a model and a plan for another runtime, in a folder that needs neither hasten nor
    torch; it is there only once it was found to make the same pictures.

    Args:
        model: builtin:NAME, a diffusers folder, or a hub id.
        plan: a plan file, or key=value,...; the model's own without it.
        to: onnx, openvino, executorch, web (a static page), or folder (diffusers).
        out: the folder to write.
    """
    from hasten.exporting.export import export as run

    found = run(named(model, prompts), None if plan is None else _plan(plan), to, out)
    print(
        f"wrote {out}: {to}; a network call is within {found.apart:.1g} of eager float32, pictures "
        f"{found.psnr:.0f} dB or nearer (n = {found.n})"
    )


def _plan(text: str) -> Plan:
    from hasten.core.plan import Plan

    return Plan.read(text)


def _describe(model: Model) -> dict[str, Any]:
    from hasten.core.prediction import predictions
    from hasten.measuring.memory import weights_mb

    channels, height, width = model.picture_shape
    return {
        "name": model.name,
        "pictures": f"{height}x{width}, {channels} channel(s)",
        "network": type(getattr(model.net, "module", model.net)).__name__,
        "parameters": sum(value.numel() for value in model.net.parameters()),
        "weights_mb": weights_mb(model.net),
        "schedule": model.schedule.part_name,
        "prediction": predictions.text(model.prediction),
        "labels": model.labels,
        "guidance": model.null_label is not None,
        "sha256": model.sha256,
    }


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``hasten``: run a verb and exit with its status."""
    sys.exit(_status(arguments))


def _status(arguments: list[str] | None) -> int:
    from hasten.core.errors import HastenError

    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return _fail(f"{error}", 2)
    except HastenError as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt:
        return _fail("stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the last resort: one line, the traceback on request
        if os.environ.get("HASTEN_TRACEBACK"):
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        return _fail(f"{what} (a fault of hasten; HASTEN_TRACEBACK=1 shows where)", 1)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"hasten: {' '.join(message.split())}", file=sys.stderr)
    return status


if __name__ == "__main__":
    main()
