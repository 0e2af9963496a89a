"""In what order a Program's questions are answered."""

from hasten.executors.anderson import Anderson
from hasten.executors.deadline import Deadline
from hasten.executors.parareal import Parareal
from hasten.executors.picard import Picard
from hasten.executors.sequential import Sequential
from hasten.executors.settle import Settle

__all__ = ["Anderson", "Deadline", "Parareal", "Picard", "Sequential", "Settle"]
