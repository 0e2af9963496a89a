"""Run benchmarks, on an idle machine: ``python -m benchmarks.run [NAME ...]``.

Without a name it runs those that need nothing but this repository; ``--list`` shows all of them
with the tables they make, and how to run those that need hours, data or other programs.
"""

from __future__ import annotations

import dataclasses
import importlib
import sys


@dataclasses.dataclass(frozen=True, kw_only=True)
class Benchmark:
    """A module of benchmarks/ with ``main()``.

    Attributes:
        tables: what it makes of the documents, as ``<!-- table: NAME -->`` names them.
        needs: what it needs beyond an idle machine, "" where that is nothing.
        command: what runs it, where that is not ``python -m benchmarks.run NAME``.
    """

    tables: tuple[str, ...]
    needs: str = ""
    command: str = ""


BENCHMARKS = {
    "overhead": Benchmark(tables=("limits",)),
    "right": Benchmark(tables=("right",)),
    "training": Benchmark(tables=("limits",)),
    "plans": Benchmark(tables=("plans", "best", "fd")),
    "agreement": Benchmark(tables=("agreement",)),
    "programs": Benchmark(tables=("learned",)),
    "early_stop": Benchmark(tables=("early_stop",)),
    "parallel": Benchmark(tables=("parallel",)),
    "reuse": Benchmark(tables=("reuse",)),
    "regions": Benchmark(tables=(), needs="8 GB of memory"),
    "students": Benchmark(tables=("students",)),
    "smaller": Benchmark(tables=("smaller", "quantization_distance", "pruned", "widths")),
    "axes": Benchmark(tables=("axes",), needs="two tunings of 4 minutes"),
    "page": Benchmark(tables=("page",), needs="Chromium"),
    "tuner": Benchmark(
        tables=("tuner",),
        needs="hours: a sweep of every plan, and three tunings before it compares them",
        command="for part in sweep tune; do python -m benchmarks.tuner $part; done; "
        "python -m benchmarks.tuner",
    ),
    "tuner_table": Benchmark(
        tables=("cifar10",),
        needs="an hour: 198 plans of each model",
        command="python -m benchmarks.tuner_table",
    ),
    "two_checkouts": Benchmark(
        tables=("two_checkouts",),
        needs="another checkout",
        command="python -m benchmarks.two_checkouts OLD",
    ),
    "families": Benchmark(tables=("families",)),
    "serving": Benchmark(tables=("serving",)),
    "gpu": Benchmark(tables=("gpu",), needs="a GPU", command="python -m benchmarks.gpu"),
    "tuner_replay": Benchmark(tables=("replay",)),
    "ancestral": Benchmark(
        tables=("ancestral",),
        needs="hours: 1000 steps for 2000 pictures, twice",
        command="for side in hasten diffusers; do python -m benchmarks.ancestral make $side; done; "
        "python -m benchmarks.ancestral",
    ),
    "distilling": Benchmark(
        tables=("distilling",),
        needs="MNIST, and 8 minutes of training per objective",
        command="DATA=mnist-train.parquet python -m benchmarks.distilling",
    ),
    "peers": Benchmark(
        tables=("peers",),
        needs="hours: every scheduler of diffusers; see benchmarks/peers/README.md",
        command="python -m benchmarks.peers.diffusers_schedulers --resume",
    ),
    "training_free": Benchmark(
        tables=("headline", "training_free"),
        needs="peers, and a tuning at each batch size of the model without what ships beside it",
        command="mkdir -p runs && cp -r src/hasten/assets/mnist runs/alone && "
        "rm -r runs/alone/programs runs/alone/starts && for n in 1 64; do "
        "hasten tune runs/alone --batch $n --minutes 10 --out runs/training_free/batch-$n; done; "
        "python -m benchmarks.ahead training_free",
    ),
    "text_to_image": Benchmark(
        tables=("requests",),
        needs="hours for the sweep of diffusers' schedulers, and a tuning",
        command="python -m benchmarks.text_to_image sweep && hasten tune builtin:shapes --out "
        "runs/requests && python -m benchmarks.text_to_image runs/requests/plan.json",
    ),
    "editing": Benchmark(
        tables=(), needs="two hours", command="python -m benchmarks.editing pictures clips"
    ),
    "ahead": Benchmark(
        tables=("ahead", "student_times"),
        needs="peers, and a tuning at each batch size",
        command="for n in 1 64; do hasten tune builtin:mnist --batch $n --minutes 10 "
        "--out runs/ahead/batch-$n; done; python -m benchmarks.ahead",
    ),
}


def listed() -> str:
    """Every benchmark: its tables, what it needs, and the command."""
    lines = []
    for name, benchmark in BENCHMARKS.items():
        command = benchmark.command or f"python -m benchmarks.run {name}"
        needs = f"  needs {benchmark.needs}" if benchmark.needs else ""
        lines.append(f"{name}: tables {', '.join(benchmark.tables)}.{needs}\n    {command}")
    return "\n".join(lines)


def main(names: list[str]) -> None:
    """Run the benchmarks ``names``, or all that need nothing; say which tables were left alone."""
    unknown = [name for name in names if name not in BENCHMARKS]
    if unknown:
        sys.exit(f"no benchmark {unknown[0]!r}; there are: {', '.join(BENCHMARKS)}")
    chosen = names or [name for name, benchmark in BENCHMARKS.items() if not benchmark.needs]
    for name in chosen:
        benchmark = BENCHMARKS[name]
        if benchmark.command:
            sys.exit(f"{name} needs {benchmark.needs}; run it with: {benchmark.command}")
        importlib.import_module(f"benchmarks.{name}").main()
    left = [name for name in BENCHMARKS if name not in chosen]
    print(f"not measured: {', '.join(left)}; `python -m benchmarks.run --list` says how")


if __name__ == "__main__":
    if sys.argv[1:] == ["--list"]:
        print(listed())
    else:
        main(sys.argv[1:])
