"""The documents' code runs, their commands exist, and their tables are what the results say."""

from __future__ import annotations

import itertools
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
BLOCK = re.compile(r"(<!-- not run: .+? -->\n)?```(python|console)\n(.*?)```", re.S)
LINK = re.compile(r"\]\(([^)#\s]+)(#[^)]*)?\)")


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def blocks(page: Path, language: str) -> list[str]:
    """The blocks of a page that are to run."""
    found = BLOCK.findall(page.read_text(encoding="utf-8"))
    return [code for skipped, kind, code in found if kind == language and not skipped]


def commands(page: Path) -> list[list[str]]:
    """The hasten commands in the console blocks of a page, without the word ``hasten``."""
    lines = "\n".join(blocks(page, "console")).replace("\\\n", " ").splitlines()
    return [shlex.split(line, comments=True)[1:] for line in lines if line.startswith("hasten ")]


def tiny_pipeline():
    """What pages call ``pipe``: a diffusers pipeline of the reader's own."""
    from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel

    blocks = {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2}
    sizes = {"sample_size": 8, "block_out_channels": (32, 32), "layers_per_block": 1}
    pipe = DDPMPipeline(UNet2DModel(**sizes, **blocks, norm_num_groups=8), DDPMScheduler())
    pipe.set_progress_bar_config(disable=True)
    return pipe


@pytest.fixture(autouse=True)
def _registries_stay_as_they_are(monkeypatch):
    """Forget the parts that a page or an example adds."""
    from hasten.core.lever import levers
    from hasten.core.solver import solvers

    for registry in (levers, solvers):
        list(registry)  # everything that ships is known before
        monkeypatch.setattr(registry, "_known", dict(registry._known))


WITH_CODE = [page for page in PAGES if blocks(page, "python")]
WITH_COMMANDS = [page for page in PAGES if commands(page)]


LONG = ("docs/measuring.md", "docs/quickstart.md", "docs/export.md")


@pytest.mark.parametrize(
    "page",
    [pytest.param(page, marks=[pytest.mark.slow] * (name_of(page) in LONG)) for page in WITH_CODE],
    ids=name_of,
)
def test_the_code_of_a_page_runs_from_top_to_bottom(page, tmp_path, monkeypatch):
    if name_of(page) == "docs/export.md":
        pytest.importorskip("onnxruntime")
    monkeypatch.chdir(tmp_path)
    code = blocks(page, "python")
    names: dict[str, object] = {"pipe": tiny_pipeline()} if "pipe" in "".join(code) else {}
    for number, block in enumerate(code, 1):
        exec(compile(block, f"{name_of(page)}, block {number}", "exec"), names)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_command_of_a_page_exists_with_its_options(page):
    from hasten.cli import app

    for words in commands(page):
        command, _, ignored = app.parse_args(words, exit_on_error=False, print_error=False)[:3]
        assert command.__module__.startswith("hasten.cli"), (words, ignored)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=name_of)
def test_every_plan_in_a_command_of_a_page_is_one(page):
    import hasten

    for words in commands(page):
        for option, text in itertools.pairwise(words):
            if option == "--plan" and "=" in text:
                assert isinstance(hasten.Plan.read(text), hasten.Plan)


def test_every_page_is_one_that_the_site_shows():
    shown = set(re.findall(r"[\w-]+\.md", (ROOT / "mkdocs.yml").read_text(encoding="utf-8")))
    assert {page.name for page in (ROOT / "docs").glob("*.md")} == shown


def test_tables_are_what_the_results_say():
    command = [sys.executable, "-m", "benchmarks.tables", "--check"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"], ids=name_of
)
def test_no_link_of_a_page_is_dead(page):
    links = [link for link, _ in LINK.findall(page.read_text(encoding="utf-8"))]
    dead = [link for link in links if "://" not in link and not (page.parent / link).exists()]
    assert not dead


def test_the_table_on_the_concepts_page_is_the_one_that_is_printed():
    import hasten

    plan = hasten.Plan(solver="dpmpp(order=2)", grid="uniform", steps=3)
    assert str(hasten.trace(plan, "ddpm")) in (ROOT / "docs/concepts.md").read_text()


def test_sentences_of_a_page_are_short():
    lengths = {}
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        text = re.sub(
            r"```.*?```|<!-- table.*?<!-- end -->|<!--.*?-->|`[^`]*`|^[#|].*$",
            " ",
            text,
            flags=re.S | re.M,
        )
        sentences = [s.split() for s in re.split(r"(?<=[.!?:])\s|\n\n|\n- ", text)]
        words = [len(sentence) for sentence in sentences if len(sentence) > 2]
        lengths[name_of(page)] = sum(words) / max(len(words), 1)
    assert all(length <= 25 for length in lengths.values()), lengths
