"""``hasten serve``."""

from __future__ import annotations

import ipaddress
import os
import socket
import sys
from typing import TYPE_CHECKING, Annotated

from hasten.cli.options import Device, Parameter, Quiet

if TYPE_CHECKING:
    from hasten.serving.served import Served

TOKEN = "HASTEN_TOKEN"
NEEDS = 'serve needs: pip install "hasten[serve]"'


def serve(
    *models: str,
    plan: Annotated[list[str] | None, Parameter(name="--plan", negative="")] = None,
    host: str = "127.0.0.1",
    port: int = 8000,
    queue: int = 16,
    deadline: float = 120.0,
    device: Device = "cpu",
    quiet: Quiet = False,
) -> None:
    """Serve models over HTTP: a page, and the API that OpenAI's clients speak. Requests share
    network calls.

    Args:
        models: builtin:NAME, diffusers folders, or hub ids; builtin:shapes by default.
        plan: a plan to offer, by name: NAME=FILE, or the folder of a tuning run, whose plans are
            fast, balanced and best; give it again for another. By default the model's own plan.
            Plans are for the first model.
        host: the address to listen at. Any but this machine's own needs a token in the environment
            variable HASTEN_TOKEN, which clients send as their API key.
        port: of the server; 0 takes any that is free.
        queue: requests that may be under way or wait; more are told to come back.
        deadline: seconds until a request is given up.
    """
    from hasten.core.errors import UserError, require, require_number, require_whole

    require_whole("port", port, 0, 65535)
    require_whole("queue", queue, 1, 10_000)
    require_number("deadline", deadline, 0.1, 86_400)
    local, token = _is_local(host), os.environ.get(TOKEN) or None
    require(
        local or token is not None,
        f"host is {host!r}, which others can reach: set the environment variable {TOKEN} to a long "
        "random text, which clients send as their API key; or leave --host out.",
    )
    require(
        token is None or len(token) >= 16,
        f"{TOKEN} has {len(token or '')} letters; it takes 16 or more.",
    )
    try:
        from hasten.serving.app import application
        from hasten.serving.gate import Rules
        from hasten.serving.listening import serve_on
    except ImportError as error:
        raise UserError(f"{NEEDS} ({error.name} is missing)") from error
    with _bound(host, port) as sock:
        served = [
            _served(name, (plan or []) if number == 0 else [], device, quiet)
            for number, name in enumerate(models or ("builtin:shapes",))
        ]
        names = [each.name for each in served]
        require(len(set(names)) == len(names), f"models are {names}; name each once.")
        rules = Rules(token=token, local=local and token is None)
        app = application(served, rules=rules, queue=queue, deadline=deadline)
        sock.listen(1024)
        if not quiet:
            address = f"{host if ':' not in host else f'[{host}]'}:{sock.getsockname()[1]}"
            print(f"http://{address}", flush=True)
        serve_on(app, sock)


def _served(name: str, plans: list[str], device: str, quiet: bool) -> Served:
    """The model ``name``, warm."""
    from hasten.adapters.load import load
    from hasten.adapters.pipeline_notes import reads_prompts
    from hasten.serving.named import named_plans, report_of
    from hasten.serving.served import Served

    model = load(name, prompts=[""] if reads_prompts(name) else None, device=device)
    each = Served(name, model, named_plans(model, plans), report_of(plans))
    each.warm_()
    if not quiet:
        times = (f"{plan} {seconds * 1000:.0f} ms" for plan, seconds in each.seconds.items())
        print(f"{name}: {', '.join(times)} a picture", file=sys.stderr)
    return each


def _bound(host: str, port: int) -> socket.socket:
    """A socket at ``host`` and ``port``, which does not listen yet.

    Raises:
        UserError: the address cannot be used.
    """
    from hasten.core.errors import UserError

    kind = socket.AF_INET6 if ":" in host else socket.AF_INET
    sock = socket.socket(kind, socket.SOCK_STREAM)
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind((host, port))
    except OSError as error:
        sock.close()
        raise UserError(
            f"host {host!r}, port {port}: {error.strerror or error}; take another --port, or 0 for "
            "one that is free."
        ) from error
    return sock


def _is_local(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
