"""Which way up a clip was filmed: its display matrix, or the older tag ``rotate``."""

from __future__ import annotations

import dataclasses
import struct
from typing import TYPE_CHECKING

import torch

from hasten.core.errors import UserError, require

if TYPE_CHECKING:
    from av import VideoFrame

DIAGONAL = 0.01  # the share of a matrix' row that may lie beside its larger entry


@dataclasses.dataclass(frozen=True, kw_only=True)
class Orientation:
    """How stored frames are brought upright: rows and columns swapped first, then mirrored."""

    swapped: bool = False
    mirrored_x: bool = False
    mirrored_y: bool = False

    def upright(self, pixels: torch.Tensor) -> torch.Tensor:
        """Pixels (..., h, w) as they are to be seen."""
        pixels = pixels.transpose(-1, -2) if self.swapped else pixels
        axes = [
            axis for axis, mirrored in ((-1, self.mirrored_x), (-2, self.mirrored_y)) if mirrored
        ]
        return pixels.flip(axes) if axes else pixels.contiguous()

    @property
    def mirrored(self) -> bool:
        """Whether frames are mirrored from left to right after they were turned."""
        return self.swapped ^ self.mirrored_x ^ self.mirrored_y

    @property
    def rotation(self) -> int:
        """By how many degrees frames are turned clockwise: 0, 90, 180 or 270."""
        return {
            (True, True, False): 90,
            (False, True, True): 180,
            (True, False, True): 270,
        }.get((self.swapped, self.mirrored_x ^ self.mirrored, self.mirrored_y), 0)


def turned(degrees: float) -> Orientation:
    """The orientation of frames that are turned clockwise.

    Raises:
        UserError: by no multiple of 90 degrees.
    """
    quarters = round(degrees / 90)
    require(
        abs(quarters * 90 - degrees) < 1,
        f"the clip is turned by {degrees:g} degrees; only multiples of 90 can be read.",
    )
    return (
        Orientation(),
        Orientation(swapped=True, mirrored_x=True),
        Orientation(mirrored_x=True, mirrored_y=True),
        Orientation(swapped=True, mirrored_y=True),
    )[quarters % 4]


def orientation_of(frame: VideoFrame, tag: str | None) -> Orientation:
    """The orientation that ``frame`` carries, else that of ``tag``: degrees clockwise, as text.

    Raises:
        UserError: it is no quarter turn.
    """
    try:
        matrix = frame.side_data.get("DISPLAYMATRIX")
    except ValueError:  # a PyAV that does not know another piece of the frame's side data
        return turned(-frame.rotation)
    if matrix is not None:
        return _of_matrix(struct.unpack("=9i", bytes(matrix)[:36]))
    try:
        return turned(float(tag or 0))
    except (ValueError, OverflowError) as error:
        if isinstance(error, UserError):
            raise
        return Orientation()


def _of_matrix(matrix: tuple[int, ...]) -> Orientation:
    """x' = a x + c y and y' = b x + d y, in 16.16 (ISO/IEC 14496-12, 6.2.2)."""
    a, b, c, d = matrix[0], matrix[1], matrix[3], matrix[4]
    straight, swapped = min(abs(a), abs(d)), min(abs(b), abs(c))
    if max(straight, swapped) == 0:  # it would show nothing; players ignore it
        return Orientation()
    beside = max(abs(b), abs(c)) if straight > swapped else max(abs(a), abs(d))
    require(
        beside <= DIAGONAL * max(straight, swapped),
        "the clip is turned or slanted by no multiple of 90 degrees; re-encode it upright.",
    )
    if straight > swapped:
        return Orientation(mirrored_x=a < 0, mirrored_y=d < 0)
    return Orientation(swapped=True, mirrored_x=c < 0, mirrored_y=b < 0)
