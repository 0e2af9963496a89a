"""What the hub refuses, in one line each with the mend; and no waiting without an end."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Iterator

from hasten.adapters.folder import one_line
from hasten.core.errors import UserError

PATIENCE = 30.0  # seconds in which the hub has to send or take the next bytes
LOGIN = "log in with `hf auth login`, or set HF_TOKEN"


@contextlib.contextmanager
def asking_hub(repo: str, revision: str | None = None) -> Iterator[None]:
    """Calls of huggingface_hub about ``repo``: they end when the hub falls silent, keep their
    remarks to themselves, and what goes wrong is one line.

    Raises:
        UserError: whatever went wrong, with what to do.
    """
    from huggingface_hub.utils import get_session

    session = get_session()
    before = session.timeout
    session.timeout = PATIENCE
    try:
        with _quiet():
            yield
    except UserError:
        raise
    except Exception as error:
        where = f"hub repo {repo!r}" + (f" at {revision!r}" if revision else "")
        raise UserError(f"{where}: {_why(error, repo)}") from None
    finally:
        session.timeout = before


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without huggingface_hub's remarks, and without its progress bars where no one watches."""
    from huggingface_hub.utils import (
        are_progress_bars_disabled,
        disable_progress_bars,
        enable_progress_bars,
        logging,
    )

    verbosity, bars = logging.get_verbosity(), not are_progress_bars_disabled()
    logging.set_verbosity_error()
    if bars and not sys.stderr.isatty():
        disable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if bars:
            enable_progress_bars()


def _why(error: Exception, repo: str) -> str:
    """What happened, and the mend."""
    from huggingface_hub import constants

    kinds, status = _kinds(error), _status(error)
    endpoint = constants.ENDPOINT
    if "LocalTokenNotFoundError" in kinds:
        return f"it takes a token, and there is none; {LOGIN}."
    if constants.HF_HUB_OFFLINE or "OfflineModeIsEnabled" in kinds:
        return (
            "HF_HUB_OFFLINE is set, and the local cache does not have all of it; unset "
            "HF_HUB_OFFLINE."
        )
    if "GatedRepoError" in kinds:
        return f"it is gated; ask for access at {endpoint}/{repo}, and {LOGIN}."
    if "RevisionNotFoundError" in kinds:
        return "there is no such revision; give a branch, a tag or a commit that it has."
    if "RepositoryNotFoundError" in kinds or status in (401, 404):
        return f"it does not exist, or is private; check the name, or {LOGIN}."
    if status == 403:
        return (
            "your token may not do this; make one with write access to it at "
            f"{endpoint}/settings/tokens, and {LOGIN}."
        )
    if status is not None:
        return f"{endpoint} answers {status} ({_said(error)}); try again later."
    if "TimeoutException" in kinds:
        return f"{endpoint} does not answer; try again later, or check HF_ENDPOINT."
    if kinds & {"ConnectError", "NetworkError", "ProxyError", "RemoteProtocolError"}:
        return (
            f"{endpoint} cannot be reached ({one_line(_first(error))}); check the network, or set "
            "HF_HUB_OFFLINE=1 to use what the local cache has."
        )
    said = f"{type(error).__name__}: {_said(error)}"
    return f"{said}; check the name and the network, or give a folder."


def _said(error: Exception) -> str:
    return one_line(error)[:160]


def _chain(error: BaseException) -> Iterator[BaseException]:
    """``error`` and what it was raised from."""
    seen: BaseException | None = error
    while seen is not None:
        yield seen
        seen = seen.__cause__


def _first(error: Exception) -> Exception:
    *_, first = _chain(error)
    return first if isinstance(first, Exception) else error


def _kinds(error: Exception) -> set[str]:
    """The names of the classes of ``error`` and of its causes: which HTTP library huggingface_hub
    uses differs from version to version."""
    return {kind.__name__ for one in _chain(error) for kind in type(one).__mro__}


def _status(error: Exception) -> int | None:
    """The HTTP status that the hub answered with, where it answered."""
    codes = [getattr(getattr(one, "response", None), "status_code", None) for one in _chain(error)]
    return next((code for code in codes if isinstance(code, int)), None)
