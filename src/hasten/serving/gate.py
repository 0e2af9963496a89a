"""What every request passes before the application sees it: who may ask, and how much at once."""

from __future__ import annotations

import asyncio
import dataclasses
import hmac
import ipaddress
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from hasten.serving.errors import LIMIT, Refusal

MEGABYTE = 1 << 20
LARGEST_JSON, LARGEST_UPLOAD = 1 << 17, 12 * MEGABYTE  # bytes of a body
SLOWEST = 20.0  # seconds until a body has come whole
OPEN = ("/health", "/", "/page.js", "/page.css")  # answered without the token: they tell nothing


@dataclasses.dataclass(frozen=True, kw_only=True)
class Rules:
    """Who may ask.

    Attributes:
        token: that a request brings as ``Authorization: Bearer``; None asks for none.
        local: only pages and clients of this machine: the names of others in ``Host`` are refused,
            so that no page elsewhere can reach the server through a name of its own.
        most: requests that are answered at once.
    """

    token: str | None = None
    local: bool = True
    most: int = 64


class Gate:
    """Refuses what breaks the rules, without reading more of it than needed."""

    def __init__(
        self, app: ASGIApp, rules: Rules, refused: Callable[[int], object] = lambda status: None
    ) -> None:
        self.app, self.rules, self._refused, self._inside = app, rules, refused, 0

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {
            name.decode("latin-1"): value.decode("latin-1") for name, value in scope["headers"]
        }
        try:
            self._check(scope, headers)
            if self._inside >= self.rules.most and scope["path"] not in OPEN:
                raise Refusal(
                    503, "too many requests at once.", code="busy", kind=LIMIT, retry_after=1
                )
            self._inside += 1
            try:
                whole = await _body(scope, receive, headers)
                await self.app(scope, whole, send)
            finally:
                self._inside -= 1
        except Refusal as refusal:
            self._refused(refusal.status)
            await refusal.response(scope, receive, send)

    def _check(self, scope: Scope, headers: dict[str, str]) -> None:
        host = _name(headers.get("host", ""))
        if self.rules.local and not _is_local(host):
            raise Refusal(
                403,
                f"host {host[:80]!r} is not this machine; ask for 127.0.0.1, or start the server "
                "with a token and --host.",
                code="forbidden_host",
            )
        origin = headers.get("origin")
        if origin is not None and origin.partition("://")[2] != headers.get("host"):
            raise Refusal(403, "pages of other sites may not use this server.", code="forbidden")
        token = self.rules.token
        if token is None or scope["path"] in OPEN:
            return
        scheme, _, given = headers.get("authorization", "").partition(" ")
        right = hmac.compare_digest(given.strip().encode("latin-1"), token.encode())
        if scheme.lower() != "bearer" or not right:
            raise Refusal(
                401,
                "the token is missing or wrong; send it as Authorization: Bearer TOKEN.",
                code="invalid_api_key",
            )


def _name(host: str) -> str:
    """Of a Host header, without its port."""
    host = host.lower()
    if host.startswith("["):
        return host[1:].partition("]")[0]
    return (host.rpartition(":")[0] if ":" in host else host).rstrip(".")


def _is_local(name: str) -> bool:
    if name == "localhost":
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


async def _body(scope: Scope, receive: Receive, headers: dict[str, str]) -> Receive:
    """A ``receive`` that gives the body at once, which has come whole.

    Raises:
        Refusal: it is too large, or too slow.
    """
    uploads = headers.get("content-type", "").startswith("multipart/")
    most = LARGEST_UPLOAD if uploads else LARGEST_JSON
    told = headers.get("content-length", "0")
    if not told.isdecimal() or int(told) > most:
        raise _too_large(most)
    body, more = bytearray(), True
    try:
        async with asyncio.timeout(SLOWEST):
            while more:
                message = await receive()
                if message["type"] == "http.disconnect":
                    break
                body += message.get("body", b"")
                more = message.get("more_body", False)
                if len(body) > most:
                    raise _too_large(most)
    except TimeoutError:
        raise Refusal(408, f"the request took over {SLOWEST:g} s to come.", code="slow") from None
    given = False

    async def whole() -> Message:
        nonlocal given
        if given:
            return await receive()
        given = True
        return {"type": "http.request", "body": bytes(body), "more_body": False}

    return whole


def _too_large(most: int) -> Refusal:
    return Refusal(413, f"the body is larger than {most >> 10} kB.", code="too_large")
