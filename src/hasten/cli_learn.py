"""``hasten learn``: what is learned for a model and used through a plan, one verb an objective."""

from __future__ import annotations

import cyclopts

app = cyclopts.App(
    name="learn",
    help="Learn for a model what a plan can name: programs, starts, reuse.",
    help_format="plaintext",
)
