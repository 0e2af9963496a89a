"""Wrong input: one line that names what is wrong, exit status 2, and nothing written."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

RECIPES = Path(__file__).parents[2] / "recipes"
FAST = "solver=ddim,steps=2"
GOOD = ("sample", "{folder}", "--out", "{out}")
CASES: list[tuple[list[object], str]] = [
    (["sampel"], "sample"),
    (["sample", "--nn", 3], "--n"),
    (["sample", "{folder}", "--n", "x"], "--n"),
    (["sample", "{folder}", "--n", "1.5"], "--n: 1.5 is not a whole number"),
    (["learn", "cache", "{folder}", "--n", "2.5"], "--n: 2.5 is not a whole number"),
    ([*GOOD, "--condition=--3"], "condition is '--3'"),
    ([*GOOD, "--n", 0], "n is 0"),
    ([*GOOD, "--n", -1], "n is -1"),
    ([*GOOD, "--n", 10**9], "n is"),
    ([*GOOD, "--seed", -1], "seed"),
    ([*GOOD, "--seed", 2**70], "seed"),
    ([*GOOD, "--condition", 3], "condition is 3"),
    ([*GOOD, "--zoom", 0], "zoom"),
    ([*GOOD, "--device", "gpu9"], "device"),
    ([*GOOD, "--device", "cuda:77"], "device"),
    ([*GOOD, "--plan", "solver=dimm"], "ddim"),
    ([*GOOD, "--plan", "steps=0"], "steps"),
    ([*GOOD, "--plan", "steps=-1"], "steps"),
    ([*GOOD, "--plan", "steps=1000000000"], "steps"),
    ([*GOOD, "--plan", "steps=3,steps=4"], "twice"),
    ([*GOOD, "--plan", "speed=fast"], "speed"),
    ([*GOOD, "--plan", "grid=given"], "given"),
    ([*GOOD, "--plan", "grid=given(at=(1,2)),steps=2"], "fall"),
    ([*GOOD, "--plan", "grid=given(at=(9,2)),steps=5"], "steps"),
    ([*GOOD, "--plan", "grid=karras(rho=-1)"], "rho"),
    ([*GOOD, "--plan", "solver=ddpm(variance='learned')"], "variance"),
    ([*GOOD, "--plan", "clip=nan"], "clip"),
    ([*GOOD, "--plan", "dtype=int8"], "dtype"),
    ([*GOOD, "--plan", "executor=magic"], "executor"),
    ([*GOOD, "--plan", "{files}/nowhere.json"], "nowhere.json"),
    ([*GOOD, "--plan", "{files}/bad.json"], "bad.json"),
    ([*GOOD, "--plan", "{files}/list.yaml"], "list.yaml"),
    ([*GOOD, "--plan", "{files}/evil.yaml"], "evil.yaml"),
    ([*GOOD, "--plan", "{files}/empty"], "empty"),
    (["sample", "{files}/empty", "--out", "{out}"], "empty"),
    (["sample", "{files}/file", "--out", "{out}"], "file"),
    (["sample", "{files}/gone", "--out", "{out}"], "gone"),
    (["sample", "builtin:nothing", "--out", "{out}"], "nothing"),
    (["sample", "{folder}", "--plan", FAST, "--n", 1, "--out", "{files}/file"], "file"),
    (["measure", "{folder}", "--n", -1], "n is -1"),
    (["measure", "{folder}", "--seconds", -1], "seconds"),
    (["tune", "{folder}", "--minutes", 0, "--out", "{out}"], "minutes"),
    (["tune", "{folder}", "--minutes", "nan", "--out", "{out}"], "minutes"),
    (["tune", "{folder}", "--max-loss", -1, "--out", "{out}"], "max_loss"),
    (["tune", "{folder}", "--max-loss", "x", "--out", "{out}"], "--max-loss"),
    (["tune", "{folder}", "--batch", 0, "--out", "{out}"], "batch"),
    (["tune", "{folder}", "--seed", -1, "--out", "{out}"], "seed"),
    (["tune", "{folder}", "--guidance", -1, "--out", "{out}"], "guidance"),
    (["tune", "{folder}", "--data", "{files}/gone.parquet", "--out", "{out}"], "gone"),
    (["tune", "{folder}", "--data", "{files}/empty", "--out", "{out}"], "empty"),
    (["tune", "{folder}", "--features", "random", "--out", "{out}"], "data"),
    (["tune", "{folder}", "--device", "cuda", "--out", "{out}"], "device"),
    (["measure", "{folder}", "--data", "{files}/gone"], "gone"),
    (["measure", "{folder}", "--data", "{files}/broken"], "0.png"),
    (["measure", "{folder}", "--pictures", -1], "pictures"),
    (["measure", "{folder}", "--batch", 0], "batch"),
    (["measure", "{folder}", "--batch", 10**6, "--n", 0], "MB are free"),
    ([*GOOD, "--plan", "engine=magic"], "eager"),
    ([*GOOD, "--plan", "engine=onnxruntime,dtype=bfloat16"], "float32"),
    ([*GOOD, "--plan", "device=cuda"], "the plan is for device 'cuda'"),
    ([*GOOD, "--plan", "guidance=2,solver=ddpm(variance='learned')"], "variance"),
    ([*GOOD, "--plan", "steps=2.5"], "steps"),
    ([*GOOD, "--plan", "solver=dpmpp(order=2"], "dpmpp(order=2"),
    (["sample", "{files}/truncated", "--out", "{out}"], "damaged"),
    (["sample", "{files}/flipped", "--out", "{out}"], "damaged"),
    (["sample", "{files}/pickled", "--out", "{out}"], "pickle"),
    ([*GOOD, "--plan", "student={files}/gone"], "student"),
    ([*GOOD, "--plan", "student={folder}"], "names no plans and no teacher"),
    ([*GOOD, "--plan", "student=builtin:../mnist"], "student"),
    (["learn", "student", "{folder}", "--out", "{out}"], "--data"),
    (["learn", "student", "{folder}", "--objective", "magic", "--out", "{out}"], "magic"),
    (
        ["learn", "student", "{folder}", "--evaluations", 0, "--out", "{out}"],
        "evaluations",
    ),
    (["learn", "student", "{folder}", "--minutes", "nan", "--out", "{out}"], "minutes"),
    (["learn", "student", "{folder}", "--recipe", RECIPES / "mnist.yaml"], "StudentRecipe"),
    (["learn", "student", "{folder}", "--prompts", "{files}/gone.txt"], "prompts"),
    (["train", RECIPES / "mnist-student.yaml"], "hasten learn student"),
    (["train", "{files}/nowhere.yaml"], "nowhere.yaml"),
    (["train", "{files}/list.yaml"], "list.yaml"),
    (["train", "{files}/evil.yaml"], "evil.yaml"),
    (["info", "builtin:mnnist"], "mnist"),
    (["train", RECIPES / "mnist.yaml", "--minutes", -1], "minutes"),
    (["train", RECIPES / "mnist.yaml", "--minutes", "nan"], "minutes"),
    (["train", RECIPES / "mnist.yaml", "--test-data", "{files}"], "test"),
    (
        [*GOOD, "--condition", "cat"],
        "condition is 'cat', but the classes of this model have no names",
    ),
    ([*GOOD, "--condition", "0,1,9"], "condition is 9"),
    ([*GOOD, "--condition", "0,,1"], "condition is ''"),
    ([*GOOD, "--condition", "1.5"], "condition is '1.5'"),
]


@pytest.fixture(scope="module")
def files(teacher, tmp_path_factory) -> Path:
    """Folders that hold no model or no pictures, models whose weights are damaged, files that are
    no plans."""
    files = tmp_path_factory.mktemp("wrong")
    (files / "empty").mkdir()
    (files / "broken").mkdir()
    for i in range(60):
        (files / "broken" / f"{i}.png").write_bytes(b"no picture")
    weights = Path("unet") / "diffusion_pytorch_model.safetensors"
    for name in ("truncated", "flipped", "pickled"):
        shutil.copytree(teacher.folder, files / name)
    whole = (teacher.folder / weights).read_bytes()
    (files / "truncated" / weights).write_bytes(whole[:-100])
    flipped = bytearray(whole)
    flipped[-50] ^= 1
    (files / "flipped" / weights).write_bytes(flipped)
    (files / "pickled" / weights).rename(files / "pickled" / "unet" / "diffusion_pytorch_model.bin")
    (files / "pickled" / "manifest.json").unlink()
    (files / "file").write_text("")
    (files / "bad.json").write_text("{")
    (files / "list.yaml").write_text("- 1")
    (files / "evil.yaml").write_text("!!python/object/apply:os.system ['true']")
    return files


def name(case: tuple[list[object], str]) -> str:
    texts = [str(part) for part in case[0] if part not in ("--out", "{out}")]
    return " ".join(Path(text).name if text.startswith("/") else text for text in texts)


@pytest.mark.parametrize("case", CASES, ids=name)
def test_wrong_input_gives_one_line_and_exit_two_and_writes_nothing(
    run, teacher, files, tmp_path, monkeypatch, case
):
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(tmp_path)
    arguments, words = case
    places = {"folder": teacher.folder, "files": files, "out": tmp_path / "out"}
    status, out, err = run(*(str(part).format_map(places) for part in arguments))
    assert status == 2, err
    assert err.startswith("hasten: ")
    assert err.count("\n") == 1
    assert words in err
    assert not out
    assert not list(tmp_path.iterdir()), "files were left behind"
