"""Run every benchmark: ``python -m benchmarks.run [NAME ...]``, on an idle machine."""

from __future__ import annotations

import importlib
import sys

ALL = (
    "overhead",
    "right",
    "training",
    "plans",
    "agreement",
    "programs",
    "early_stop",
    "parallel",
    "reuse",
)

if __name__ == "__main__":
    for name in sys.argv[1:] or ALL:
        importlib.import_module(f"benchmarks.{name}").main()
