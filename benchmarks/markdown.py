"""Tables as the documents show them."""

from __future__ import annotations

from typing import Any


def markdown(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A GitHub table: the first column and columns of plans to the left, numbers to the right."""
    left = [not number or any("`" in row[number] for row in rows) for number in range(len(head))]
    line = "|".join(":--" if text else "--:" for text in left)
    body = [f"| {' | '.join(row)} |" for row in (head, *rows)]
    return "\n".join([body[0], f"|{line}|", *body[1:]]) + "\n"


def where(result: dict[str, Any]) -> str:
    """The conditions, in one line below a table."""
    facts = result["conditions"]
    return (
        f"\n{result['date']}; {facts['device']}, {facts['threads']} threads, {facts['dtype']}, "
        f"torch {facts['torch']}, diffusers {facts['diffusers']}.\n"
    )
