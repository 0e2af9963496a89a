"""Whole numbers on the command line: 1.5 is refused, where cyclopts would round it."""

from __future__ import annotations

import typing
from collections.abc import Sequence

import cyclopts


def _whole(hint: typing.Any, tokens: Sequence[cyclopts.Token]) -> typing.Any:
    kinds = {hint, *typing.get_args(hint)}
    text = tokens[0].value if tokens else ""
    if int in kinds and not kinds & {str, float} and "." in text:
        try:
            is_whole = float(text).is_integer()
        except ValueError:
            is_whole = False
        if not is_whole:
            raise ValueError(f"{text} is not a whole number.")
    return cyclopts.convert(hint, tokens)


WHOLE = cyclopts.Parameter(converter=_whole)
