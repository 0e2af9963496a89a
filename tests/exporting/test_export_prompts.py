"""Text to image without hasten and torch: prompts in, a picture out."""

from __future__ import annotations

import json
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
from hasten.adapters.clip_text import ClipText
from hasten.adapters.word_tokenizer import new_tokenizer, token_ids
from hasten.exporting.export import export
from hasten.exporting.parity import _module, _runner
from zoo import built

PROMPTS = ["a cat", "2 dogs"]
PLAN = hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=3, guidance=3.0)
EXPORTING = Path(hasten.__file__).parent / "exporting"
CAPTURED = {"capture_output": True, "text": True, "encoding": "utf-8"}
READ = """
import { readFileSync } from "node:fs";
import { reader } from "./prompts.mjs";
const read = reader(JSON.parse(readFileSync("text.json", "utf-8")));
const texts = JSON.parse(readFileSync(0, "utf-8"));
console.log(JSON.stringify(texts.map((text) => Array.from(read(text).tokens))));
"""
WITHOUT = """
import runpy, sys
sys.modules["torch"] = sys.modules["hasten"] = sys.modules["transformers"] = None
sys.path.insert(0, sys.argv[1].rpartition("/")[0])
sys.argv = sys.argv[1:]
runpy.run_path(sys.argv[0], run_name="__main__")
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("pipeline") / "sd15"
    built("sd15").save_pretrained(folder)
    return hasten.load(folder, prompts=PROMPTS)


@pytest.mark.parametrize(
    ("target", "runtime"),
    [("onnx", "onnxruntime"), pytest.param("openvino", "openvino", marks=pytest.mark.slow)],
)
def test_a_prompt_is_all_that_the_folder_needs(model, tmp_path, target, runtime):
    pytest.importorskip(runtime)
    out = tmp_path / "out"
    parity = export(model, PLAN, target, out)
    assert parity.apart < 1e-4
    assert parity.psnr > 60
    names = {file.stem for file in out.iterdir()}
    assert names >= {"net", "text", "decoder", "run", "prompts", "bundle", "parity"}
    lines = [(out / name).read_text().splitlines() for name in ("run.py", "prompts.py")]
    assert sum(bool(line) for part in lines for line in part) <= 150
    file = tmp_path / "picture.png"
    command = [sys.executable, "-c", WITHOUT, str(out / "run.py"), "--seed", "4"]
    done = subprocess.run(
        [*command, "--prompt", "2 dogs", "--out", str(file)], capture_output=True, text=True
    )
    assert (done.returncode, done.stderr) == (0, "")
    theirs = torch.from_numpy(np.asarray(Image.open(file), np.float32) / 255).movedim(-1, 0)
    noise = torch.from_numpy(_runner((out / "bundle.json").read_text()).normals(4, 0))
    mine = hasten.build(model, PLAN).sample(noise=noise, condition=[1])[0]
    assert float((mine - theirs).abs().max()) < 0.005  # half a step of eight bits, and a little


TEXTS = [
    "a red circle",
    "",
    "A  RED\tcircle's ABOVE;;'s it's we'll 123 ４２ ² café Ünïcode 日本 emoji 😀 don't",
    "left of: the triangle... ''quote''",
    "x_y z-1 a\u2028b",
]


def _in_python(folder: Path, texts: list[str]) -> list[list[float]]:
    made = _module(Path(shutil.copy(EXPORTING / "runners" / "prompts.py", folder)))
    return [made.tokens(text)[0].tolist() for text in texts]


def _in_javascript(folder: Path, texts: list[str]) -> list[list[float]]:
    node = shutil.which("node")
    if node is None:
        pytest.skip("no node here")
    shutil.copy(EXPORTING / "page" / "prompts.js", folder / "prompts.mjs")
    (folder / "read.mjs").write_text(READ, encoding="utf-8")
    done = subprocess.run([node, "read.mjs"], cwd=folder, input=json.dumps(texts), **CAPTURED)
    assert (done.returncode, done.stderr) == (0, "")
    return json.loads(done.stdout)


@pytest.mark.parametrize("read", [_in_python, _in_javascript])
@pytest.mark.parametrize("kind", ["letters", "words"])
def test_prompts_become_the_tokens_that_transformers_makes_of_them(tmp_path, kind, read):
    words = ["red", "circle", "above", "triangle", "left", "of"]
    tokenizer = built("sd15").tokenizer if kind == "letters" else new_tokenizer(words, 32)
    facts = ClipText(tokenizer, torch.nn.Identity()).facts()
    (tmp_path / "text.json").write_text(json.dumps(facts), encoding="utf-8")
    assert read(tmp_path, TEXTS) == token_ids(tokenizer, TEXTS).float().tolist()


def test_a_prompt_that_is_too_long_is_cut_and_it_is_said_where(tmp_path, capsys):
    facts = ClipText(new_tokenizer(["red"], 32), torch.nn.Identity()).facts()
    (tmp_path / "text.json").write_text(json.dumps(facts), encoding="utf-8")
    _in_python(tmp_path, ["red " * 40])
    said = f"cut after {' '.join(['red'] * 30)!r}: 30 tokens at most\n"
    assert capsys.readouterr().err == said


@pytest.mark.skipif(browser.found() is None, reason="no Chromium here")
def test_the_page_draws_what_a_person_types(model, tmp_path):
    pytest.importorskip("onnxruntime")
    assert export(model, PLAN, "web", tmp_path / "out").psnr > 45
    with browser.served(tmp_path / "out") as url, browser.Browser(390, 844) as window:
        window.ask("Page.navigate", url=url)
        first = json.loads(window.until("document.body.dataset.pixels"))
        line = "document.getElementById('prompt')"
        typed = f"{line}.value = '{{}}'; {line}.onchange()"
        window.value(f"delete document.body.dataset.pixels; {typed.format('2 dogs')}")
        second = json.loads(window.until("document.body.dataset.pixels"))
        window.value(f"delete document.body.dataset.pixels; {typed.format('dog ' * 90)}")
        window.until("document.body.dataset.pixels")
        cut = window.value("document.getElementById('cut').textContent")
        wide = window.value("document.documentElement.scrollWidth")
        window.screenshot(tmp_path / "page.png")
        assert window.errors == []
        outside = [one for one in window.requests if not one.startswith((url, "data:", "about:"))]
    assert cut.startswith("Too long; read as far as “dog dog")
    assert wide <= 390
    assert outside == []
    runner = _runner((tmp_path / "out" / "bundle.json").read_text())
    noise = torch.from_numpy(runner.normals(0, 0))
    for number, pixels in enumerate((first, second)):
        mine = hasten.build(model, PLAN).sample(noise=noise, condition=[number]).numpy().ravel()
        assert float(((mine - np.array(pixels)) ** 2).mean()) < 10**-4.5


def test_a_target_that_takes_no_prompts_says_so(model, tmp_path):
    with pytest.raises(hasten.UserError, match="'folder' takes no prompts; export to onnx, openv"):
        export(model, PLAN, "folder", tmp_path / "out")
    assert not (tmp_path / "out").exists()
    captured = hasten.load(built("flux"), prompts=["a cat"], height=16, width=16)
    with pytest.raises(hasten.UserError, match="and Stable Diffusion with its prompts"):
        export(captured, PLAN.model_copy(update={"guidance": 1.0}), "onnx", tmp_path / "out")


def test_labels_can_be_guided_in_an_exported_folder(tiny_model, tmp_path):
    pytest.importorskip("onnxruntime")
    parity = export(tiny_model(labels=3), PLAN, "onnx", tmp_path / "out")
    assert parity.psnr > 60
