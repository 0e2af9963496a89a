"""Makes shards of a job: the model is loaded once, and asked for batch after batch."""

from __future__ import annotations

import dataclasses
import enum
import functools
from collections.abc import Callable

import torch

from hasten.core.condition import Condition
from hasten.core.errors import NonFiniteError, require
from hasten.core.files import JsonObject
from hasten.core.plan import Plan
from hasten.generating.behind import Behind
from hasten.generating.conditions import Asked, Encoded, Numbered, load_for
from hasten.generating.items import Item, content_of
from hasten.generating.job import Job
from hasten.generating.ranks import here
from hasten.generating.shards import Shards, named
from hasten.generating.writers import WRITERS, ShardWriter
from hasten.sampling import Sampler, build

Progress = Callable[[int, int], None]
"""Called with a shard and how many more of its pictures were made."""
Conditions = Callable[[range], Condition | list[int] | None]


class State(enum.StrEnum):
    """What became of a shard: made now, found done, held by another process, or failed."""

    MADE = "made"
    FOUND = "found"
    HELD = "held"
    FAILED = "failed"


@dataclasses.dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of ``shard``; ``message`` says why it failed."""

    shard: int
    state: State
    message: str = ""


class Maker:
    """Makes the shards that it is asked for.

    Attributes:
        job: settled; identity: of the job, for job.json.

    Raises:
        UserError: the model cannot be loaded, or not sampled so.
    """

    def __init__(self, job: Job, place: int = 0) -> None:
        device = job.device
        if device == "cuda" and torch.cuda.device_count() > 1:
            device = f"cuda:{place % torch.cuda.device_count()}"
        job = dataclasses.replace(job, device=device)
        model = load_for(job, job.prompts[:1] or None)
        self.job = job.settled(model)
        plan = None if job.plan is None else Plan(**job.plan)
        sampler = build(model, plan)
        self._plan = sampler.plan
        require(
            not sampler.executor.wide or here().world == 1,
            f"executor is {self._plan.executor!r}, which shares a picture out over the processes "
            "that torchrun starts; take sequential.",
        )
        self._asked = Asked(texts=job.prompts or model.prompts, labels=model.labels)
        self._text = model.family.prompts(model.net) if job.prompts else None
        any_prompt = not job.prompts or self._text is not None
        self._sampler = sampler if any_prompt else None  # else it is loaded for each shard's
        self._shards = Shards(job.folder, job.format)
        self.identity: JsonObject = self.job.identity(model, self._plan)

    def make(self, shard: int, progress: Progress) -> Outcome:
        """Make a shard, unless it is done, or another process is at work on it.

        Raises:
            UserError: the disk is full, or another fault that other shards would meet as well.
        """
        if self._shards.done(shard):
            return Outcome(shard=shard, state=State.FOUND)
        with self._shards.lock(shard) as mine:
            if not mine:
                return Outcome(shard=shard, state=State.HELD)
            if self._shards.done(shard):
                return Outcome(shard=shard, state=State.FOUND)
            try:
                self._make(shard, progress)
            except NonFiniteError as error:
                return Outcome(shard=shard, state=State.FAILED, message=str(error))
        return Outcome(shard=shard, state=State.MADE)

    def _make(self, shard: int, progress: Progress) -> None:
        items, rows = self.job.items(shard), list[JsonObject]()
        sampler, conditions = self._ready(items)
        batch = self.job.batch
        assert batch is not None
        with self._shards.beside(shard) as path:
            with named(self.job.folder):
                writer = WRITERS[self.job.format](path, self.job.image)
            try:
                with Behind() as behind:
                    for begin in range(items.start, items.stop, batch):
                        numbers = range(begin, min(begin + batch, items.stop))
                        pictures = self._sampled(sampler, numbers, conditions(numbers))
                        write = (self._write, writer, numbers, pictures, rows)
                        behind.put(functools.partial(*write))
                        progress(shard, len(numbers))
            finally:
                with named(self.job.folder):
                    writer.close()
            self._shards.publish(shard, path, rows)

    def _ready(self, items: range) -> tuple[Sampler, Conditions]:
        """A sampler for a shard, and what its items are conditioned on."""
        if self._sampler is not None and self._text is not None:
            return self._sampler, Encoded(self._text, self._asked, items)
        if self._sampler is not None:
            return self._sampler, Numbered(self._sampler.model, self._asked)
        texts = dict.fromkeys(
            self._asked.texts[number % len(self._asked.texts)] for number in items
        )
        model = load_for(self.job, list(texts))
        return build(model, self._plan), Numbered(model, self._asked)

    def _sampled(self, sampler: Sampler, numbers: range, condition: object) -> torch.Tensor:
        try:
            return sampler.sample(
                len(numbers),
                seed=self.job.seed,
                first=numbers.start,
                condition=condition,
                raw=self.job.image == "latents",
                batch=len(numbers),
            )
        except NonFiniteError as error:
            raise NonFiniteError(f"items {numbers[0]} to {numbers[-1]}: {error}") from error

    def _write(
        self, writer: ShardWriter, numbers: range, pictures: torch.Tensor, rows: list[JsonObject]
    ) -> None:
        for number, picture in zip(numbers, pictures, strict=True):
            try:
                content = content_of(picture, self.job.image, self.job.format)
            except NonFiniteError as error:
                raise NonFiniteError(f"item {number}: {error}") from error
            item = Item(
                number=number,
                seed=self.job.seed,
                prompt=self._asked.prompt(number),
                label=self._asked.label(number),
                plan=self._plan.key,
                content=content,
                shape=tuple(picture.shape),
            )
            facts = item.facts
            rows.append(facts)
            with named(self.job.folder):
                writer.add(item, facts)
