"""An export as a contender of benchmarks/ahead.py: ``python -m benchmarks.exported FOLDER``.

The export's own runner in a process that has neither torch nor hasten. A line in is a picture, a
line out its seconds and the most megabytes that the process has held.
"""

from __future__ import annotations

import importlib.util
import sys
import time
from pathlib import Path


def peak_mb() -> float:
    """The largest resident size of this process."""
    lines = Path("/proc/self/status").read_text(encoding="ascii").splitlines()
    return int(next(line for line in lines if line.startswith("VmHWM:")).split()[1]) * 1024 / 1e6


def main(folder: Path) -> None:
    spec = importlib.util.spec_from_file_location("run", folder / "run.py")
    assert spec is not None
    assert spec.loader is not None
    run = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(run)
    start = run.network("start") if run.BUNDLE["start"] else None
    net = run.network()
    for seed, _ in enumerate(sys.stdin):
        began = time.perf_counter()
        run.sample(net, seed, seed % 10, start=start)
        print(time.perf_counter() - began, peak_mb(), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
