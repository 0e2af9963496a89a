"""What a scene is called, in many phrasings; and what a caption asks for.

The grammar is small on purpose: every caption can be read back (:func:`asked`), so whether a
picture shows what its prompt asks can be checked exactly.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence

import numpy as np

from hasten.core.errors import UserError
from hasten.data.shapes.scenes import COLOURS, SHAPES, Scene, Thing

SIZES = {"small": ("small", "little", "tiny"), "medium": ("medium",), "large": ("large", "big")}
RELATED = {
    "left of": ("to the left of", "left of"),
    "right of": ("to the right of", "right of"),
    "above": ("above", "over"),
    "below": ("below", "under"),
    "inside": ("inside", "within"),
}
BEFORE = ("", "", "", "a picture of ", "a drawing of ", "an image of ", "there is ")
NUMBERS = {2: "two", 3: "three"}
PLURALS = {shape: "crosses" if shape == "cross" else f"{shape}s" for shape in SHAPES}
SIZE_SAID, COLOUR_SAID, BACKGROUND_SAID = 0.65, 0.95, 0.3  # how often


@dataclasses.dataclass(frozen=True, kw_only=True)
class Wanted:
    """An object that a caption asks for; None leaves it open."""

    shape: str
    colour: str | None = None
    size: str | None = None

    def is_met(self, thing: Thing) -> bool:
        """Whether ``thing`` looks like this."""
        return (
            thing.shape == self.shape
            and self.colour in (None, thing.colour)
            and self.size in (None, thing.size)
        )


@dataclasses.dataclass(frozen=True, kw_only=True)
class Asked:
    """What a caption asks for: these objects and no others, the first in ``relation`` to the
    second."""

    things: tuple[Wanted, ...]
    relation: str | None = None


def caption(scene: Scene, seed: int, number: int) -> str:
    """A caption of ``scene``: the one of this ``number`` and ``seed``."""
    rng = np.random.default_rng((seed, number, 1))
    before = _one(rng, BEFORE)
    if scene.counted:
        before = before.replace(" is ", " are ")
    return before + _things(scene, rng) + background(scene, rng)


def background(scene: Scene, rng: np.random.Generator) -> str:
    """What ends a caption of ``scene``: its background, or nothing."""
    if rng.random() >= BACKGROUND_SAID:
        return ""
    shade = "dark " if scene.grey < 90 else "light " if scene.grey > 170 else ""
    return f" on a {shade}{scene.background} background"


def _things(scene: Scene, rng: np.random.Generator) -> str:
    things = scene.things
    if scene.counted:
        words = spoken(things[0], rng)
        return " ".join([NUMBERS[len(things)], *words[:-1], PLURALS[words[-1]]])
    phrases = [with_article(spoken(thing, rng)) for thing in things]
    if scene.relation is not None:
        first, second = phrases
        relation = _one(rng, RELATED[scene.relation])
        return f"{first} {relation} {second}"
    if len(phrases) == 1:
        return phrases[0]
    order = rng.permutation(len(phrases))
    *some, last = (phrases[place] for place in order)
    return f"{', '.join(some)} and {last}"


def spoken(thing: Thing, rng: np.random.Generator) -> list[str]:
    """Words for ``thing``, its shape last."""
    words = [_one(rng, SIZES[thing.size])] if rng.random() < SIZE_SAID else []
    words += [thing.colour] if rng.random() < COLOUR_SAID else []
    return [*words, thing.shape]


def with_article(words: Sequence[str]) -> str:
    """``words`` with "a" or "an" before them."""
    return " ".join(["an" if words[0][0] in "aeiou" else "a", *words])


def _one(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(rng.integers(len(texts)))]


def _meanings() -> Mapping[str, tuple[str, str]]:
    """Every word that says something about an object, with what it says."""
    out = {word: ("size", size) for size, words in SIZES.items() for word in words}
    out |= {colour: ("colour", colour) for colour in COLOURS}
    out |= {shape: ("shape", shape) for shape in SHAPES}
    return out | {plural: ("shape", shape) for shape, plural in PLURALS.items()}


_MEANING = _meanings()
_COUNT = {word: number for number, word in NUMBERS.items()}
BACKGROUND = re.compile(r"\bon an? [a-z ]*background\b")


def asked(prompt: str) -> Asked:
    """What ``prompt`` asks for, read by the grammar of :func:`caption`.

    Raises:
        UserError: a word that captions do not have; no shape; more relations than one.
    """
    text = BACKGROUND.sub("", prompt.lower())
    things: list[Wanted] = []
    relations = [
        name for name, words in RELATED.items() if re.search(rf"\b({'|'.join(words)})\b", text)
    ]
    said: dict[str, str] = {}
    count = 1
    known = set(words())
    for word in re.findall(r"[^\W_]+", text):
        if word not in known:
            raise UserError(f"prompt {prompt!r} has the word {word!r}, which is not known here.")
        count = _COUNT.get(word, count)
        field, value = _MEANING.get(word, ("", ""))
        if field in said:
            raise UserError(
                f"prompt {prompt!r} says {said[field]!r} and {word!r} of one object; say one."
            )
        if field:
            said[field] = value
        if field == "shape":
            things += [Wanted(**said)] * count
            said, count = {}, 1
    if not things:
        raise UserError(f"prompt {prompt!r} names no shape; name one of {', '.join(SHAPES)}.")
    if len(relations) > 1 or (relations and len(things) != 2):
        raise UserError(f"prompt {prompt!r}: one relation between two objects is what it may ask.")
    return Asked(things=tuple(things), relation=relations[0] if relations else None)


@functools.cache
def words() -> list[str]:
    """Every word that captions are made of, sorted."""
    texts = [*BEFORE, *_MEANING, *NUMBERS.values(), "a an and are on light dark background"]
    texts += [phrase for phrases in RELATED.values() for phrase in phrases]
    texts += ["plain gradient striped checkered grainy"]
    return sorted({word for text in texts for word in text.split()})
