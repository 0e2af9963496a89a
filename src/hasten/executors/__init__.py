"""In what order a Program's questions are answered."""

from hasten.executors.sequential import Sequential

__all__ = ["Sequential"]
