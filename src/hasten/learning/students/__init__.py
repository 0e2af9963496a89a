"""Objectives that make few-step students: one file each, its import here is its registration."""

from hasten.learning.students import (
    consistency,
    continuous_consistency,
    direct,
    easy_consistency,
    imitation,
    improved_consistency,
    matching,
    progressive,
    reflow,
    shortcut,
    trajectory,
)

__all__ = [
    "consistency",
    "continuous_consistency",
    "direct",
    "easy_consistency",
    "imitation",
    "improved_consistency",
    "matching",
    "progressive",
    "reflow",
    "shortcut",
    "trajectory",
]
