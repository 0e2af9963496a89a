"""Objectives that make few-step students: one file each, its import here is its registration."""

from hasten.learning.students import (
    consistency,
    continuous_consistency,
    direct,
    dmd,
    easy_consistency,
    improved_consistency,
    knowledge_distillation,
    progressive,
    reflow,
    shortcut,
    trajectory,
)

__all__ = [
    "consistency",
    "continuous_consistency",
    "direct",
    "dmd",
    "easy_consistency",
    "improved_consistency",
    "knowledge_distillation",
    "progressive",
    "reflow",
    "shortcut",
    "trajectory",
]
