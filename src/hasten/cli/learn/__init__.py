"""``hasten learn``: what is learned for a model and named by a plan, one file a verb."""

from __future__ import annotations

import cyclopts

from hasten.cli.learn.cache import cache
from hasten.cli.learn.freeze import freeze
from hasten.cli.learn.grid import grid
from hasten.cli.learn.narrow import narrow
from hasten.cli.learn.program import program
from hasten.cli.learn.prune import prune
from hasten.cli.learn.quantize import quantize
from hasten.cli.learn.start import start
from hasten.cli.learn.student import student
from hasten.cli.numbers import WHOLE

app = cyclopts.App(
    name="learn",
    help="Learn for a model what a plan can name: programs, students, quantization, starts.",
    help_format="plaintext",
    default_parameter=WHOLE,
    suppress_keyboard_interrupt=False,
)
for verb in (program, grid, start, student, cache, freeze, quantize, prune, narrow):
    app.command(verb)
