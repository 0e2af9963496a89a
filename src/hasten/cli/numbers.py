"""What is read otherwise than cyclopts does: whole numbers, of which 1.5 is none, and paths, whose
~ is the home folder however they are written."""

from __future__ import annotations

import typing
from collections.abc import Sequence
from pathlib import Path

import cyclopts


def _whole(hint: object, tokens: Sequence[cyclopts.Token]) -> object:
    kinds = {hint, *typing.get_args(hint)}
    text = tokens[0].value if tokens else ""
    if int in kinds and not kinds & {str, float} and "." in text:
        try:
            is_whole = float(text).is_integer()
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError(f"{text} is not a whole number.")
    value = cyclopts.convert(hint, tokens)
    return value.expanduser() if isinstance(value, Path) else value


WHOLE = cyclopts.Parameter(converter=_whole)
