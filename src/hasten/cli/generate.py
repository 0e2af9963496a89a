"""``hasten generate``."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from hasten.cli.options import (
    NOTHING,
    Device,
    Flag,
    Json,
    ModelName,
    Parameter,
    PlanText,
    Quiet,
    Request,
)

if TYPE_CHECKING:
    from hasten.generating.result import Generated

WRITTEN_AS = Annotated[str, Parameter(name="--format")]


def generate(
    model: ModelName = "builtin:mnist",
    *,
    plan: PlanText = None,
    n: int | None = None,
    seed: int = 0,
    request: Request = NOTHING,
    out: Path = Path("generated"),
    format_: WRITTEN_AS = "parquet",
    image: str = "png",
    shard: int = 1000,
    batch: int | None = None,
    dedupe: Flag = False,
    workers: int | None = None,
    threads: int | None = None,
    ray: str | None = None,
    device: Device = "cpu",
    json_: Json = False,
    quiet: Quiet = False,
) -> None:
    """Make many pictures, in shards with a manifest. The same command again goes on where an
    earlier one ended; several at once, on machines that share the folder, share the work.

    Item i has prompt i (or class i), in turn, and is picture i of the seed.

    Args:
        n: how many pictures; one for each prompt by default.
        seed: picture i depends on (seed, i) alone.
        out: the folder to write.
        format_: parquet, tar (webdataset), or files.
        image: png, jpeg, webp, or latents (float32 in the network's space).
        shard: pictures of a shard.
        batch: how many are made at a time; 64 by default, 4 with prompts.
        dedupe: use prompts that occur several times once.
        workers: processes on this machine, 1 by default; or slots of the Ray cluster, all by
            default.
        threads: of each process; the machine's divided among the workers by default.
        ray: the address of a running Ray cluster, or auto.
    """
    from hasten.generating import UnfinishedError
    from hasten.generating import generate as run

    texts = request.texts()
    try:
        result = run(
            model,
            out,
            prompts=texts,
            n=n,
            seed=seed,
            plan=plan,
            format=format_,
            image=image,
            shard=shard,
            batch=batch,
            dedupe=dedupe,
            negative=request.negative,
            call=request.arguments(),
            device=device,
            workers=workers,
            threads=threads,
            ray=ray,
            quiet=quiet,
        )
    except UnfinishedError as error:
        _print(error.result, json_)
        raise
    _print(result, json_)


def _print(result: Generated, json_: bool) -> None:
    if json_:
        print(json.dumps(result.to_dict()))
        return
    if result.duplicates:
        print(f"left out {result.duplicates} prompts that had occurred before")
    print(f"wrote {result.made} pictures; {result.done} of {result.n} are in {result.out}")
