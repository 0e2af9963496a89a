"""``hasten info``."""

from __future__ import annotations

import json
from typing import Annotated

from hasten.cli.options import NOTHING, Json, Parameter, Request, model_of


def info(
    model: Annotated[
        str | None, Parameter(help="builtin:NAME, a diffusers folder, or a hub id.")
    ] = None,
    *,
    request: Request = NOTHING,
    json_: Json = False,
) -> None:
    """Show this machine and its engines, and a model if one is named."""
    from hasten.measuring.describe import described, this_machine

    facts = this_machine()
    if model is not None:
        facts["model"] = described(model_of(model, request))
    if json_:
        print(json.dumps(facts, indent=1))
        return
    for title, body in facts.items():
        print(title)
        for key, value in body.items():
            if not isinstance(value, dict):
                print(f"  {key}: {value}")
                continue
            print(f"  {key}:")
            for name, what in value.items():
                print(f"    {name}: {what}")
