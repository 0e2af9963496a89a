"""Tables as the documents show them."""

from __future__ import annotations

from typing import Any


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A GitHub table, numbers to the right."""
    line = "|".join([":--"] + ["--:"] * (len(head) - 1))
    body = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([body[0], f"|{line}|", *body[1:]]) + "\n"


def where(result: dict[str, Any]) -> str:
    """The conditions, in one line below a table."""
    facts = result["conditions"]
    return (
        f"\n{result['date']}; {facts['device']}, {facts['threads']} threads, {facts['dtype']}, "
        f"torch {facts['torch']}, diffusers {facts['diffusers']}.\n"
    )
