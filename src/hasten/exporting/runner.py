"""The Python runner that lies in an exported folder, for every runtime the same but for how a
network is opened."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from hasten.exporting.bundle import Bundle

RUNNERS = Path(__file__).parent / "runners"
TEXT = "text.json"


def write_text(bundle: Bundle, folder: Path) -> None:
    """Write ``text.json``, how prompts become tokens, where the bundle takes prompts."""
    if bundle.text is not None:
        text = json.dumps(bundle.text.facts(), ensure_ascii=False)
        (folder / TEXT).write_text(text, encoding="utf-8")


def write_runner(folder: Path, opened: str | None = None, needs: str = "ONNX Runtime") -> None:
    """Write ``run.py``, and what reads ``text.json`` where there is one.

    Args:
        opened: the body of ``network(name)`` in the runner; None for that of ONNX Runtime.
        needs: what else than NumPy it says it needs.
    """
    text = (RUNNERS / "run.py").read_text(encoding="utf-8")
    if opened is not None:
        begin, end = text.index("    import onnxruntime"), text.index("def sample(")
        text = text[:begin] + opened + "\n\n" + text[end:]
    text = text.replace("ONNX Runtime, and", f"{needs}, and")
    (folder / "run.py").write_text(text, encoding="utf-8")
    if (folder / TEXT).exists():
        shutil.copy(RUNNERS / "prompts.py", folder)
