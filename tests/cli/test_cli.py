"""The command line: exit statuses, one-line errors, nothing half written."""

from __future__ import annotations

import errno
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image

from hasten.adapters.folder import save_folder
from hasten.cli import _status

RECIPES = Path(__file__).parents[2] / "recipes"
FAST = "solver=ddim,steps=2"


@pytest.fixture
def folder(tiny_model, tmp_path) -> Path:
    save_folder(tiny_model(labels=3), tmp_path / "model")
    return tmp_path / "model"


def run(capsys, *arguments: object) -> tuple[int, str, str]:
    status = _status([str(argument) for argument in arguments])
    out, err = capsys.readouterr()
    return status, out, err


def test_help_comes_without_torch():
    code = "import sys; sys.argv=['hasten','--help']\nfrom hasten.cli import _status\n"
    code += "_status(['--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    for verb in ("info", "sample", "measure", "train", "tune"):
        assert verb in done.stdout


def test_sample_writes_a_grid_single_files_and_a_gif(capsys, tmp_path):
    out = tmp_path / "out"
    asked = ("--plan", FAST, "--n", 3, "--out", out, "--gif", "--seed", 4)
    status, said, _ = run(capsys, "sample", "builtin:mnist", *asked)
    assert status == 0
    assert "denoising.gif" in said
    names = sorted(file.name for file in out.iterdir())
    assert names == ["00000.png", "00001.png", "00002.png", "denoising.gif", "grid.png"]
    with Image.open(out / "00001.png") as picture:
        assert picture.size == (28, 28)
        assert picture.info["hasten:seed"] == "4"
    with Image.open(out / "denoising.gif") as gif:
        assert gif.n_frames >= 2


def test_sampling_again_gives_the_same_files(capsys, folder, tmp_path):
    for name in ("a", "b"):
        run(capsys, "sample", folder, "--plan", FAST, "--n", 2, "--out", tmp_path / name)
    for file in (tmp_path / "a").iterdir():
        assert file.read_bytes() == (tmp_path / "b" / file.name).read_bytes()


def test_measure_prints_one_json_object_a_plan(capsys, folder):
    status, out, _ = run(
        capsys,
        *("measure", folder, "--plan", FAST, "--plan", "solver=ddpm,grid=uniform,steps=3"),
        *("--json", "--n", 4, "--batch", 4, "--seconds", 0),
    )
    assert status == 0
    first, second = (json.loads(line) for line in out.splitlines())
    expected = {
        *("plan", "key", "evaluations", "rounds", "latency_ms", "throughput", "ode_error"),
        *("peak_mb", "weights_mb", "conditions"),
    }
    assert expected <= set(first)
    assert first["evaluations"] == first["rounds"] == 2
    assert first["ode_error"]["n"] == 4
    assert second["ode_error"] is None
    assert {"median", "p90", "n"} <= set(first["latency_ms"])
    assert {"device", "dtype", "threads", "torch"} <= set(first["conditions"])


def test_info_describes_machine_and_model(capsys, folder):
    status, out, _ = run(capsys, "info", folder, "--json")
    assert status == 0
    facts = json.loads(out)
    assert facts["model"]["labels"] == 3
    assert facts["machine"]["torch"] == torch.__version__
    assert run(capsys, "info")[0] == 0


def damaged(folder: Path, tmp_path: Path) -> None:
    """The model folder with weights cut off, with one bit flipped, and pickled."""
    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
    for name in ("truncated", "flipped", "pickled"):
        shutil.copytree(folder, tmp_path / name)
    whole = (folder / weights).read_bytes()
    (tmp_path / "truncated" / weights).write_bytes(whole[:-100])
    flipped = bytearray(whole)
    flipped[-50] ^= 1
    (tmp_path / "flipped" / weights).write_bytes(flipped)
    (tmp_path / "pickled" / weights).rename(
        tmp_path / "pickled" / "unet" / "diffusion_pytorch_model.bin"
    )
    (tmp_path / "pickled" / "manifest.json").unlink()


def table(folder: Path, tmp_path: Path) -> list[tuple[list[object], str]]:
    good = ["sample", folder, "--out", tmp_path / "out"]
    (tmp_path / "empty").mkdir()
    (tmp_path / "broken").mkdir()
    for i in range(60):
        (tmp_path / "broken" / f"{i}.png").write_bytes(b"no picture")
    damaged(folder, tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "bad.json").write_text("{")
    (tmp_path / "list.yaml").write_text("- 1")
    (tmp_path / "evil.yaml").write_text("!!python/object/apply:os.system ['true']")
    return [
        (["sampel"], "sample"),
        (["sample", "--nn", 3], "--n"),
        (["sample", folder, "--n", "x"], "--n"),
        ([*good, "--n", 0], "n is 0"),
        ([*good, "--n", -1], "n is -1"),
        ([*good, "--n", 10**9], "n is"),
        ([*good, "--seed", -1], "seed"),
        ([*good, "--seed", 2**70], "seed"),
        ([*good, "--cond", 3], "cond is 3"),
        ([*good, "--zoom", 0], "zoom"),
        ([*good, "--device", "gpu9"], "device"),
        ([*good, "--device", "cuda:77"], "device"),
        ([*good, "--plan", "solver=dimm"], "ddim"),
        ([*good, "--plan", "steps=0"], "steps"),
        ([*good, "--plan", "steps=-1"], "steps"),
        ([*good, "--plan", "steps=1000000000"], "steps"),
        ([*good, "--plan", "steps=3,steps=4"], "twice"),
        ([*good, "--plan", "speed=fast"], "speed"),
        ([*good, "--plan", "grid=given"], "given"),
        ([*good, "--plan", "grid=given(at=(1,2)),steps=2"], "fall"),
        ([*good, "--plan", "grid=given(at=(9,2)),steps=5"], "steps"),
        ([*good, "--plan", "grid=karras(rho=-1)"], "rho"),
        ([*good, "--plan", "solver=ddpm(variance='learned')"], "variance"),
        ([*good, "--plan", "clip=nan"], "clip"),
        ([*good, "--plan", "dtype=int8"], "dtype"),
        ([*good, "--plan", "executor=magic"], "executor"),
        ([*good, "--plan", tmp_path / "nowhere.json"], "nowhere.json"),
        ([*good, "--plan", tmp_path / "bad.json"], "bad.json"),
        ([*good, "--plan", tmp_path / "list.yaml"], "list.yaml"),
        ([*good, "--plan", tmp_path / "evil.yaml"], "evil.yaml"),
        ([*good, "--plan", tmp_path / "empty"], "empty"),
        (["sample", tmp_path / "empty", "--out", tmp_path / "out"], "empty"),
        (["sample", tmp_path / "file", "--out", tmp_path / "out"], "file"),
        (["sample", tmp_path / "gone", "--out", tmp_path / "out"], "gone"),
        (["sample", "builtin:nothing", "--out", tmp_path / "out"], "nothing"),
        (["sample", folder, "--plan", FAST, "--n", 1, "--out", tmp_path / "file"], "file"),
        (["measure", folder, "--n", -1], "n is -1"),
        (["measure", folder, "--seconds", -1], "seconds"),
        (["tune", folder, "--minutes", 0, "--out", tmp_path / "out"], "minutes"),
        (["tune", folder, "--minutes", "nan", "--out", tmp_path / "out"], "minutes"),
        (["tune", folder, "--max-loss", -1, "--out", tmp_path / "out"], "max_loss"),
        (["tune", folder, "--max-loss", "x", "--out", tmp_path / "out"], "--max-loss"),
        (["tune", folder, "--batch", 0, "--out", tmp_path / "out"], "batch"),
        (["tune", folder, "--seed", -1, "--out", tmp_path / "out"], "seed"),
        (["tune", folder, "--guidance", -1, "--out", tmp_path / "out"], "guidance"),
        (["tune", folder, "--data", tmp_path / "gone.parquet", "--out", tmp_path / "out"], "gone"),
        (["tune", folder, "--data", tmp_path / "empty", "--out", tmp_path / "out"], "empty"),
        (["tune", folder, "--features", "random", "--out", tmp_path / "out"], "data"),
        (["tune", folder, "--device", "cuda", "--out", tmp_path / "out"], "device"),
        (["measure", folder, "--data", tmp_path / "gone"], "gone"),
        (["measure", folder, "--data", tmp_path / "broken"], "0.png"),
        (["measure", folder, "--pictures", -1], "pictures"),
        (["measure", folder, "--batch", 0], "batch"),
        (["measure", folder, "--batch", 10**6, "--n", 0], "MB are free"),
        ([*good, "--plan", "engine=magic"], "eager"),
        ([*good, "--plan", "engine=onnxruntime,dtype=bfloat16"], "float32"),
        ([*good, "--plan", "device=cuda"], "the plan is for device 'cuda'"),
        ([*good, "--plan", "guidance=2,solver=ddpm(variance='learned')"], "variance"),
        ([*good, "--plan", "steps=2.5"], "steps"),
        ([*good, "--plan", "solver=dpmpp(order=2"], "dpmpp(order=2"),
        (["sample", tmp_path / "truncated", "--out", tmp_path / "out"], "damaged"),
        (["sample", tmp_path / "flipped", "--out", tmp_path / "out"], "damaged"),
        (["sample", tmp_path / "pickled", "--out", tmp_path / "out"], "pickle"),
        ([*good, "--plan", f"student={tmp_path / 'gone'}"], "student"),
        ([*good, "--plan", f"student={folder}"], "names no plans and no teacher"),
        ([*good, "--plan", "student=builtin:../mnist"], "student"),
        (["learn", "student", folder, "--out", tmp_path / "out"], "--data"),
        (["learn", "student", folder, "--objective", "magic", "--out", tmp_path / "out"], "magic"),
        (
            ["learn", "student", folder, "--evaluations", 0, "--out", tmp_path / "out"],
            "evaluations",
        ),
        (["learn", "student", folder, "--minutes", "nan", "--out", tmp_path / "out"], "minutes"),
        (["learn", "student", folder, "--recipe", RECIPES / "mnist.yaml"], "StudentRecipe"),
        (["learn", "student", folder, "--prompts", tmp_path / "gone.txt"], "prompts"),
        (["train", RECIPES / "mnist-student.yaml"], "hasten learn student"),
        (["train", tmp_path / "nowhere.yaml"], "nowhere.yaml"),
        (["train", tmp_path / "list.yaml"], "list.yaml"),
        (["train", tmp_path / "evil.yaml"], "evil.yaml"),
        (["info", "builtin:mnnist"], "mnist"),
        (["train", RECIPES / "mnist.yaml", "--minutes", -1], "minutes"),
        (["train", RECIPES / "mnist.yaml", "--minutes", "nan"], "minutes"),
        (["train", RECIPES / "mnist.yaml", "--test-data", tmp_path], "test"),
        (["train", RECIPES / "mnist-features.yaml", "--minutes", 1], "epochs"),
        (["train", RECIPES / "mnist-features.yaml", "--pictures", 9], "pictures"),
    ]


def test_bad_input_gives_one_line_exit_two_and_writes_nothing(
    capsys, folder, tmp_path, monkeypatch
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    rows = table(folder, tmp_path)
    assert len(rows) >= 40
    wrong = []
    for arguments, words in rows:
        status, out, err = run(capsys, *arguments)
        one_line = err.count("\n") == 1 and err.startswith("hasten: ")
        if status != 2 or not one_line or words not in err or out:
            wrong.append((arguments, status, out, err))
        if (tmp_path / "out").exists():
            wrong.append((arguments, "left files behind"))
    assert not wrong, "\n".join(map(str, wrong))


def test_a_folder_that_cannot_be_written_is_named(capsys, folder, tmp_path):
    target = Path("/proc/hasten")  # no one may write there, not even root
    status, _, err = run(capsys, "sample", folder, "--plan", FAST, "--n", 1, "--out", target)
    assert status == 2
    assert "/proc/hasten" in err


def test_a_weight_that_is_nan_stops_before_anything_is_written(capsys, tiny_model, tmp_path):
    model = tiny_model()
    next(iter(model.net.parameters())).data[0] = float("nan")
    save_folder(model, tmp_path / "model")
    status, _, err = run(capsys, "sample", tmp_path / "model", "--out", tmp_path / "out")
    assert status == 2
    assert "finite" in err
    assert not (tmp_path / "out").exists()


def test_our_own_faults_are_one_line_and_status_one(capsys, monkeypatch, folder):
    import hasten.sampling

    def broken(*_: object) -> None:
        raise RuntimeError("the moon\nis full")

    monkeypatch.setattr(hasten.sampling, "build", broken)
    status, _, err = run(capsys, "sample", folder)
    assert status == 1
    assert "the moon is full" in err
    assert err.count("\n") == 1


def test_a_full_disk_is_one_line_and_leaves_nothing_half_written(
    capsys, folder, tmp_path, monkeypatch
):
    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", full)
    out = tmp_path / "out"
    for arguments in (
        ["sample", folder, "--plan", FAST, "--n", 1],
        ["tune", folder, "--minutes", 1, "--quiet"],
    ):
        status, said, err = run(capsys, *arguments, "--out", out)
        assert status == 2
        assert "No space left on device" in err
        assert err.count("\n") == 1
        assert not said
        names = [file.name for file in out.iterdir()] if out.exists() else []
        assert names in ([], ["trials.jsonl"])  # a journal is appended to, never replaced
        shutil.rmtree(out, ignore_errors=True)
