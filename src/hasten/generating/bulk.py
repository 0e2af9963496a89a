"""generate(model, out, ...): many pictures, in shards, as often interrupted as may be."""

from __future__ import annotations

import contextlib
import json
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from hasten.core.errors import require, require_whole
from hasten.core.files import JsonObject, read_json, read_lines
from hasten.core.plan import PlanLike, as_plan
from hasten.generating.job import Job
from hasten.generating.maker import State
from hasten.generating.pools import InProcess, Pool, Processes
from hasten.generating.ranks import Rank, here
from hasten.generating.result import Generated, UnfinishedError
from hasten.generating.shards import JOB, Shards, open_job, require_ours

PATIENCE_S = 1.0  # between looks at shards that another command holds


def generate(
    model: str | Path,
    out: str | Path,
    *,
    prompts: Sequence[str] | str | Path | None = None,
    n: int | None = None,
    seed: int = 0,
    plan: PlanLike | None = None,
    format: str = "parquet",
    image: str = "png",
    shard: int = 1000,
    batch: int | None = None,
    dedupe: bool = False,
    negative: str | None = None,
    call: Mapping[str, object] | None = None,
    device: str = "cpu",
    workers: int | None = None,
    threads: int | None = None,
    ray: str | None = None,
    quiet: bool = True,
) -> Generated:
    """Make pictures 0 to ``n - 1`` of a model, and write them to ``out`` in shards.

    Item i has the prompt ``prompts[i % len(prompts)]``, or class ``i % labels``, and is picture i
    of the seed. So it can be made again alone: ``sampler.sample(1, seed=seed, first=i,
    condition=prompt)`` gives it, up to rounding, and ``hasten sample`` with the same prompts, seed
    and plan gives the first ones. The batches of a shard are always the same, so on one kind of
    device and with one number of threads the bytes do not depend on workers or interruptions.

    The same call again goes on where an earlier one ended, however that was. Several at once share
    the work.

    Args:
        model: what :func:`hasten.load` takes by name: builtin:NAME, a folder, or a hub id.
        prompts: texts, or a file with one a line; those of the model by default.
        n: one for each prompt by default.
        plan: the model's own by default.
        format: parquet, tar (webdataset), or files.
        image: png, jpeg, webp, or latents (float32 x0 in the network's space).
        shard: items of a shard.
        batch: pictures at a time; 64, or 4 with prompts.
        dedupe: use prompts that occur several times once.
        negative, call: the negative prompt, and arguments of the pipeline's own call.
        device: cpu, cuda (every GPU of the machine, one after another), cuda:1, mps.
        workers: processes on this machine, or slots of the Ray cluster.
        threads: of a process; by default the machine's, divided among the workers, or those that
            the job was begun with.
        ray: the address of a Ray cluster.

    Raises:
        UserError: something cannot be done as asked, ``out`` is of another job, or the disk is
            full.
        UnfinishedError: some shards could not be made, where the network's answer was not finite.
        KeyboardInterrupt: Ctrl-C; nothing is half written.
    """
    began = time.monotonic()
    require_whole("workers", 1 if workers is None else workers, 1, 1024)
    texts, duplicates = _texts(prompts, dedupe)
    rank, folder = here(), Path(out).expanduser().absolute()
    job = Job(
        model=str(model),
        out=str(folder),
        prompts=texts,
        n=n,
        seed=seed,
        plan=None if plan is None else as_plan(plan).model_dump(mode="json"),
        format=format,
        image=image,
        shard=shard,
        batch=batch,
        negative=negative,
        call=_call(call),
        device=device,
        threads=_threads(folder, workers or 1) if threads is None else threads,
    )
    require_ours(folder)
    run = _Run(job, rank, quiet or rank.rank > 0)
    with contextlib.closing(_pool(job, workers, ray, rank)) as pool:
        result = run(pool)
    seconds = round(time.monotonic() - began, 3)
    result = Generated(**{**vars(result), "duplicates": duplicates, "seconds": seconds})
    if result.failed:
        raise UnfinishedError(result)
    return result


class _Run:
    """One command's share of a job."""

    def __init__(self, job: Job, rank: Rank, quiet: bool) -> None:
        self._job, self._rank, self._quiet = job, rank, quiet
        self._shards = Shards(job.folder, job.format)
        self._made: dict[int, int] = {}
        self._failed: dict[int, str] = {}

    def __call__(self, pool: Pool) -> Generated:
        identity = pool.identity
        self._items = Job(**{**vars(self._job), "n": identity["n"]})
        open_job(self._job.folder, identity)
        self._rank.mark(self._job.folder)
        self._shards.sweep()
        for shard in self._rank.own(self._items.shards):
            if self._shards.done(shard):
                self._shards.verify(shard, self._items.items(shard))
        try:
            with self._bar() as bar:
                self._go_through(pool, self._rank.own(self._items.shards), bar)
                others = self._rank.others(self._job.folder, self._items.shards)
                self._go_through(pool, others, bar)
        except KeyboardInterrupt:
            pool.close()
            done = self._result()
            raise KeyboardInterrupt(
                f"stopped; {done.done} of {done.n} pictures are done, and the same command goes on."
            ) from None
        finally:
            pool.close()
            self._shards.sweep()
        return self._result()

    def _go_through(self, pool: Pool, shards: Sequence[int], bar: tqdm) -> None:
        """Make all of ``shards``, and wait for those that another command has in hand."""
        left = [shard for shard in shards if not self._shards.done(shard)]
        while left:
            held: list[int] = []
            for outcome in pool.run(left, lambda *made: self._progress(bar, *made)):
                shard, size = outcome.shard, len(self._items.items(outcome.shard))
                if outcome.state == State.HELD:
                    held.append(shard)
                    continue
                if outcome.state == State.FAILED:
                    self._failed[shard] = outcome.message
                    bar.update(-self._made.pop(shard, 0))
                    bar.write(f"hasten: {outcome.message}", file=sys.stderr)
                    continue
                bar.update(size - self._made.get(shard, 0))
                if outcome.state == State.MADE:
                    self._made[shard] = size
            if len(held) == len(left):
                time.sleep(PATIENCE_S)
            left = held

    def _progress(self, bar: tqdm, shard: int, more: int) -> None:
        self._made[shard] = self._made.get(shard, 0) + more
        bar.update(more)

    def _bar(self) -> tqdm:
        done = self._done()
        return tqdm(total=self._items.n, initial=done, unit="pic", disable=self._quiet)

    def _done(self) -> int:
        every = range(self._items.shards)
        return sum(len(self._items.items(shard)) for shard in every if self._shards.done(shard))

    def _result(self) -> Generated:
        assert self._items.n is not None
        made = {shard: count for shard, count in self._made.items() if self._shards.done(shard)}
        return Generated(
            out=self._job.folder,
            n=self._items.n,
            made=sum(made.values()),
            done=self._done(),
            shards=self._items.shards,
            failed=tuple(self._failed[shard] for shard in sorted(self._failed)),
        )


def _pool(job: Job, workers: int | None, ray: str | None, rank: Rank) -> Pool:
    if ray is not None:
        from hasten.generating.ray_pool import RayPool

        return RayPool(job, ray, workers)
    if workers is None or workers == 1:
        return InProcess(job, rank.local)
    return Processes(job, workers, rank.local)


def _texts(prompts: Sequence[str] | str | Path | None, dedupe: bool) -> tuple[tuple[str, ...], int]:
    """The prompts, and how many were left out."""
    if prompts is None:
        require(not dedupe, "dedupe is for prompts, and none are given; drop it.")
        return (), 0
    texts = read_lines("prompts", prompts) if isinstance(prompts, (str, Path)) else list(prompts)
    listed = len(texts) > 0 and all(isinstance(text, str) for text in texts)
    require(listed, "prompts takes a list of texts, or a file with one a line.")
    used = tuple(dict.fromkeys(texts)) if dedupe else tuple(texts)
    return used, len(texts) - len(used)


def _call(call: Mapping[str, object] | None) -> JsonObject:
    """Arguments of the pipeline's call that job.json can hold."""
    for name, value in (call or {}).items():
        plain = isinstance(value, (str, int, float, bool, list, tuple, type(None)))
        require(
            plain, f"call: {name} is a {type(value).__name__}; generate takes numbers and texts."
        )
    return json.loads(json.dumps(dict(call or {})))


def _threads(folder: Path, workers: int) -> int:
    """Those that the job was begun with, or the machine's, divided among the workers."""
    if (folder / JOB).is_file():
        there = read_json(folder / JOB)
        if isinstance(there, dict) and isinstance(there.get("threads"), int):
            return there["threads"]
    return max(torch.get_num_threads() // workers, 1)
