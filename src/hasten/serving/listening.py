"""An application on a socket: uvicorn, with limits on connections that send nothing."""

from __future__ import annotations

import asyncio
import socket

import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

SILENT = 20.0  # seconds until a connection without a whole request is closed
LONGEST_HEAD = 1 << 16  # bytes of the line and headers of a request


class Impatient(H11Protocol):
    """Closes a connection that has not sent the head of a request in time."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        super().connection_made(transport)
        self.loop.call_later(SILENT, self._close_silent)

    def _close_silent(self) -> None:
        if self.cycle is None and not self.transport.is_closing():
            self.transport.close()


def server_of(app: FastAPI, log_level: str = "warning") -> uvicorn.Server:
    """A server of ``app``, to be run."""
    config = uvicorn.Config(
        app,
        http=Impatient,
        h11_max_incomplete_event_size=LONGEST_HEAD,
        log_level=log_level,
        timeout_keep_alive=5,
        timeout_graceful_shutdown=30,
        server_header=False,
    )
    return uvicorn.Server(config)


def serve_on(app: FastAPI, sock: socket.socket) -> None:
    """Serve ``app`` at ``sock`` until a signal."""
    server_of(app).run([sock])
