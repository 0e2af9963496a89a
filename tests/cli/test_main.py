"""Exit statuses, help and completion of ``hasten`` as a whole."""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from hasten.adapters.folder import save_folder

FAST = "solver=ddim,steps=2"
VERBS = (
    "info",
    "sample",
    "measure",
    "tune",
    "train",
    "learn",
    "export",
    "serve",
    "generate",
    "push",
    "pull",
)
LEARN = ("program", "grid", "start", "student", "cache", "freeze", "quantize", "prune", "narrow")


@pytest.mark.parametrize("arguments", [["--help"], ["learn", "--help"], ["sample", "--help"]])
def test_help_comes_without_torch(arguments):
    code = "import sys; from hasten.cli import _status\n"
    code += f"_status({arguments}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)


@pytest.mark.parametrize("verb", VERBS)
def test_help_lists_every_verb(run, verb):
    status, said, _ = run("--help")
    assert status == 0
    assert f" {verb} " in said


@pytest.mark.parametrize(
    "verb", [*([verb] for verb in VERBS), *(["learn", verb] for verb in LEARN)], ids=" ".join
)
def test_every_option_of_a_verb_says_what_it_is(run, verb):
    import hasten.cli

    status, said, _ = run(*verb, "--help")
    assert status == 0
    assert len(said.splitlines()) > 5
    app = hasten.cli.app
    for name in verb:
        app = app[name]
    if verb == ["learn"]:
        return
    for argument in app.assemble_argument_collection(parse_docstring=True):
        if argument.children:  # several options that verbs share, one by one below
            continue
        help_text = argument.parameter.help
        assert help_text, f"{' '.join(verb)}: {argument.name} has no help"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish", "powershell"])
def test_completion_for_a_shell_knows_every_verb(run, tmp_path, shell):
    file = tmp_path / "completion"
    status, said, _ = run("--install-completion", "--shell", shell, "--out", file)
    assert status == 0
    assert str(file) in said
    script = file.read_text()
    assert all(verb in script for verb in (*VERBS, *LEARN))


def test_completion_that_cannot_be_written_is_one_line(run):
    target = Path("/proc/hasten/completion")
    status, _, err = run("--install-completion", "--shell", "bash", "--out", target)
    assert status == 2
    assert "cannot be written" in err
    assert err.count("\n") == 1


def test_a_folder_that_cannot_be_written_is_named(run, folder):
    target = Path("/proc/hasten")  # no one may write there, not even root
    status, _, err = run("sample", folder, "--plan", FAST, "--n", 1, "--out", target)
    assert status == 2
    assert "/proc/hasten" in err


def test_a_weight_that_is_nan_stops_before_anything_is_written(run, tiny_model, tmp_path):
    model = tiny_model()
    next(iter(model.net.parameters())).data[0] = float("nan")
    save_folder(model, tmp_path / "model")
    status, _, err = run("sample", tmp_path / "model", "--out", tmp_path / "out")
    assert status == 2
    assert "finite" in err
    assert not (tmp_path / "out").exists()


def test_our_own_faults_are_one_line_and_status_one(run, monkeypatch, folder):
    import hasten.sampling

    def broken(*_: object) -> None:
        raise RuntimeError("the moon\nis full")

    monkeypatch.setattr(hasten.sampling, "build", broken)
    status, _, err = run("sample", folder)
    assert status == 1
    assert "the moon is full" in err
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    "arguments",
    [
        ("sample", "--plan", FAST, "--n", 1),
        ("tune", "--minutes", 1, "--quiet"),
    ],
    ids=["sample", "tune"],
)
def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    run, folder, tmp_path, monkeypatch, arguments
):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    verb, *options = arguments
    status, said, err = run(verb, folder, *options, "--out", out)
    assert status == 2
    assert "No space left on device" in err
    assert err.count("\n") == 1
    assert not said
    names = [file.name for file in out.iterdir()] if out.exists() else []
    assert names in ([], ["trials.jsonl"])  # a journal is appended to, never replaced
    shutil.rmtree(out, ignore_errors=True)
