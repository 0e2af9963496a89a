"""Symbolic latents: what a walk computes with while it is traced."""

from __future__ import annotations

import math
import numbers
from typing import NoReturn

from hasten.core.errors import TracingError


class Linear:
    """A linear combination of registers, ``{"x": 0.99, "d0": 0.01}``.

    Sums, differences, and products with numbers give new combinations; anything else a walk does to
    a latent cannot be in a Program and raises :class:`TracingError`.
    """

    __slots__ = ("terms",)

    def __init__(self, terms: dict[str, float]) -> None:
        self.terms = terms

    def become_(self, register: str) -> None:
        """Stand for ``register`` from now on: it was given that name in the Program."""
        self.terms = {register: 1.0}

    def __add__(self, other: object) -> Linear:
        if isinstance(other, numbers.Real) and other == 0:  # sum() starts from 0
            return self
        if not isinstance(other, Linear):
            raise _not_linear(f"adding {type(other).__name__}")
        terms = dict(self.terms)
        for name, coefficient in other.terms.items():
            terms[name] = terms.get(name, 0.0) + coefficient
        return Linear(terms)

    __radd__ = __add__

    def __mul__(self, factor: object) -> Linear:
        if not isinstance(factor, numbers.Real):
            raise _not_linear(f"multiplying with {type(factor).__name__}")
        if not math.isfinite(factor):
            raise TracingError(
                f"a coefficient became {factor}: two levels of the grid coincide, or the solver "
                "divides by a level without signal or noise. Use another grid."
            )
        value = float(factor)
        return Linear({name: value * coefficient for name, coefficient in self.terms.items()})

    __rmul__ = __mul__

    def __truediv__(self, divisor: object) -> Linear:
        if isinstance(divisor, numbers.Real) and divisor == 0:
            return self * math.inf
        return self * (1.0 / divisor) if isinstance(divisor, numbers.Real) else self * divisor

    def __neg__(self) -> Linear:
        return self * -1.0

    def __sub__(self, other: Linear | float) -> Linear:
        return self + (-other)

    def __rsub__(self, other: float) -> Linear:
        return other + (-self)

    def __getattr__(self, name: str) -> NoReturn:
        raise _not_linear(f"using .{name}")

    def __bool__(self) -> bool:
        raise _not_linear("branching on its value")

    def __array__(self, *_: object, **__: object) -> NoReturn:
        raise _not_linear("turning it into an array")

    __array_ufunc__ = None  # so that numpy numbers leave products to __rmul__


def _not_linear(what: str) -> TracingError:
    return TracingError(
        f"this walk is not linear in its latents ({what}), so it has no Program. Ask for the "
        "operation (Clip, Scatter), or run the walk itself with the sequential executor."
    )
