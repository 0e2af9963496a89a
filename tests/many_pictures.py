"""A folder of pictures of many sizes and modes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image


def many_pictures(place: Path) -> Path:
    """Eighty pictures of two classes in ``place``, and files that are no pictures."""
    rng = np.random.default_rng(0)
    modes = ("RGB", "L", "P", "RGBA", "CMYK", "1", "LA")
    for index in range(80):
        size = tuple(int(side) for side in rng.integers(9, 40, 2))
        image = Image.fromarray(rng.integers(0, 255, (*size, 3), dtype=np.uint8))
        mode = modes[index % len(modes)]
        inner = place / ("cats" if index % 2 else "do[g]s")
        inner.mkdir(exist_ok=True)
        suffix = "tiff" if mode == "CMYK" else "PNG" if index % 3 else "png"
        image.convert(mode).save(inner / f"test-{index:02d}.{suffix}")
    (place / "notes.txt").write_text("no picture")
    (place / ".hidden.png").write_text("no picture")
    (place / ".cache").mkdir()
    (place / ".cache" / "broken.png").write_text("no picture")
    return place
