"""Who may import whom: core <- parts (never each other) <- sampler <- measuring <- rest <-
tuning <- cli."""

from __future__ import annotations

import ast
import re
from pathlib import Path

SOURCE = Path(__file__).parents[1] / "src" / "hasten"
PARTS = ("solvers", "grids", "executors", "starts", "engines", "levers", "adapters")
HEIGHT = {
    "core": 0,
    **dict.fromkeys(PARTS, 1),
    "sampling": 2,
    "applying": 3,
    "media": 1,
    "data": 1,
    "measuring": 3,
    "training": 4,
    "learning": 5,
    "editing": 5,
    "exporting": 5,
    "tuning": 6,
    "serving": 7,
    "generating": 7,
    "cli": 8,
    "__main__": 9,
}
ONLY_ADAPTERS = {"diffusers", "transformers"}


def modules() -> list[tuple[Path, str]]:
    files = [
        path for path in SOURCE.rglob("*.py") if path.parent != SOURCE or path.stem != "__init__"
    ]
    return [(path, path.relative_to(SOURCE).parts[0].removesuffix(".py")) for path in files]


def imports(path: Path) -> set[str]:
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


def test_every_file_has_a_layer():
    assert {layer for _, layer in modules()} <= set(HEIGHT)


def test_arrows_never_turn_back():
    wrong = []
    for path, layer in modules():
        for name in imports(path):
            head, _, rest = name.partition(".")
            if head != "hasten" or not rest:
                continue
            other = rest.split(".")[0]
            # Executors answer questions for the sampler alone; parts know the core and themselves.
            below = HEIGHT[other] < HEIGHT[layer] or other == layer
            if not below:
                wrong.append(f"{path.relative_to(SOURCE)} imports {name}")
    assert not wrong, wrong


def test_only_adapters_import_diffusers():
    wrong = [
        str(path.relative_to(SOURCE))
        for path, layer in modules()
        if layer != "adapters" and {name.split(".")[0] for name in imports(path)} & ONLY_ADAPTERS
    ]
    assert not wrong, wrong


def test_no_file_grows_beyond_four_hundred_lines():
    long = {
        str(path.relative_to(SOURCE)): len(path.read_text(encoding="utf-8").splitlines())
        for path, _ in modules()
    }
    assert {name: lines for name, lines in long.items() if lines > 400} == {}


def test_what_has_no_type_is_rare():
    words = [re.findall(r"\bAny\b", path.read_text(encoding="utf-8")) for path, _ in modules()]
    assert sum(map(len, words)) <= 200
