"""Every table of the documents has a benchmark, which can be found and run."""

from __future__ import annotations

import importlib
import inspect
import json
import re
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.run import BENCHMARKS  # noqa: E402
from benchmarks.tables import DOCUMENTS  # noqa: E402

from hasten.core.errors import UserError  # noqa: E402
from hasten.core.plan import Plan  # noqa: E402


def test_every_table_of_the_documents_is_made_by_a_benchmark():
    shown = set()
    for name in DOCUMENTS:
        shown |= set(re.findall(r"<!-- table: ([\w-]+) -->", (ROOT / name).read_text()))
    made = {table for benchmark in BENCHMARKS.values() for table in benchmark.tables}
    assert shown == made


@pytest.mark.parametrize("name", BENCHMARKS)
def test_a_benchmark_without_a_command_of_its_own_has_a_main(name):
    if BENCHMARKS[name].command:
        assert BENCHMARKS[name].needs
        return
    main = importlib.import_module(f"benchmarks.{name}").main
    assert not any(p.default is p.empty for p in inspect.signature(main).parameters.values())


def test_what_was_not_measured_is_said(capsys, monkeypatch):
    run = importlib.import_module("benchmarks.run")
    ran = []

    class Module:
        @staticmethod
        def main() -> None:
            ran.append("ran")

    monkeypatch.setattr(run.importlib, "import_module", lambda name: Module)
    run.main([])
    said = capsys.readouterr().out
    needy = {name for name, benchmark in BENCHMARKS.items() if benchmark.needs}
    assert len(ran) == len(BENCHMARKS) - len(needy)
    assert all(name in said for name in needy)
    with pytest.raises(SystemExit, match="no benchmark 'magic'"):
        run.main(["magic"])
    with pytest.raises(SystemExit, match=r"benchmarks\.ancestral make"):
        run.main(["ancestral"])


def test_the_demo_shows_the_plan_beside_the_stock_pipeline(tmp_path, monkeypatch, capsys):
    beside = importlib.import_module("benchmarks.beside")
    plan, seen = Plan(solver="ddim", steps=4), []

    def pictures(spec, asked):
        seen.append((spec["side"], spec.get("plan")))
        return torch.full((len(asked), 3, 64, 64), 0.5)

    def raced(timed, rounds):
        return [{**spec, "median": 100.0 / (n + 1), "peak_mb": 1} for n, spec in enumerate(timed)]

    monkeypatch.setattr(beside, "pictures", pictures)
    monkeypatch.setattr(beside, "raced", raced)
    plan.write(tmp_path / "plan.json")
    (tmp_path / "report.html").write_text("<body><!-- beside --></body>")
    beside.main(tmp_path)
    assert seen == [("diffusers", None), ("hasten, applied", str(plan))]
    assert (tmp_path / "before.png").is_file()
    page = (tmp_path / "report.html").read_text()
    assert "Before and after" in page
    assert page.count("data:image/png;base64,") == 2
    rows = json.loads((tmp_path / "beside.json").read_text())
    assert [row["times_faster"] for row in rows] == pytest.approx([1.0, 2.0, 3.0])
    assert [row["met"] for row in rows] == [0.0, 0.0, None]

    def refused(spec, asked):
        raise UserError("a pipeline cannot be given this")

    monkeypatch.setattr(beside, "pictures", refused)
    beside.main(tmp_path)
    assert "not measured: a pipeline cannot be given this" in capsys.readouterr().out
