"""Runs a verb in this process, and the small model that most verbs are run on."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from hasten.adapters.folder import save_folder
from hasten.cli import _status

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys) -> Run:
    """``run("sample", folder, "--n", 2)`` gives the exit status, stdout and stderr."""

    def verb(*arguments: object) -> tuple[int, str, str]:
        status = _status([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        return status, out, err

    return verb


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    """A tiny model of three classes in a folder."""
    save_folder(tiny_model(labels=3), tmp_path / "model")
    return tmp_path / "model"
