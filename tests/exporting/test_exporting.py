"""Exported folders make the same pictures, without hasten and without torch."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import browser
import hasten
from hasten import Plan, UserError
from hasten.exporting.bundle import bundle
from hasten.exporting.export import export
from hasten.exporting.parity import _runner
from hasten.learning.compression.quantize import learn_quantize
from hasten.measuring.features import FeatureNet

PAGE = Path(hasten.__file__).parent / "exporting" / "page"
WEBGPU = PAGE.with_name("webgpu")
MIXTURE = "builtin:mnist/starts/mixture.safetensors"
QUICK = Plan(solver="dpmpp(order=2)", grid="uniform", steps=3)
BEGUN = QUICK.model_copy(
    update={"start": "gaussian(ratio=5, file='builtin:mnist/starts/gaussian.safetensors')"}
)


@pytest.fixture(scope="module")
def model():
    return hasten.load("builtin:mnist")


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("exported") / "onnx"
    found = export(model, QUICK, "onnx", out)
    assert found.apart < 1e-3
    assert found.psnr > 45
    return out


@pytest.mark.slow
def test_the_runner_needs_numpy_and_the_runtime_alone(exported, model, tmp_path):
    assert len((exported / "run.py").read_text().splitlines()) <= 130
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-c", _WITHOUT, str(exported / "run.py"), "--seed", "5"]
    command += ["--label", "3", "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = torch.from_numpy(np.asarray(Image.open(picture), np.float32) / 255)
    noise = torch.from_numpy(_runner(bundle(model, QUICK).to_json()).normals(5, 0))
    mine = hasten.build(model, QUICK).sample(noise=noise, condition=3)[0, 0]
    assert float((mine - theirs).abs().max()) < 0.005  # half a step of eight bits, and a little


_WITHOUT = """
import runpy, sys
sys.modules["torch"] = sys.modules["hasten"] = None
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


def test_the_noise_of_runners_is_standard_normal(model):
    runner = _runner(bundle(model, QUICK).to_json())
    draws = np.concatenate([runner.normals(seed, 0).ravel() for seed in range(200)])
    n = len(draws)
    assert abs(draws.mean()) < 4 / n**0.5
    assert abs(draws.var() - 1) < 4 * (2 / n) ** 0.5
    assert abs((draws**4).mean() - 3) < 4 * (96 / n) ** 0.5
    a, b = (runner.normals(seed, 0).ravel() for seed in (1, 2))
    assert abs((a * b).mean()) < 4 / len(a) ** 0.5
    assert not np.array_equal(a, runner.normals(1, 1).ravel())


def test_javascript_draws_the_same_noise_and_walks_the_same_rows(model, tmp_path):
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    plan = Plan(solver="ddpm", grid="uniform", steps=3, clip=1.0)
    text = bundle(model, plan).to_json()
    (tmp_path / "bundle.json").write_text(text)
    shutil.copy(PAGE / "run.js", tmp_path / "run.mjs")
    # A network of a line, so that what is compared are the rows and the noise.
    (tmp_path / "go.mjs").write_text(
        "import { readFileSync } from 'node:fs';\n"
        "import { decoded, normals, sample } from './run.mjs';\n"
        "const bundle = JSON.parse(readFileSync('bundle.json'));\n"
        "const net = async (x, t, label) => x.map((v) => 0.5 * v + t / 4000 + label / 50);\n"
        "const x = await sample(bundle, net, { seed: 7, label: 3 });\n"
        "const noise = Array.from(normals(7, 1, 20));\n"
        "console.log(JSON.stringify({ noise, pixels: Array.from(decoded(bundle, x).pixels) }));\n"
    )
    done = subprocess.run([node, "go.mjs"], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    theirs = json.loads(done.stdout)
    runner = _runner(text)
    assert np.allclose(theirs["noise"], runner.normals(7, 1).ravel()[:20], atol=1e-6)

    def net(x, t, label):
        return np.float32(0.5) * x + np.float32(t / 4000 + label / 50)

    mine = runner.sample(net, 7, 3)
    assert np.abs(mine.ravel() - np.array(theirs["pixels"])).max() < 1e-4


def start_of(kind: str) -> str:
    ratio = {"gaussian": "5", "mixture": "1.7, steps=0"}[kind]
    return f"{kind}(ratio={ratio}, file='builtin:mnist/starts/{kind}.safetensors')"


@pytest.mark.parametrize(
    ("target", "kind"),
    [
        pytest.param("onnx", "mixture", marks=pytest.mark.slow),
        pytest.param("openvino", "gaussian", marks=pytest.mark.slow),
        ("executorch", "mixture"),
        ("folder", "mixture"),
    ],
)
def test_a_start_goes_along_as_a_network(model, target, kind, tmp_path):
    pytest.importorskip("executorch" if target == "executorch" else "onnxruntime")
    plan = QUICK.model_copy(update={"start": start_of(kind)})
    out = tmp_path / "out"
    found = export(model, plan, target, out)
    assert found.psnr > 45
    assert json.loads((out / "bundle.json").read_text())["start"]
    if target == "folder":
        assert hasten.build(hasten.load(out / "model")).plan.start == plan.start
        return
    picture = tmp_path / "picture.png"
    without = _WITHOUT
    if target == "executorch":  # its runtime speaks in tensors
        without = _WITHOUT.replace('sys.modules["torch"] = ', "")
    command = [sys.executable, "-c", without, str(out / "run.py"), "--seed", "5"]
    command += ["--label", "3", "--out", str(picture)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    features = FeatureNet.for_model(model)
    seen = torch.from_numpy(np.asarray(Image.open(picture), np.float32) / 255)[None, None]
    assert int(features.net(seen).argmax()) == 3


def test_a_start_of_the_users_own_file_is_copied(model, tmp_path):
    file = Path(hasten.__file__).parent / "assets/mnist/starts/gaussian.safetensors"
    mine = Path(shutil.copy(file, tmp_path / "mine.safetensors"))
    plan = QUICK.model_copy(update={"start": f"gaussian(ratio=5, file={str(mine)!r})"})
    export(model, plan, "folder", tmp_path / "out")
    assert (tmp_path / "out" / "start.safetensors").read_bytes() == file.read_bytes()


def test_what_a_start_draws_reaches_every_distribution_of_the_label(model):
    plan = QUICK.model_copy(update={"start": start_of("mixture")})
    held = bundle(model, plan)
    assert held.start is not None
    runner, net = _runner(held.to_json()), held.start.net
    draws = np.array([runner.uniforms(seed, 0, 1)[0] for seed in range(4000)])
    assert abs(np.histogram(draws, 8, (0, 1))[0] / 500 - 1).max() < 0.2
    label = torch.full((4000,), 3)
    which = (net.reached[label] <= torch.from_numpy(draws).float()[:, None]).sum(1)
    assert set(net.normals.label[which].tolist()) == {3}
    mine = net.normals.label == 3
    shares = torch.bincount(which, minlength=len(mine))[mine] / 4000
    assert (shares - net.normals.weight[mine] / net.normals.weight[mine].sum()).abs().max() < 0.03


def test_javascript_is_short_enough_to_read():
    assert len((PAGE / "run.js").read_text().splitlines()) <= 100


def test_the_page_asks_for_nothing_from_elsewhere():
    for name in ("index.html", "page.js", "run.js"):
        text = (PAGE / name).read_text()
        assert "http://" not in text
        assert "https://" not in text
    sizes = [path.stat().st_size for path in PAGE.rglob("*") if path.is_file()]
    assert max(sizes) < 10e6


def test_a_bundle_offers_other_numbers_of_steps(model):
    held = json.loads(bundle(model, QUICK, others=True).to_json())
    assert held["plan"] == 3
    assert {"1", "2", "3", "50"} <= set(held["programs"])
    assert held["programs"]["3"]["rows"][0]["op"] == "network"


@pytest.mark.parametrize(
    ("plan", "words"),
    [
        (Plan(solver="adaptive-ode", steps=20), "hasten learn freeze"),
        (Plan(start="plan(plan='solver=ddim,steps=2,grid=uniform', ratio=2.0)"), "start=noise"),
        (Plan(start=f"mixture(ratio=2.0, file={MIXTURE!r})"), "steps=0"),
        (Plan(levers=["deep(branch=0)"], steps=20), "drop deep"),
    ],
)
def test_a_plan_that_cannot_be_exported_says_what_can(model, plan, words, tmp_path):
    with pytest.raises(UserError, match=words):
        export(model, plan, "onnx", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
@pytest.mark.parametrize(("target", "rows"), [("onnx", "static"), ("openvino", "steps")])
def test_a_plan_in_few_bits_is_exported_in_integers(model, target, rows, tmp_path):
    pytest.importorskip({"onnx": "onnxruntime"}.get(target, target))
    file = str(tmp_path / "bits.safetensors")
    learn_quantize(model, QUICK, file, rows=rows, n=8)
    small = QUICK.with_lever(f"quantize(file={file!r})")
    found = export(model, small, target, tmp_path / "small")
    export(model, QUICK, target, tmp_path / "whole")
    assert found.psnr > 30
    sizes = [
        sum(f.stat().st_size for f in (tmp_path / d).glob("net.*")) for d in ("small", "whole")
    ]
    assert sizes[0] < 0.5 * sizes[1]
    mine = bundle(model, small).first.sample(1, seed=0, condition=3)
    assert torch.equal(mine, hasten.build(model, small).sample(1, seed=0, condition=3))
    with pytest.raises(UserError, match="drop quantize"):
        export(model, small, "folder", tmp_path / "folder")
    assert not (tmp_path / "folder").exists()
    with pytest.raises(UserError, match="calibrate on this plan"):
        bundle(model, small.model_copy(update={"steps": QUICK.steps + 1}))


@pytest.mark.slow
def test_openvino_computes_in_the_dtype_of_the_plan(model, tmp_path):
    """In bfloat16 a time is rounded, so a folder holds what its times tell and no others."""
    pytest.importorskip("openvino")
    half = QUICK.model_copy(update={"dtype": "bfloat16"})
    found = export(model, half, "openvino", tmp_path / "half")
    whole = export(model, QUICK, "openvino", tmp_path / "whole")
    assert whole.apart < 1e-3 < found.apart < 0.02  # coarser: it does compute in bfloat16
    held = [json.loads((tmp_path / d / "bundle.json").read_text()) for d in ("half", "whole")]
    assert [one["dtype"] for one in held] == ["bfloat16", "float32"]
    assert [len(one["programs"]) for one in held] == [1, len(bundle(model, QUICK, True).samplers)]
    net = bundle(model, half, dtypes=("float32", "bfloat16")).model.net
    assert net.times == tuple(sorted(level.t for level in hasten.build(model, QUICK).levels[:-1]))
    assert bundle(model, half).dtype == "float32"  # for a runtime that has no other
    picture = tmp_path / "picture.png"
    command = [sys.executable, "-c", _WITHOUT, str(tmp_path / "half" / "run.py"), "--seed", "5"]
    done = subprocess.run([*command, "--out", str(picture)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert np.asarray(Image.open(picture)).std() > 40


def test_an_unknown_target_names_those_there_are(model, tmp_path):
    with pytest.raises(UserError, match="onnx"):
        export(model, QUICK, "onx", tmp_path / "out")


def test_an_exported_folder_is_a_model_that_samples_by_its_plan(model, tmp_path):
    found = export(model, QUICK, "folder", tmp_path / "out")
    assert found.psnr > 100
    again = hasten.load(tmp_path / "out" / "model")
    noise = torch.randn(2, *model.shape, generator=torch.Generator().manual_seed(0))
    mine = hasten.build(model, QUICK).sample(noise=noise, condition=1)
    assert torch.equal(hasten.build(again).sample(noise=noise, condition=1), mine)


@pytest.mark.parametrize("factor", [1.5, float("nan")])
def test_pictures_that_differ_leave_nothing_behind(model, tmp_path, monkeypatch, factor):
    from hasten.exporting.targets.folder import Folder

    real = Folder.network

    def wrong(self, held, folder, name):
        call = real(self, held, folder, name)
        return lambda x, t, label: factor * call(x, t, label)

    monkeypatch.setattr(Folder, "network", wrong)
    with pytest.raises(UserError, match="nothing was written"):
        export(model, QUICK, "folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.fixture(scope="module")
def page(model, tmp_path_factory):
    """The exported page, served as files."""
    pytest.importorskip("onnxruntime")
    out = tmp_path_factory.mktemp("exported") / "web"
    export(model, BEGUN, "web(gpu=True)", out)
    with browser.served(out) as url:
        yield out, url


@pytest.mark.skipif(browser.found() is None, reason="no Chromium here")
@pytest.mark.parametrize(
    ("size", "gpu"),
    [
        ((1000, 800), False),
        pytest.param((390, 844), False, marks=pytest.mark.slow),
        pytest.param((1000, 800), True, marks=pytest.mark.slow),  # WebGPU on a CPU
    ],
)
def test_the_page_makes_the_pictures_that_python_makes(model, page, size, gpu, tmp_path):
    folder, url = page
    with browser.Browser(*size, gpu) as window:
        window.ask("Page.navigate", url=url)
        pixels = json.loads(window.until("document.body.dataset.pixels"))
        asked = [one for one in window.requests if one != "about:blank"]
        wide = window.value("document.documentElement.scrollWidth")
        runtime = window.value("document.getElementById('runtime').textContent")
        window.screenshot(tmp_path / "page.png")
        assert window.errors == []
    assert wide <= size[0]
    threads = min(4, os.cpu_count() or 1)
    assert runtime == ("WebGPU" if gpu else f"WebAssembly, {threads} thread{'s' * (threads > 1)}")
    assert all(one.startswith((url, "data:")) for one in asked), asked
    assert len(asked) >= 6
    runner = _runner((folder / "bundle.json").read_text())
    noise = torch.from_numpy(runner.normals(0, 0))
    mine = hasten.build(model, BEGUN).sample(noise=noise, condition=3).numpy().ravel()
    error = float(((mine - np.array(pixels)) ** 2).mean())
    assert -10 * np.log10(error) > 45
    files = {path.name: path.stat().st_size for path in folder.rglob("*") if path.is_file()}
    assert sum(size for name, size in files.items() if not (WEBGPU / name).exists()) < 10e6


@pytest.mark.parametrize("executor", ["early-exit(tolerance=0.5)", "deadline(ms=50)"])
def test_an_executor_that_changes_the_pictures_is_not_dropped_in_silence(model, executor, tmp_path):
    with pytest.raises(UserError, match="which no runner does; drop executor"):
        export(model, QUICK.model_copy(update={"executor": executor}), "onnx", tmp_path / "out")


def test_a_plain_module_is_no_diffusers_folder(tmp_path):
    class Net(torch.nn.Module):
        def forward(self, x, t, condition=None):
            return 0.1 * x

    plain = hasten.load(Net(), schedule="ddpm", prediction="epsilon", shape=(1, 8, 8))
    with pytest.raises(UserError, match="Net is no diffusers network"):
        export(plain, Plan(steps=2), "folder", tmp_path / "out")
