"""What the items of a job are asked for: prompts in turn, or classes in turn."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

from hasten.adapters.load import load
from hasten.core.condition import Condition
from hasten.core.family import Prompts
from hasten.core.model import Model
from hasten.generating.job import Job

AHEAD = 64  # items whose prompts are encoded together


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What the item of a number is asked for; item i has ``texts[i % len(texts)]``, or label
    ``i % labels``."""

    texts: tuple[str, ...]
    labels: int | None

    def prompt(self, number: int) -> str | None:
        """Its prompt, where there are prompts."""
        return self.texts[number % len(self.texts)] if self.texts else None

    def label(self, number: int) -> int | None:
        """Its class, where there are classes without texts."""
        return None if self.texts or self.labels is None else number % self.labels


def load_for(job: Job, prompts: Sequence[str] | None) -> Model:
    """The model of a job, for ``prompts``; those that it comes with, or none, for None."""
    texts = None if prompts is None else list(prompts)
    return load(job.model, prompts=texts, negative=job.negative, device=job.device, **job.call)


class Numbered:
    """The labels of a model with classes, or of one that was loaded for its texts."""

    def __init__(self, model: Model, asked: Asked) -> None:
        self._labels, self._asked = model.labels, asked
        self._places = {text: place for place, text in enumerate(model.prompts)}

    def __call__(self, numbers: range) -> list[int] | None:
        """Those of the items ``numbers``; None for a model without labels."""
        if self._labels is None:
            return None
        texts = [self._asked.prompt(number) for number in numbers]
        return [
            number % self._labels if text is None else self._places[text]
            for number, text in zip(numbers, texts, strict=True)
        ]


class Encoded:
    """The conditions of the prompts of one shard, encoded some ahead, each distinct one once; kept
    until the shard has no more items with it."""

    def __init__(self, text: Prompts, asked: Asked, shard: range) -> None:
        self._text, self._asked, self._shard = text, asked, shard
        self._known: dict[str, Condition] = {}
        self._last = {self._of(number): number for number in shard}

    def __call__(self, numbers: range) -> Condition:
        """The condition of the items ``numbers``; batches come in order."""
        if any(self._of(number) not in self._known for number in numbers):
            stop = min(max(numbers.start + AHEAD, numbers.stop), self._shard.stop)
            ahead = dict.fromkeys(self._of(number) for number in range(numbers.start, stop))
            self._encode([text for text in ahead if text not in self._known])
        condition = Condition.cat([self._known[self._of(number)] for number in numbers])
        for number in numbers:
            if self._last[self._of(number)] == number:
                del self._known[self._of(number)]
        return condition

    def _of(self, number: int) -> str:
        text = self._asked.prompt(number)
        assert text is not None
        return text

    def _encode(self, texts: list[str]) -> None:
        every = self._text.condition(texts)
        self._known |= {text: every.rows([place]) for place, text in enumerate(texts)}
