"""Measurements in a process of their own."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from tuning_fakes import gaussian_model

import hasten
from hasten.adapters.folder import save_folder
from hasten.core.model import Model
from hasten.core.plan import Plan
from hasten.tuning.requests import TimeAlone, TimeNetworkCall
from hasten.tuning.trials import TrialExecutor
from hasten.tuning.worker import InProcess, WorkerProcess

LONG = 600.0  # seconds; no test waits for it
ENDLESS = TimeAlone(plan=Plan(steps=9999, solver="ddim"), batch=64, seconds=99.0, repetition=0)
QUICK = TimeNetworkCall(plan=Plan(), batch=1)


@pytest.fixture
def on_disk(tiny_model, tmp_path) -> Model:
    save_folder(tiny_model(labels=3), tmp_path / "model")
    return hasten.load(tmp_path / "model")


@pytest.mark.slow
def test_a_killed_trial_costs_one_trial(on_disk, tmp_path):
    worker = WorkerProcess(TrialExecutor(model=on_disk, folder=tmp_path))
    try:
        first = worker.run(QUICK, LONG)
        assert first.answer is not None
        assert first.answer.relative_error == 0
        process = worker.process_id
        assert process is not None
        threading.Timer(0.5, os.kill, (process, signal.SIGKILL)).start()
        assert worker.run(ENDLESS, LONG).failure == "its process was killed (SIGKILL)"
        again = worker.run(QUICK, LONG)
        assert again.answer is not None
        assert worker.process_id != process
        late = worker.run(ENDLESS, 0.0)
        assert (late.failure, late.timed_out) == ("took longer than 0 s", True)
        refused = worker.run(TimeNetworkCall(plan=Plan(levers="blocks"), batch=1), LONG)
        assert refused.answer is None
        assert "blocks" in refused.failure
        assert not refused.timed_out
    finally:
        worker.close()


@pytest.mark.slow
def test_weights_that_changed_on_the_disk_are_refused(on_disk, tiny_model):
    worker = WorkerProcess(TrialExecutor(model=on_disk))
    save_folder(tiny_model(labels=2), on_disk.folder)
    with pytest.raises(hasten.UserError, match=r"could not be started \(.*\); see `hasten info`"):
        worker.start()
    assert worker.process_id is None


def test_any_error_in_this_process_is_a_failure():
    executor = TrialExecutor(model=gaussian_model())

    def broken(request):
        raise RuntimeError("out of\n memory")

    executor.answer = broken  # type: ignore[method-assign]
    outcome = InProcess(executor).run(QUICK, LONG)
    assert (outcome.answer, outcome.failure) == (None, "RuntimeError: out of memory")


@pytest.mark.slow
def test_a_worker_leaves_when_its_parent_is_killed(on_disk):
    code = (
        "import sys, hasten\n"
        "from hasten.tuning.worker import WorkerProcess\n"
        "from hasten.tuning.trials import TrialExecutor\n"
        "worker = WorkerProcess(TrialExecutor(model=hasten.load(sys.argv[1])))\nworker.start()\n"
        "print(worker.process_id, flush=True)\nimport time; time.sleep(999)\n"
    )
    command = [sys.executable, "-c", code, str(on_disk.folder)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        worker = int(parent.stdout.readline())
        parent.kill()
    while _runs(worker):  # pytest's own timeout ends the test where it stays
        time.sleep(0.05)


def _runs(process: int) -> bool:
    try:
        status = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
    except OSError:
        return False
    return status != "Z"
