"""An edit of a key frame, carried over to the frames after it.

Each part of a picture that the edit changed moves as what it was changed from moves: by a
translation and a growth that are found by matching the source's pixels (weighted sums of squared
differences, as in Lucas & Kanade 1981), to a fraction of a pixel. Where nothing was changed a frame
stays as it is, so what stands still cannot flicker. For a camera that stands still.
"""

from __future__ import annotations

import dataclasses

import torch
import torch.nn.functional as F

from hasten.core.connected import connected

CHANGED = 0.05  # of pixels from 0 to 1: a larger change belongs to an edit
REACH = 4  # pixels that a part may have moved beyond where it was expected
MARGIN = 2  # pixels around a part whose source is matched too
SCALES = (1.0, 0.97, 1.03, 0.94, 1.06, 0.91, 1.09)  # of a part from one frame to the next
SMALLEST = 6  # pixels of a part
ALIKE = 0.1  # root mean square difference of a part from its source that is still the same thing


@dataclasses.dataclass(frozen=True)
class Place:
    """Where a part is now: its shift to the right and down in pixels, and its scale."""

    x: float = 0.0
    y: float = 0.0
    scale: float = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Part:
    """A connected region that an edit changed: ``mask`` (1, 1, h, w) from 0 to 1, and its centre in
    pixels from the left and from the top."""

    mask: torch.Tensor
    x: float
    y: float


class Carrier:
    """Carries the edit of one key frame over to the frames after it, in their order.

    Args:
        source, edited: the key frame (c, h, w) in [0, 1] and its edit.
    """

    def __init__(self, source: torch.Tensor, edited: torch.Tensor) -> None:
        self.source, self.edited = source[None].float(), edited[None].float()
        self.parts = parts_of((self.edited - self.source).abs().amax(1, keepdim=True))
        self._places = [Place()] * len(self.parts)
        self._speeds = [(0.0, 0.0)] * len(self.parts)

    def __call__(self, frame: torch.Tensor) -> torch.Tensor | None:
        """The edit of ``frame`` (c, h, w); None where what was changed is not found in it."""
        here = frame[None].float()
        out = here
        for number, part in enumerate(self.parts):
            place, apart = self._found(part, here, self._places[number], self._speeds[number])
            if apart > ALIKE:
                return None
            before = self._places[number]
            self._speeds[number] = (place.x - before.x, place.y - before.y)
            self._places[number] = place
            moved = moved_by(torch.cat([self.edited, part.mask], 1), part, place)
            content, mask = moved[:, :-1], moved[:, -1:]
            out = torch.lerp(out, content, mask)
        return out[0].clamp(0, 1)

    def _found(
        self, part: Part, frame: torch.Tensor, last: Place, speed: tuple[float, float]
    ) -> tuple[Place, float]:
        """Where the source of ``part`` is in ``frame``, and how far it is from looking the same."""
        weight = _wide(part.mask, MARGIN)
        best: tuple[float, Place] | None = None
        for scale in (last.scale * step for step in SCALES):
            expected = Place(last.x + speed[0], last.y + speed[1], scale)
            whole = Place(float(round(expected.x)), float(round(expected.y)), scale)
            moved = moved_by(torch.cat([self.source, weight], 1), part, whole)
            errors = _errors(moved[:, :-1], moved[:, -1:], frame)
            error, x, y = _lowest(errors)
            if best is None or error < 0.98 * best[0]:  # a scale has to be clearly better
                best = error, Place(whole.x + x, whole.y + y, scale)
        assert best is not None
        return best[1], best[0] ** 0.5


def parts_of(change: torch.Tensor) -> list[Part]:
    """The connected regions of ``change`` (1, 1, h, w) that are above :data:`CHANGED`."""
    seen = F.max_pool2d((change > CHANGED).float(), 3, 1, 1)  # with their soft edges
    height, width = seen.shape[-2:]
    labels = torch.from_numpy(connected(seen[0].bool().numpy()))
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    out = []
    for label in filter(None, labels.unique().tolist()):
        mask = (labels == label).float()[None]
        if mask.sum() < SMALLEST:
            continue
        total = mask.sum()
        x, y = (mask * across).sum() / total, (mask * down).sum() / total
        soft = F.avg_pool2d(mask, 3, 1, 1, count_include_pad=False)
        out.append(
            Part(mask=torch.minimum(mask, 2 * soft - 0.5).clamp(0, 1), x=float(x), y=float(y))
        )
    return out


def moved_by(planes: torch.Tensor, part: Part, place: Place) -> torch.Tensor:
    """``planes`` (1, c, h, w), shifted and scaled about the centre of ``part``; bilinear, 0 beyond
    the picture's edge."""
    height, width = planes.shape[-2:]
    down, across = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    x = (across - part.x - place.x) / place.scale + part.x
    y = (down - part.y - place.y) / place.scale + part.y
    where = torch.stack([2 * x / (width - 1) - 1, 2 * y / (height - 1) - 1], dim=-1)
    return F.grid_sample(planes, where[None].to(planes), align_corners=True)


def _wide(mask: torch.Tensor, pixels: int = MARGIN) -> torch.Tensor:
    return F.max_pool2d(mask, 2 * pixels + 1, 1, pixels)


def _errors(wanted: torch.Tensor, weight: torch.Tensor, frame: torch.Tensor) -> torch.Tensor:
    """Weighted mean squared differences of ``wanted`` (1, c, h, w) from ``frame`` shifted by -REACH
    to REACH pixels, (2 REACH + 1, 2 REACH + 1): rows down, columns to the right."""
    total = weight.sum().clamp(min=1e-6) * wanted.shape[1]
    around = F.pad(frame, [REACH] * 4, mode="replicate")
    cross = F.conv2d(around, wanted * weight)
    squares = F.conv2d(around.square(), weight.expand_as(wanted))
    own = (wanted.square() * weight).sum()
    return ((own - 2 * cross + squares)[0, 0] / total).clamp(min=0)


def _lowest(errors: torch.Tensor) -> tuple[float, float, float]:
    """The least of ``errors``, and its shift to the right and down to a fraction of a pixel: the
    lowest point of parabolas through its neighbours."""
    row, column = divmod(int(errors.argmin()), errors.shape[1])

    def between(before: float, here: float, after: float) -> float:
        bend = before - 2 * here + after
        return 0.0 if bend <= 0 else max(-0.5, min(0.5, 0.5 * (before - after) / bend))

    least, x, y = float(errors[row, column]), float(column - REACH), float(row - REACH)
    if 0 < column < errors.shape[1] - 1:
        x += between(float(errors[row, column - 1]), least, float(errors[row, column + 1]))
    if 0 < row < errors.shape[0] - 1:
        y += between(float(errors[row - 1, column]), least, float(errors[row + 1, column]))
    return least, x, y
