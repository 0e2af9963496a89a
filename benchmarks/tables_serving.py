"""The tables of docs/serve.md."""

from __future__ import annotations

from benchmarks.markdown import markdown, where
from benchmarks.results_io import exists, read


def serving() -> str:
    """What continuous batching gains."""
    if not exists("serving"):
        return "Not measured yet: `python -m benchmarks.run serving`.\n"
    result = read("serving")
    rows, solo = result["rows"], result["rows"][0]["solo_s"]
    shares = list(rows[0]["seconds"])
    cells = [
        (
            row["batching"],
            f"{row['pictures_per_s']:.1f}",
            *(_pair(row["seconds"][share], solo) for share in shares),
        )
        for row in rows
    ]
    titles = ("", "pictures/s, 16 clients", *(f"at {float(share):.0%}" for share in shares))
    note = (
        f"\nMedian / 99th percentile of a request's time, in multiples of the {solo * 1000:.0f} ms "
        "that one takes alone, at shares of the highest throughput; a dash where requests would "
        f"pile up for ever. What the batcher adds to the evaluations of a full batch: "
        f"{rows[-1]['overhead']:.1%}. {result['what']}."
    )
    return markdown(titles, cells) + note + where(result)


def _pair(seconds: list[float] | None, solo: float) -> str:
    return "–" if seconds is None else f"{seconds[0] / solo:.1f} / {seconds[1] / solo:.1f}"
