"""Where benchmark results lie, and what each of them must say."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from hasten.measuring.conditions import conditions

FOLDER = Path(__file__).parent / "results"


def write(name: str, what: str, rows: list[dict[str, Any]], device: str = "cpu") -> None:
    """``results/NAME.json``: the rows, in words what they are, and the conditions."""
    body = {
        "what": what,
        "date": datetime.now(UTC).date().isoformat(),
        "conditions": conditions(device),
        "rows": rows,
    }
    FOLDER.mkdir(exist_ok=True)
    (FOLDER / f"{name}.json").write_text(json.dumps(body, indent=1) + "\n", encoding="utf-8")
    print(f"{name}: {what}")
    for row in rows:
        print("  ", row)


def read(name: str) -> dict[str, Any]:
    """A result as :func:`write` left it."""
    return json.loads((FOLDER / f"{name}.json").read_text(encoding="utf-8"))


def exists(name: str) -> bool:
    """Whether there is such a result."""
    return (FOLDER / f"{name}.json").is_file()
