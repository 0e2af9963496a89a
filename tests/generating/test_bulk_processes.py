"""Bulk generation in several processes, and one that is killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
from bulk_reading import TWO, contents_of, files_of, whole

from hasten.core.errors import HastenError, UserError
from hasten.generating import generate
from hasten.generating.job import Job
from hasten.generating.pools import Processes

OPTIONS = {"plan": TWO, "n": 13, "shard": 4, "batch": 3, "threads": 1, "format": "tar"}


@pytest.mark.slow
def test_two_processes_give_the_bytes_of_one(tmp_path):
    for image in ("latents", "png"):
        one, two = tmp_path / f"{image}-1", tmp_path / f"{image}-2"
        generate("builtin:mnist", one, image=image, **OPTIONS)
        assert generate("builtin:mnist", two, image=image, workers=2, **OPTIONS).made == 13
        assert whole(two, 13)
        assert files_of(one) == files_of(two)


@pytest.mark.slow
def test_the_error_of_another_process_is_raised_here(folder, tmp_path):
    with pytest.raises(UserError, match="takes no prompts; drop them"):
        generate(folder, tmp_path / "a", workers=2, prompts=["a cat"], **OPTIONS)


@pytest.mark.slow
def test_when_the_last_process_dies_the_line_says_how(folder, tmp_path):
    job = Job(model=str(folder), out=str(tmp_path / "a"), n=40, shard=20, batch=1)
    pool = Processes(job, 1)
    with pytest.raises(HastenError, match=r"a process for shards has ended \(SIGKILL\)"):
        list(pool.run([0, 1], lambda *_: pool._workers[0].kill()))
    pool.close()


@pytest.mark.slow
@pytest.mark.parametrize("workers", [1, 2])
def test_killed_at_any_moment_every_item_is_there_once_after_resuming(tmp_path, workers):
    asked = ["builtin:mnist", "--plan", TWO, "--n", "40", "--shard", "4", "--batch", "2"]
    asked += ["--threads", "1", "--format", "tar", "--quiet"]
    command = [sys.executable, "-m", "hasten", "generate", *asked, "--workers", str(workers)]
    out = tmp_path / "killed"
    process = subprocess.Popen([*command, "--out", str(out)])
    while process.poll() is None and not list(out.glob("shard-*.jsonl")):
        time.sleep(0.01)
    if process.poll() is None:
        os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert set(contents_of(out)) <= set(range(40))
    options = {"plan": TWO, "n": 40, "shard": 4, "batch": 2, "threads": 1, "format": "tar"}
    generate("builtin:mnist", out, **options)
    assert whole(out, 40)
    generate("builtin:mnist", tmp_path / "whole", **options)
    assert files_of(out) == files_of(tmp_path / "whole")
