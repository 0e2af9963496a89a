"""FD and speed of diffusers' schedulers on ``builtin:mnist``, in diffusers' own plain loop.

``python -m benchmarks.peers.diffusers_schedulers --help``; the README beside this file says more.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar

import diffusers
import torch

import hasten
from benchmarks.peers.loop import (
    SEED,
    Counted,
    Network,
    evaluations,
    loop,
    sample,
    start,
    walks,
)
from benchmarks.peers.schedulers import CONFIGS, Config, available, skipped
from benchmarks.results_io import FOLDER, write
from hasten.core.model import Model
from hasten.measuring.features import FeatureNet
from hasten.measuring.frechet import frechet, statistics
from hasten.measuring.timer import side_by_side

Row = dict[str, Any]

ROOT = Path(__file__).parents[2]
FULL, SCREEN = 1000, 200
STEPS = (3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 20, 25, 30, 40, 50)
MORE_LEVELS = 2  # what --stop-at still sweeps above the first that reached the bar


@dataclasses.dataclass(frozen=True, kw_only=True)
class Bench:
    """What every configuration is measured with.

    Attributes:
        give_up: the FD of the first :data:`SCREEN` pictures above which no more are made.
    """

    model: Model
    net: Network
    features: FeatureNet
    noise: torch.Tensor
    labels: torch.Tensor
    give_up: float | None

    batch: ClassVar[int] = 100

    @staticmethod
    def prepared(n: int, engine: str, give_up: float | None = None) -> Bench:
        model = hasten.load("builtin:mnist")
        features = FeatureNet.for_model(model)
        assert features is not None
        assert model.labels is not None
        return Bench(
            model=model,
            net=network(model, engine),
            features=features,
            noise=start(model, n),
            labels=torch.arange(n) % model.labels,
            give_up=give_up,
        )

    def row(self, config: Config, steps: int) -> Row:
        """FD, right class and network calls, or the error."""
        row: Row = {
            "config": config.name,
            "scheduler": config.scheduler,
            "options": {key: _plain(value) for key, value in config.options.items()},
            "distilled": config.distilled,
            "steps": steps,
            "n": len(self.noise),
        }
        try:
            return row | self._measured(config, steps)
        except Exception as error:  # a sweep outlives what one scheduler cannot do
            first = str(error).strip().partition("\n")[0][:200]
            return row | {"error": f"{type(error).__name__}: {first}"}

    def _measured(self, config: Config, steps: int) -> Row:
        counted, n = Counted(self.net), len(self.noise)
        few = min(SCREEN, n)
        pictures = self._pictures(counted, config, steps, range(few))
        calls = counted.calls // len(range(0, few, self.batch))
        if self.give_up is not None and (fd := self._fd(pictures)) > self.give_up:
            return {"evaluations": calls, "given_up": {"fd": fd, "n": few}}
        if few < n:
            pictures = torch.cat([pictures, self._pictures(counted, config, steps, range(few, n))])
        right = self._scores(pictures).argmax(1) == self.labels
        return {
            "evaluations": calls,
            "fd": self._fd(pictures),
            "right_class": float(right.double().mean()),
        }

    def _fd(self, pictures: torch.Tensor) -> float:
        ours = statistics(self.features(pictures))
        return frechet(*ours, self.features.mean, self.features.covariance)

    @torch.inference_mode()
    def _scores(self, pictures: torch.Tensor) -> torch.Tensor:
        return self.features.net(pictures)

    def _pictures(self, net: Network, config: Config, steps: int, which: range) -> torch.Tensor:
        """Pictures (n, c, h, w) in [0, 1]."""
        parts = []
        for begin in range(which.start, which.stop, self.batch):
            some = range(begin, min(begin + self.batch, which.stop))
            part = slice(some.start, some.stop)
            noise, labels = self.noise[part], self.labels[part]
            x = sample(net, self.model, config, steps, noise, labels, walks(some))
            bad = int((~x.isfinite().flatten(1).all(1)).sum())
            if bad:
                raise FloatingPointError(f"{bad} of {len(x)} pictures are not finite")
            parts.append(self.model.codec.decode(x.float()))
        return torch.cat(parts)


def network(model: Model, engine: str) -> Network:
    """The network for the FD's pictures, float32: eager torch, or faster in another engine."""
    if engine == "eager":
        return model.net
    from hasten.sampling import prepare

    return prepare(model, hasten.Plan(engine=engine))


def _plain(value: Any) -> Any:
    return getattr(value, "__name__", value)


def sweep(
    n: int = FULL,
    steps: Sequence[int] = STEPS,
    configs: Sequence[Config] | None = None,
    *,
    engine: str = "eager",
    stop_at: float | None = None,
    give_up: float | None = None,
    resume: bool = True,
) -> list[Row]:
    """A row for every configuration and number of steps, fewest network calls first.

    Every finished row is appended to a file under ``runs/``, and read from there with ``resume``.

    Args:
        stop_at: an FD; once a configuration has reached it, two more of ``steps`` are swept and
            then no more: with the same network, more calls cannot be faster.
        give_up: an FD; a configuration whose first 200 pictures have a higher one gets no more, and
            its row no ``fd``. FD falls with n: leave room above the FD that counts.

    Raises:
        FileExistsError: there are rows of an earlier sweep, and ``resume`` is False.
    """
    bench = Bench.prepared(n, engine, give_up)
    file = _held(bench, engine)
    if file.exists() and not resume:
        name = file.relative_to(ROOT)
        raise FileExistsError(f"{name} has rows of an earlier sweep: --resume, or delete it")
    lines = file.read_text(encoding="utf-8").splitlines() if file.exists() else []
    done = {(row["config"], row["steps"]): row for row in map(json.loads, lines)}
    rows: list[Row] = []
    for cost, config, count in _jobs(available() if configs is None else configs, steps):
        if stop_at is not None and cost > _limit(rows, stop_at, steps):
            break
        row = done.get((config.name, count))
        if row is None or _too_strict(row, give_up):
            row = bench.row(config, count)
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("a", encoding="utf-8") as out:
                out.write(json.dumps(row) + "\n")
            print(line(row), file=sys.stderr, flush=True)
        rows.append(row)
    return rows


def _too_strict(row: Row, give_up: float | None) -> bool:
    """Whether an earlier sweep gave ``row`` up and this one would not."""
    return "given_up" in row and (give_up is None or row["given_up"]["fd"] <= give_up)


def _held(bench: Bench, engine: str) -> Path:
    """Where finished rows lie: another network, version, n or engine has another file."""
    name = f"diffusers-{diffusers.__version__}-{bench.model.sha256[:8]}"
    return ROOT / "runs" / "peers" / f"{name}-n{len(bench.noise)}-{engine}.jsonl"


def _jobs(configs: Sequence[Config], steps: Sequence[int]) -> list[tuple[int, Config, int]]:
    """(network calls, configuration, steps), fewest calls first."""
    jobs = []
    for count in sorted(set(steps)):
        for config in configs:
            try:
                jobs.append((evaluations(config, count), config, count))
            except Exception:  # its row will say what is wrong
                jobs.append((count, config, count))
    return sorted(jobs, key=lambda job: job[0])


def _limit(rows: Sequence[Row], bar: float, steps: Sequence[int]) -> float:
    """The most network calls still worth a try."""
    best = reaching(rows, bar)
    if not best:
        return float("inf")
    fewest = best[0]["evaluations"]
    return max([fewest, *[count for count in sorted(set(steps)) if count > fewest][:MORE_LEVELS]])


def reaching(rows: Sequence[Row], bar: float) -> list[Row]:
    """The rows with an FD of at most ``bar``, fewest network calls first, then the lowest FD."""
    good = [row for row in rows if row.get("fd", float("inf")) <= bar]
    return sorted(good, key=lambda row: (row["evaluations"], row["fd"]))


def line(row: Row) -> str:
    """A row for people."""
    name = f"{row['config']:<31} {row['steps']:>3} steps"
    if "error" in row:
        return f"{name}  {row['error']}"
    if "given_up" in row:
        return f"{name} {row['evaluations']:>3} calls  given up, FD {row['given_up']['fd']:.3f}"
    return (
        f"{name} {row['evaluations']:>3} calls  FD {row['fd']:7.3f}  right {row['right_class']:.1%}"
    )


def timing_calls(
    chosen: Sequence[tuple[Config, int]], batch: int, model: Model | None = None
) -> list[tuple[Row, Callable[[], torch.Tensor]]]:
    """What to time, to be put side by side with other calls: (config, steps), eager and compiled.

    A call is the whole loop from given noise to latents, ``set_timesteps`` included, as a pipeline
    makes it; the scheduler is made, and the noise drawn, before.
    """
    model = model or hasten.load("builtin:mnist")
    assert model.labels is not None
    noise, labels = start(model, batch), torch.arange(batch) % model.labels
    compiled = torch.compile(model.net, fullgraph=True, dynamic=False)
    out = []
    for config, steps in chosen:
        facts = {
            "config": config.name,
            "steps": steps,
            "evaluations": evaluations(config, steps),
            "batch": batch,
        }
        for engine, net in (("eager", model.net), ("compile", compiled)):
            call = _timed(net, config.make(), steps, noise, labels)
            out.append((facts | {"engine": engine}, call))
    return out


def _timed(
    net: Network, scheduler: Any, steps: int, noise: torch.Tensor, labels: torch.Tensor
) -> Callable[[], torch.Tensor]:
    draws = walks(range(len(noise)))

    @torch.inference_mode()
    def call() -> torch.Tensor:
        return loop(net, scheduler, steps, noise, labels, draws)

    return call


def time_rows(
    chosen: Sequence[tuple[Config, int]],
    batch: int = 1,
    *,
    model: Model | None = None,
    rounds: int = 7,
) -> list[Row]:
    """Milliseconds of a batch for each of ``chosen``, eager and compiled, timed in turn."""
    pairs = timing_calls(chosen, batch, model)
    timings = side_by_side([call for _, call in pairs], rounds=rounds)
    return [
        facts
        | {
            "median_ms": timing.median * 1e3,
            "interval_ms": [timing.low * 1e3, timing.high * 1e3],
            "p90_ms": timing.p90 * 1e3,
            "n_times": timing.n,
        }
        for (facts, _), timing in zip(pairs, timings, strict=True)
    ]


def main(arguments: Sequence[str] | None = None) -> None:
    given = _parser().parse_args(arguments)
    diffusers.utils.logging.set_verbosity_error()
    torch.manual_seed(SEED)  # for DPMSolverSDEScheduler, which takes no generator
    wanted = [
        config
        for config in available()
        if not given.only or any(config.name.startswith(name) for name in given.only)
    ]
    if not wanted:
        names = ", ".join(config.name for config in CONFIGS)
        sys.exit(f"--only {' '.join(given.only)} begins no name; the names are: {names}")
    steps = range(min(STEPS), max(STEPS) + 1) if given.all else given.steps
    try:
        rows = sweep(
            given.n,
            steps,
            wanted,
            engine=given.engine,
            stop_at=given.stop_at,
            give_up=given.give_up,
            resume=given.resume,
        )
    except FileExistsError as error:
        sys.exit(str(error))
    left_out = [{"scheduler": name, "skipped": why} for name, why in skipped().items()]
    if given.out is None and (given.only or given.n < FULL):
        print(f"peers.json is for full sweeps of n >= {FULL}; --out writes others", file=sys.stderr)
        for row in sorted(rows, key=lambda row: row.get("fd", float("inf"))):
            print(line(row))
        return
    what = f"FD at n = {given.n} of diffusers' schedulers in its plain loop, {given.engine} network"
    if given.stop_at is not None:
        what += f", swept until an FD of {given.stop_at:g} and {MORE_LEVELS} step counts more"
    if given.give_up is not None:
        what += f", given up above {given.give_up:g} at n = {SCREEN}"
    out = FOLDER / "peers.json" if given.out is None else given.out.resolve()
    write(str(out.with_suffix("")), what, [*rows, *left_out])


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.peers.diffusers_schedulers")
    parser.add_argument("--n", type=int, default=FULL, help="pictures for the FD")
    parser.add_argument("--steps", type=int, nargs="+", default=STEPS)
    parser.add_argument("--all", action="store_true", help="every number of steps from 3 to 50")
    parser.add_argument("--only", nargs="+", default=[], help="configurations by how they begin")
    parser.add_argument("--engine", choices=("eager", "openvino"), default="eager")
    parser.add_argument("--stop-at", type=float, metavar="FD", help="two step counts above this")
    parser.add_argument("--give-up", type=float, metavar="FD", help="above this at 200 pictures")
    parser.add_argument("--resume", action="store_true", help="go on with an earlier sweep")
    parser.add_argument("--out", type=Path, help="default: benchmarks/results/peers.json")
    return parser


if __name__ == "__main__":
    main()
