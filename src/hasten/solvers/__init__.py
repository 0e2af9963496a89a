"""How to cross the levels: one file a solver; importing it is what registers it."""

from hasten.solvers.ddim import DDIM

__all__ = ["DDIM"]
