"""The errors hasten raises: each one line that says what was asked, what is allowed, what to do."""

from __future__ import annotations

import difflib
import math
import numbers
import reprlib
import signal
from collections.abc import Iterable


class HastenError(Exception):
    """Anything hasten refuses; the command line turns it into one line and an exit status."""

    exit_status = 1


class UserError(HastenError, ValueError):
    """The request cannot be met as asked; the message names the field and the mend."""

    exit_status = 2


class NoPlanPasses(HastenError):
    """The tuner found none whose loss is below the bar; the nearest was written."""

    exit_status = 3


class NonFiniteError(UserError):
    """A latent or picture holds NaN or infinity; the message names the step and the part."""


class TracingError(UserError):
    """A walk did something that a Program cannot hold (it was not linear in what it was given)."""


def nearest(word: str, allowed: Iterable[str]) -> str:
    """``allowed: a, b; did you mean 'a'?`` for an unknown ``word``."""
    names = sorted(allowed)
    close = difflib.get_close_matches(word, names, n=1)
    hint = f" Did you mean '{close[0]}'?" if close else ""
    return f"Allowed: {', '.join(names)}.{hint}"


def require(condition: bool, message: str) -> None:
    """Raise ``UserError(message)`` unless ``condition`` holds."""
    if not condition:
        raise UserError(message)


def require_whole(name: str, value: object, low: int, high: int) -> None:
    """Raise unless ``value`` is a whole number with ``low <= value <= high``; NumPy's will do."""
    whole = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    require(
        whole and low <= value <= high,  # type: ignore[operator]
        f"{name} is {_shown(value)}; it takes a whole number from {low} to {high}.",
    )


def require_number(name: str, value: object, low: float, high: float) -> None:
    """Raise unless ``value`` is a finite number with ``low <= value <= high``; NumPy's will do."""
    number = isinstance(value, numbers.Real) and not isinstance(value, bool)
    require(
        number and math.isfinite(value) and low <= value <= high,  # type: ignore[arg-type, operator]
        f"{name} is {_shown(value)}; it takes a number from {low:g} to {high:g}.",
    )


def require_path(name: str, value: object) -> None:
    """Raise unless ``value`` is a text that can name a file or folder."""
    require(
        isinstance(value, str) and value != "", f"{name} is {value!r}; it takes a path in quotes."
    )


def _shown(value: object) -> str:
    """``value`` within a line: a number or a text itself, anything else by its type."""
    if isinstance(value, str):
        return reprlib.repr(value)
    plain = value is None or isinstance(value, numbers.Number)
    return str(value) if plain else f"a {type(value).__name__}"


def require_choice(name: str, value: object, allowed: Iterable[str]) -> None:
    """Raise unless ``value`` is one of the words ``allowed``."""
    names = list(allowed)
    require(value in names, f"{name} is {value!r}. {nearest(str(value), names)}")


def ended_by(status: int) -> str:
    """How a process ended, from its exit status: that, or the name of the signal that killed it."""
    if status >= 0:
        return f"exit status {status}"
    try:
        return signal.Signals(-status).name
    except ValueError:
        return f"signal {-status}"
