"""``hasten --install-completion``."""

from __future__ import annotations

from pathlib import Path
from typing import Literal


def install_completion(
    *, shell: Literal["bash", "zsh", "fish", "powershell"] | None = None, out: Path | None = None
) -> None:
    """Install completion of commands and options in this shell.

    Args:
        shell: bash, zsh, fish or powershell; the one that is running by default.
        out: the file to write; by default the shell's own place, and its startup file reads it.
    """
    from cyclopts.completion.detect import ShellDetectionError

    from hasten.cli import app
    from hasten.core.errors import UserError

    try:
        file = app.install_completion(shell=shell, output=out, add_to_startup=out is None)
    except ShellDetectionError as error:
        raise UserError(
            "shell cannot be detected; give --shell bash, zsh, fish or powershell."
        ) from error
    except OSError as error:
        raise UserError(f"{error.filename} cannot be written: {error.strerror}.") from error
    print(f"wrote {file}; open a new shell to use it")
