"""The two pictures of README: ``python -m benchmarks.before_after``.

Ten digits by the published sampler and by the plan of the table ``headline``, seed 0, not selected.
"""

from __future__ import annotations

from pathlib import Path

import hasten
from benchmarks.results_io import read
from hasten.media.pictures import grid, save_png

IMAGES = Path(__file__).parents[1] / "docs" / "images"
PUBLISHED = "solver=ddpm,grid=uniform(spacing='leading'),steps=1000"


def main() -> None:
    """Write docs/images/before.png and after.png."""
    model = hasten.load("builtin:mnist")
    row = next(row for row in read("training_free")["rows"] if row["batch"] == 1)
    for name, plan in (("before", PUBLISHED), ("after", row["plan"])):
        pictures = hasten.build(model, plan).sample(10, seed=0, condition=list(range(10)))
        facts = {"model": model.name, "sha256": model.sha256, "seed": 0, "plan": plan}
        save_png(grid(pictures, 10), IMAGES / f"{name}.png", facts, 3)


if __name__ == "__main__":
    main()
