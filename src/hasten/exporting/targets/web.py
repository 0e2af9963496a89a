"""A static page that runs the programs in the browser: ONNX Runtime's WebAssembly, no server."""

from __future__ import annotations

import dataclasses
import shutil
from pathlib import Path

from hasten.exporting.bundle import Bundle
from hasten.exporting.target import targets
from hasten.exporting.targets.onnx import Onnx, write_networks

PAGE = Path(__file__).parents[1] / "page"


@targets.add("web")
@dataclasses.dataclass(frozen=True, kw_only=True)
class Web(Onnx):
    """Everything the page needs lies in the folder; nothing is fetched from anywhere else.

    ``half``: weights travel in 16 bits, half the bytes.
    """

    half: bool = True

    bound = 5e-3

    def write(self, bundle: Bundle, folder: Path) -> None:
        write_networks(bundle, folder, self.half)
        shutil.copytree(PAGE, folder, dirs_exist_ok=True)
