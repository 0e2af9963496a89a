"""In what order a Program's questions are answered."""

from hasten.executors.anderson import Anderson
from hasten.executors.deadline import Deadline
from hasten.executors.early_exit import EarlyExit
from hasten.executors.parareal import Parareal
from hasten.executors.picard import Picard
from hasten.executors.sequential import Sequential

__all__ = ["Anderson", "Deadline", "EarlyExit", "Parareal", "Picard", "Sequential"]
