"""The command line: argument parsing over the functions of hasten, one file a verb.

Data goes to stdout, progress to stderr. Exit status: 0 done, 2 the user's mistake (one line), 1
a fault of hasten; 3 where `hasten tune` has found no plan that passes, and has written the one that
came nearest.
"""

from __future__ import annotations

import os
import sys
import traceback

import cyclopts

from hasten.cli.completion import install_completion
from hasten.cli.edit import edit
from hasten.cli.export import export
from hasten.cli.generate import generate
from hasten.cli.info import info
from hasten.cli.learn import app as learn
from hasten.cli.measure import measure
from hasten.cli.numbers import WHOLE
from hasten.cli.pull import pull
from hasten.cli.push import push
from hasten.cli.sample import sample
from hasten.cli.serve import serve
from hasten.cli.train import train
from hasten.cli.tune import tune

app = cyclopts.App(
    name="hasten",
    help="Make a trained diffusion model generate fast on this device, and measure what it costs.",
    help_format="plaintext",
    default_parameter=WHOLE,
    suppress_keyboard_interrupt=False,
    version_flags=["--version"],
)
for verb in (info, sample, measure, tune, train, learn, edit, export, generate, serve, push, pull):
    app.command(verb)
app.command(install_completion, name="--install-completion")


def main(arguments: list[str] | None = None) -> None:
    """Entry point of ``hasten``: run a verb and exit with its status."""
    sys.exit(_status(arguments))


def _status(arguments: list[str] | None) -> int:
    from hasten.core.errors import HastenError

    try:
        app(arguments, exit_on_error=False, print_error=False, result_action="return_value")
    except cyclopts.CycloptsError as error:
        return _fail(f"{error}", 2)
    except HastenError as error:
        return _fail(str(error), error.exit_status)
    except KeyboardInterrupt as stop:
        return _fail(str(stop) or "stopped", 130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except Exception as error:  # the last resort: one line, the traceback on request
        if os.environ.get("HASTEN_TRACEBACK"):
            traceback.print_exc()
        what = f"{type(error).__name__}: {error}"
        return _fail(f"{what} (a fault of hasten; HASTEN_TRACEBACK=1 shows where)", 1)
    return 0


def _fail(message: str, status: int) -> int:
    print(f"hasten: {' '.join(message.split())}", file=sys.stderr)
    return status
