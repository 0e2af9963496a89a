"""What continuous batching gains a server: throughput, and latency against the rate of requests.

The same requests, of one picture each, go to three batchers: one request at a time, batches of
whole requests (which begin together), and continuous batching. Requests come at random (a Poisson
process), and nothing is sent over HTTP.
"""

from __future__ import annotations

import random
import statistics
import threading
import time
from collections.abc import Sequence

import hasten
from benchmarks.results_io import write
from hasten.core.plan import Plan
from hasten.core.words import in_words
from hasten.serving.batcher import Batcher, Job, _chosen
from hasten.serving.served import Served, Wanted

PLAN = (
    "solver=dpmpp(order=2),grid=log-snr,steps=10,guidance=4,levers=[decoder],engine=openvino,"
    "dtype=bfloat16"
)
REQUESTS = 200  # at each rate
RATES = (0.5, 0.8)  # of the throughput of continuous batching
CLIENTS = 16  # that ask again as soon as they are answered, for throughput
PROMPTS = ("a large red circle", "two green squares", "a small blue star above a pink ring")


class WholeRequests(Batcher):
    """Batches of requests that begin together, and end together where their plan is one."""

    _group: Sequence[Job] = ()

    def _live(self) -> list[Job]:
        jobs = super()._live()
        self._group = [job for job in self._group if job in jobs] or (_chosen(jobs) if jobs else [])
        return list(self._group)


class Load:
    """Sends requests to a batcher."""

    def __init__(self, served: Served, plan: Plan, kind: type[Batcher], rows: int) -> None:
        self.served, self.plan = served, plan
        self.batcher = kind(queue=1 << 20)
        self.lane = type(served.lane(plan))(**{**vars(served.lane(plan)), "rows": rows})
        self.evaluations = plan.trace(served.model.schedule).evaluations

    def ask(self, number: int) -> Job:
        wanted = Wanted(
            sampler=self.served.sampler(self.plan),
            prompts=(PROMPTS[number % len(PROMPTS)],),
            seed=number,
        )
        return self.batcher.submit(
            Job(
                lane=self.lane,
                order=wanted,
                rows=1,
                evaluations=self.evaluations,
                deadline=3600.0,
            )
        )

    def solo(self, n: int = 30) -> list[float]:
        """Seconds of requests that come one after another."""
        out = []
        for number in range(n):
            begun = time.perf_counter()
            self.ask(number).pictures.result()
            out.append(time.perf_counter() - begun)
        return out

    def throughput(self) -> float:
        """Pictures a second with :data:`CLIENTS` clients."""
        left, lock = iter(range(REQUESTS)), threading.Lock()

        def client() -> None:
            while True:
                with lock:
                    number = next(left, None)
                if number is None:
                    return
                self.ask(number).pictures.result()

        threads = [threading.Thread(target=client) for _ in range(CLIENTS)]
        begun = time.perf_counter()
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return REQUESTS / (time.perf_counter() - begun)

    def latencies(self, rate: float) -> list[float]:
        """Seconds of each of :data:`REQUESTS` requests, which come ``rate`` a second at random."""
        rng, out, jobs, at = random.Random(0), [], [], time.perf_counter()
        for number in range(REQUESTS):
            at += rng.expovariate(rate)
            time.sleep(max(0.0, at - time.perf_counter()))
            job = self.ask(number)
            job.pictures.add_done_callback(
                lambda _, came=at: out.append(time.perf_counter() - came)
            )
            jobs.append(job)
        for job in jobs:
            job.pictures.result()
        while len(out) < REQUESTS:
            time.sleep(0.001)
        return out


def overhead(load: Load) -> float:
    """What the batcher adds to the evaluations of a full batch, as a share of them."""
    sampler, rows = load.served.sampler(load.plan), load.lane.rows
    prompts = [PROMPTS[number % len(PROMPTS)] for number in range(rows)]
    ratios = []
    for _ in range(15):
        begun = time.perf_counter()
        with load.batcher.turns:
            jobs = [load.ask(number) for number in range(rows)]
        for job in jobs:
            job.pictures.result()
        shared = time.perf_counter() - begun
        begun = time.perf_counter()
        condition = load.served._condition(prompts, [""] * rows)
        sampler.sample(rows, seed=0, condition=condition, batch=rows)
        ratios.append(shared / (time.perf_counter() - begun) - 1)
    return statistics.median(ratios)


def latencies(load: Load, rate: float, most: float) -> list[float] | None:
    """Median and 99th percentile in seconds at ``rate`` requests a second; None where they would
    never catch up, since they answer ``most`` at most."""
    if rate > 0.97 * most:
        return None
    times = sorted(load.latencies(rate))
    return [statistics.median(times), times[min(len(times) - 1, round(0.99 * len(times)))]]


def measured(served: Served, plan: Plan) -> list[dict[str, object]]:
    useful = served.lane(plan).rows
    loads = {
        "one request at a time": Load(served, plan, Batcher, 1),
        "batches of whole requests": Load(served, plan, WholeRequests, useful),
        "continuous batching": Load(served, plan, Batcher, useful),
    }
    solo = statistics.median(loads["one request at a time"].solo())
    for load in loads.values():  # the first run of a batch size takes seconds
        load.throughput()
    most = {name: load.throughput() for name, load in loads.items()}
    capacity = max(most.values())
    rates = {share: share * capacity for share in RATES}
    return [
        {
            "batching": name,
            "rows": load.lane.rows,
            "solo_s": solo,
            "pictures_per_s": most[name],
            "seconds": {
                f"{share:g}": latencies(load, rate, most[name]) for share, rate in rates.items()
            },
            "overhead": overhead(load),
            "n": REQUESTS,
        }
        for name, load in loads.items()
    ]


def main() -> None:
    model = hasten.load("builtin:shapes", prompts=[""])
    plan = Plan.read(PLAN)
    served = Served("builtin:shapes", model, {"balanced": plan})
    served.warm_()
    write(
        "serving",
        f"builtin:shapes, {in_words(plan)}: requests of one picture, in batches of up to "
        f"{served.lane(plan).rows} rows; {REQUESTS} requests at each rate, {CLIENTS} clients",
        measured(served, plan),
    )


if __name__ == "__main__":
    main()
