"""Objects of drawn clips, followed over the frames, and how they move."""

from __future__ import annotations

import dataclasses
import itertools
import math
from collections import Counter
from collections.abc import Mapping, Sequence

import numpy as np

from hasten.data.shapes.captions import Wanted
from hasten.data.shapes.motion import GROWTH, TRAVEL, nearest_size
from hasten.data.shapes.motion_captions import AskedMotion
from hasten.data.shapes.scenes import Thing

KEPT = 0.9  # the share of frames that have to show the right objects
# Half of the least motion that is drawn tells motion from standing still.
MOVED = TRAVEL[0] / 2  # pixels from the first frame to the last
GROWN = math.log(GROWTH[0]) / 2  # logarithm of the ratio of the radii
WOBBLE = 1.0  # pixels (root mean square) that centres may be off a constant velocity
UNEVEN = 0.05  # the same of radii, as a share of their mean

Track = Mapping[int, Thing]
"""An object by the number of the frame."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Followed:
    """What a clip shows of what was asked.

    Attributes:
        kept: the share of frames that show the objects that were asked for and no others, each with
            the shape, colour and size that it has in most frames.
        moved: whether each of them moves as asked.
    """

    kept: float
    moved: bool

    @property
    def met(self) -> bool:
        return self.moved and self.kept >= KEPT


def followed(shown: Sequence[Sequence[Thing]], wanted: AskedMotion) -> Followed:
    """What the objects of every frame ``shown`` make of what is ``wanted``, in the order that fits
    best. The size of what is asked to grow or shrink is that of the first frame."""
    places = range(len(wanted.things))
    links = linked(shown, len(places))
    if not links:
        return Followed(kept=0.0, moved=False)
    tracks = [{frame: things[place] for frame, things in links.items()} for place in places]
    orders = itertools.permutations(tracks)
    judged = [_judged(order, wanted, len(shown)) for order in orders]
    return max(judged, key=lambda each: (each.met, each.kept, each.moved))


def linked(shown: Sequence[Sequence[Thing]], count: int) -> dict[int, tuple[Thing, ...]]:
    """The objects of every frame that has ``count`` of them, in the same order in all frames: each
    follows one of its colour and shape, the nearest where there are several."""
    out: dict[int, tuple[Thing, ...]] = {}
    before: tuple[Thing, ...] = ()
    for frame, things in enumerate(shown):
        if len(things) == count:
            orders = itertools.permutations(things)
            before = min(orders, key=lambda order: _change(before, order))
            out[frame] = before
    return out


def _change(before: Sequence[Thing], after: Sequence[Thing]) -> tuple[int, float]:
    pairs = list(zip(before, after, strict=False))
    others = sum((a.shape, a.colour) != (b.shape, b.colour) for a, b in pairs)
    return others, sum(math.hypot(a.x - b.x, a.y - b.y) for a, b in pairs)


def _judged(tracks: Sequence[Track], wanted: AskedMotion, frames: int) -> Followed:
    """How ``tracks`` meet what is ``wanted``, each at its place."""
    kept = set(tracks[0])
    for track, want, motion in zip(tracks, wanted.things, wanted.motions, strict=True):
        sized = motion not in ("grows", "shrinks")
        looks = {
            frame: (thing.shape, thing.colour, thing.size if sized else "")
            for frame, thing in track.items()
        }
        usual = Counter(looks.values()).most_common(1)[0][0]
        looked_for = want if sized else dataclasses.replace(want, size=None)
        kept &= {
            frame
            for frame, thing in track.items()
            if looked_for.is_met(thing) and looks[frame] == usual
        }
    moved = len(kept) > 1 and all(
        _moves({frame: track[frame] for frame in kept}, want, motion)
        for track, want, motion in zip(tracks, wanted.things, wanted.motions, strict=True)
    )
    return Followed(kept=len(kept) / frames, moved=moved)


def _moves(track: Track, want: Wanted, motion: str | None) -> bool:
    """Whether an object moves by ``motion``; and has the size wanted at first, where it changes."""
    if motion is None:
        return True
    fit = fitted(track)
    changes = motion in ("grows", "shrinks") and want.size is not None
    return fit.motion == motion and (not changes or nearest_size(fit.radius) == want.size)


@dataclasses.dataclass(frozen=True, kw_only=True)
class Fit:
    """The constant motion that is nearest to a track, by least squares.

    Attributes:
        x, y: how far it goes to the right and down, in pixels, from its first frame to its last.
        radius, growth: the radius in its first frame, and the logarithm of its ratio to the last.
        wobble, uneven: what remains (root mean square) of its centres in pixels, and of its radii
            as a share of their mean.
    """

    x: float
    y: float
    radius: float
    growth: float
    wobble: float
    uneven: float

    @property
    def motion(self) -> str | None:
        """One of :data:`hasten.data.shapes.motion.MOTIONS`; None where it is none of them: along no
        axis, moving and growing at once, or not constant."""
        along, aside = max(abs(self.x), abs(self.y)), min(abs(self.x), abs(self.y))
        moves, grows = along >= MOVED, abs(self.growth) >= GROWN
        if self.wobble > WOBBLE or self.uneven > UNEVEN or (moves and (grows or aside > along / 2)):
            return None
        if grows:
            return "grows" if self.growth > 0 else "shrinks"
        if not moves:
            return "still"
        if abs(self.x) > abs(self.y):
            return "right" if self.x > 0 else "left"
        return "down" if self.y > 0 else "up"


def fitted(track: Track) -> Fit:
    """The constant motion that is nearest to ``track``, of two frames or more."""
    frames = np.array(sorted(track), float)
    values = np.array([[track[f].x, track[f].y, track[f].radius] for f in sorted(track)])
    slope, start = np.polyfit(frames - frames[0], values, 1)
    rest = values - start - (frames - frames[0])[:, None] * slope
    change = slope * (frames[-1] - frames[0])
    radii = max(start[2], 1e-3), max(start[2] + change[2], 1e-3)
    return Fit(
        x=float(change[0]),
        y=float(change[1]),
        radius=float(radii[0]),
        growth=math.log(radii[1] / radii[0]),
        wobble=float(np.sqrt(np.square(rest[:, :2]).sum(1).mean())),
        uneven=float(np.sqrt(np.square(rest[:, 2]).mean()) / values[:, 2].mean()),
    )
