"""What a moving scene is called, in many phrasings; and what a caption of one asks for.

The grammar is that of :mod:`hasten.data.shapes.captions`, with a motion for each object. Sizes are
those of the first frame. Relations are not said: they change with the motion.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Sequence

import numpy as np

from hasten.core.errors import UserError, require
from hasten.data.shapes import captions
from hasten.data.shapes.captions import BEFORE, NUMBERS, PLURALS, Wanted, asked
from hasten.data.shapes.motion import MOTIONS, MovingScene
from hasten.data.shapes.scenes import SHAPES, Thing

TO = {
    "left": ("left", "to the left"),
    "right": ("right", "to the right"),
    "up": ("up",),
    "down": ("down",),
}
ADJECTIVES = {"still": "still", "grows": "growing", "shrinks": "shrinking"}
SENTENCE = 0.4  # how often a caption is one: "a red circle moves left"
WATCHED = (*BEFORE, "a video of ")


@dataclasses.dataclass(frozen=True, kw_only=True)
class AskedMotion:
    """What a caption asks for: these objects and no others, each with the motion at its place in
    ``motions``; None leaves it open."""

    things: tuple[Wanted, ...]
    motions: tuple[str | None, ...]


def motion_caption(moving: MovingScene, seed: int, number: int) -> str:
    """A caption of ``moving``: the one of this ``number`` and ``seed``; it says every motion."""
    rng = np.random.default_rng((seed, number, 3))
    pairs = list(zip(moving.scene.things, moving.motions, strict=True))
    pairs = [pairs[place] for place in rng.permutation(len(pairs))]
    if rng.random() < SENTENCE:
        before, join = "", _one(rng, (" and ", " while "))
        parts = [
            f"{captions.with_article(captions.spoken(thing, rng))} {_finite(motion.name, rng)}"
            for thing, motion in pairs
        ]
    else:
        before, join = _one(rng, WATCHED), _one(rng, (" and ", " next to "))
        parts = [_noun(thing, motion.name, rng) for thing, motion in pairs]
    return before + join.join(parts) + captions.background(moving.scene, rng)


def _finite(motion: str, rng: np.random.Generator) -> str:
    """As in "moves left"."""
    if motion in TO:
        return f"moves {_one(rng, TO[motion])}"
    return "stands still" if motion == "still" else motion


def _noun(thing: Thing, motion: str, rng: np.random.Generator) -> str:
    """As in "a small growing star", "a circle moving left", "a circle that moves left"."""
    *some, shape = captions.spoken(thing, rng)
    if rng.random() < 0.4:
        return f"{captions.with_article([*some, shape])} that {_finite(motion, rng)}"
    if motion in TO:
        return f"{captions.with_article([*some, shape])} moving {_one(rng, TO[motion])}"
    some.insert(int(rng.integers(len(some) + 1)), ADJECTIVES[motion])
    return captions.with_article([*some, shape])


def _one(rng: np.random.Generator, texts: Sequence[str]) -> str:
    return texts[int(rng.integers(len(texts)))]


_MOTION = (
    r"\b(?:that )?(?:(?:is|are) )?(?:(?:stands )?still|growing|grows|shrinking|shrinks|"
    r"(?:moves|moving) (?:to the )?(?:left|right|up|down)(?! of))\b"
)
_PIECES = re.compile(
    rf"(?P<motion>{_MOTION})|\b(?P<count>{'|'.join(NUMBERS.values())})\b|"
    rf"\b(?P<shape>{'|'.join((*SHAPES, *PLURALS.values()))})\b|(?P<other>[^\W_]+|,)"
)
_NAMES = {name: name for name in MOTIONS} | {word: name for name, word in ADJECTIVES.items()}
_COUNT = {word: count for count, word in NUMBERS.items()}


def asked_motion(prompt: str) -> AskedMotion:
    """What ``prompt`` asks for, read by the grammar of :func:`motion_caption`; captions of pictures
    are read too, and leave every motion open.

    Raises:
        UserError: a word that captions do not have; no shape; a relation; two motions of one
            object, or one of none.
    """
    text = " ".join(captions.BACKGROUND.sub("", prompt.lower()).split())
    text = re.sub(r"\b(next to|while)\b", "and", text).replace("video of", "picture of")
    plain = re.sub(_MOTION, "", text)
    require(
        re.search(r"\bmov(es|ing)\b", plain) is None,
        f"prompt {prompt!r} does not say where to; an object moves left, right, up or down.",
    )
    wanted = asked(plain)
    require(
        wanted.relation is None,
        f"prompt {prompt!r} has the relation {wanted.relation!r}; captions of motion have none.",
    )
    return AskedMotion(things=wanted.things, motions=_motions(text, prompt))


def _motions(text: str, prompt: str) -> tuple[str | None, ...]:
    """The motion of every object: what comes right after a shape is about it, anything else about
    the next one."""
    motions: list[str | None] = []
    ahead, count, last, after = None, 1, 0, False
    for piece in _PIECES.finditer(text):
        word = piece.group().split()[-1]
        if piece.lastgroup == "motion":
            before = motions[-1] if after else ahead
            if before is not None:
                raise UserError(f"prompt {prompt!r} says two motions of one object; say one.")
            if after:
                motions[-last:] = [_NAMES[word]] * last
            else:
                ahead = _NAMES[word]
        elif piece.lastgroup == "shape":
            motions += [ahead] * count
            ahead, count, last, after = None, 1, count, True
        else:
            count, after = _COUNT.get(word, count), False
    require(ahead is None, f"prompt {prompt!r} has a motion of no object; name its shape.")
    return tuple(motions)


@functools.cache
def motion_words() -> list[str]:
    """Every word that captions of motion are made of, sorted; those of pictures among them."""
    texts = [*captions.words(), *MOTIONS, *ADJECTIVES.values(), *WATCHED]
    texts += ["moves moving stands that next to while"]
    texts += [phrase for phrases in TO.values() for phrase in phrases]
    return sorted({word for text in texts for word in text.split()})
