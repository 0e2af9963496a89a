"""A server with a small model, in a thread."""

import contextlib
import socket
import threading
import time

import hasten
from hasten.serving.app import application
from hasten.serving.gate import Rules
from hasten.serving.listening import server_of
from hasten.serving.named import named_plans
from hasten.serving.served import Served

PLANS = [
    "fast=solver=dpmpp,grid=log-snr,steps=2,guidance=2",
    "solver=dpmpp,grid=log-snr,steps=4,guidance=2",
    "best=solver=dpmpp,grid=log-snr,steps=8,guidance=2",
]


def served_mnist():
    """``builtin:mnist`` with :data:`PLANS`."""
    model = hasten.load("builtin:mnist")
    return Served("builtin:mnist", model, named_plans(model, PLANS))


@contextlib.contextmanager
def serving(models, **options):
    """The address of a server."""
    sock = socket.socket()
    sock.bind(("127.0.0.1", 0))
    sock.listen(64)
    app = application(models, **{"rules": Rules(), **options})
    server = server_of(app, log_level="critical")
    thread = threading.Thread(target=server.run, args=([sock],), daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    yield f"http://127.0.0.1:{sock.getsockname()[1]}"
    server.should_exit = True
    thread.join(20)
