"""The documents' code runs, and their tables are what the results say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
CODE = re.compile(r"```python\n(.*?)```", re.S)


def blocks(name: str) -> list[str]:
    return CODE.findall((ROOT / name).read_text(encoding="utf-8"))


@pytest.mark.parametrize("name", ["README.md", "docs/concepts.md", "docs/adding-a-solver.md"])
def test_the_code_of_a_page_runs_from_top_to_bottom(name, tmp_path, monkeypatch):
    import hasten

    found = blocks(name)
    assert found
    monkeypatch.chdir(tmp_path)  # what `hasten tune` leaves there
    hasten.Plan(solver="ddim", steps=2).write(tmp_path / "tuned" / "plan.json")
    names: dict[str, object] = {}
    for block in found:
        exec(compile(block, name, "exec"), names)


def test_tables_are_what_the_results_say():
    command = [sys.executable, "-m", "benchmarks.tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_link_of_a_page_is_dead():
    dead = []
    for page in [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").glob("*.md")]:
        for link in re.findall(r"\]\(([^)#]+)\)", page.read_text(encoding="utf-8")):
            if "://" not in link and not (page.parent / link).exists():
                dead.append(f"{page.name}: {link}")
    assert not dead, dead


def test_the_table_on_the_concepts_page_is_the_one_that_is_printed():
    import hasten

    plan = hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=3)
    assert str(hasten.trace(plan, "ddpm")) in (ROOT / "docs/concepts.md").read_text()
