"""No file of training or learning imports itself through others."""

from __future__ import annotations

import graphlib

import pytest

from test_layers import SOURCE, imports

ROOTS = ("training", "learning", "measuring", "data", "media")


def graph() -> dict[str, set[str]]:
    """Which files import which, imports within functions among them."""
    files = [path for root in ROOTS for path in (SOURCE / root).rglob("*.py")]
    names = {f"hasten.{'.'.join(p.relative_to(SOURCE).with_suffix('').parts)}": p for p in files}
    return {name: imports(path) & set(names) for name, path in names.items()}


def test_imports_go_one_way():
    try:
        graphlib.TopologicalSorter(graph()).prepare()
    except graphlib.CycleError as error:
        pytest.fail(f"an import circle: {' -> '.join(error.args[1])}")


def test_training_knows_no_learning():
    training = {name: seen for name, seen in graph().items() if name.startswith("hasten.training")}
    assert training
    assert not [
        name for name, seen in training.items() if any("hasten.learning" in s for s in seen)
    ]
