"""diffusers and transformers without their remarks, for as long as a call takes and no longer."""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Iterator
from types import ModuleType

# Where ExecuTorch is installed torchao is too, and diffusers imports it: what torchao cannot load
# of itself on this machine is no concern of whoever loads a model.
TORCHAO = ("torchao", "torch.utils._pytree", "diffusers.quantizers.torchao.torchao_quantizer")


@contextlib.contextmanager
def quiet_import() -> Iterator[None]:
    """Without what torchao logs while it is imported; the levels are put back after it."""
    before = {name: logging.getLogger(name).level for name in TORCHAO}
    for name in TORCHAO:
        logging.getLogger(name).setLevel(logging.ERROR)
    try:
        yield
    finally:
        for name, level in before.items():
            logging.getLogger(name).setLevel(level)


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Without the progress bars of diffusers and transformers, and their remarks."""
    import transformers

    libraries: list[ModuleType] = [library.utils.logging for library in (diffusers(), transformers)]
    before = [(library.get_verbosity(), library.is_progress_bar_enabled()) for library in libraries]
    for library in libraries:
        library.set_verbosity_error()
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library, (verbosity, bars) in zip(libraries, before, strict=True):
            library.set_verbosity(verbosity)
            if bars:
                library.enable_progress_bar()


def diffusers() -> ModuleType:
    """The package diffusers, imported when it is first needed, without what torchao logs then."""
    with quiet_import():
        import diffusers as package
    return package
