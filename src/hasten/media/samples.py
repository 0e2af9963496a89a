"""The folder of one run of samples: every file is there as soon as it is made, and none is left of
an earlier run."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from PIL import Image

from hasten.core.files import require_writable
from hasten.media.pictures import count, grid, save_gif, save_png
from hasten.media.video import save_mp4, sheet_of

SHOWN = 64  # pictures of grid.png
CLIPS = 8  # clips of frames.png
NUMBERED = re.compile(r"(\d{5,})\.(png|mp4)")
Facts = Mapping[str, object]


class SampleFolder:
    """Writes pictures (n, c, h, w) as 00000.png, 00001.png, ..., clips (n, frames, c, h, w) as
    00000.mp4, ...; then :meth:`close` writes a sheet of the first ones.

    Args:
        folder: made where it does not exist.
        facts: written into every file, with its number.
        zoom: how many times larger the sheet of pictures shows each pixel.
        fps: frames per second of clips.

    Raises:
        UserError: the folder cannot be written.
    """

    def __init__(self, folder: str | Path, facts: Facts, *, zoom: int = 1, fps: int = 16) -> None:
        self.folder, self.facts, self.zoom, self.fps = Path(folder), facts, zoom, fps
        self.n, self._first = 0, torch.empty(0)
        require_writable(self.folder / "grid.png")

    def add(self, some: torch.Tensor) -> None:
        """Write the next pictures or clips."""
        moving = some.ndim == 5
        for place, each in enumerate(some, self.n):
            if moving:
                facts = {**self.facts, "clip": place}
                save_mp4(each, self.folder / f"{place:05d}.mp4", self.fps, facts)
            else:
                facts = {**self.facts, "picture": place}
                save_png(each, self.folder / f"{place:05d}.png", facts)
        room = (CLIPS if moving else SHOWN) - self.n
        if room > 0:
            self._first = torch.cat([self._first, some[:room]]) if self.n else some[:room].clone()
        self.n += len(some)

    def close(self, frames: Sequence[torch.Tensor] | None = None) -> list[str]:
        """Write the sheet (and denoising.gif of ``frames``, which the sheet ends), and remove the
        numbered files that an earlier run left; returns what was written, in words."""
        moving = self._first.ndim == 5
        written = [count(self.n, "clip" if moving else "picture")]
        sheet = sheet_of(self._first) if moving else grid(self._first)
        name = "frames.png" if moving else "grid.png"
        save_png(sheet, self.folder / name, self.facts, 1 if moving else self.zoom)
        written.append(name)
        if frames is not None:
            save_gif([*frames, sheet], self.folder / "denoising.gif", zoom=self.zoom)
            written.append("denoising.gif")
        for file in self.folder.iterdir():
            match = NUMBERED.fullmatch(file.name)
            other = match is not None and (int(match[1]) >= self.n or (match[2] == "mp4") != moving)
            if other and _ours(file):
                file.unlink()
        return written


def save_pictures(
    pictures: torch.Tensor,
    folder: str | Path,
    facts: Facts | None = None,
    *,
    frames: Sequence[torch.Tensor] | None = None,
    zoom: int = 1,
) -> list[str]:
    """Write pictures (n, c, h, w), or clips (n, frames, c, h, w), into a :class:`SampleFolder`;
    returns what was written, in words."""
    samples = SampleFolder(folder, facts or {}, zoom=zoom)
    samples.add(pictures)
    return samples.close(frames)


def _ours(file: Path) -> bool:
    """Whether hasten wrote a picture or clip."""
    if file.suffix == ".png":
        with contextlib.suppress(OSError, ValueError, SyntaxError), Image.open(file) as image:
            return "hasten:picture" in getattr(image, "text", {})
        return False
    return b"hasten:clip" in file.read_bytes()
