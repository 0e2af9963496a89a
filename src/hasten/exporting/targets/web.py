"""A static page that runs the programs in the browser, by WebAssembly or WebGPU; no server."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from hasten.exporting.bundle import Bundle
from hasten.exporting.runner import write_text
from hasten.exporting.target import targets
from hasten.exporting.targets.onnx import Onnx, write_networks

PAGE = Path(__file__).parents[1] / "page"
WEBGPU = PAGE.with_name("webgpu")


@targets.add("web")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Web(Onnx):
    """Everything the page needs lies in the folder; nothing is fetched from anywhere else.

    ``half``: weights travel in 16 bits, half the bytes; ``gpu``: the page takes along what runs it
    on WebGPU in browsers that have one, 6.7 MB more.
    """

    half: bool = True
    gpu: bool = False

    bound = 5e-3

    def write(self, bundle: Bundle, folder: Path) -> None:
        write_networks(bundle, folder, self.half)
        write_text(bundle, folder)
        shutil.copytree(PAGE, folder, dirs_exist_ok=True)
        if self.gpu:
            shutil.copytree(WEBGPU, folder / "ort", dirs_exist_ok=True)
            page = folder / "index.html"
            text = page.read_text(encoding="utf-8")
            page.write_text(text.replace("<html ", "<html data-gpu ", 1), encoding="utf-8")
