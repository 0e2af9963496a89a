"""``hasten serve`` as a command."""

import json
import os
import signal
import socket
import subprocess
import sys
import urllib.request

import pytest

from hasten.cli import main

pytest.importorskip("uvicorn")


def refused(capsys, *arguments):
    with pytest.raises(SystemExit) as stop:
        main(["serve", *arguments])
    assert stop.value.code == 2
    (line,) = capsys.readouterr().err.splitlines()
    return line


def test_an_address_that_others_can_reach_needs_a_token(capsys, monkeypatch):
    monkeypatch.delenv("HASTEN_TOKEN", raising=False)
    assert "HASTEN_TOKEN" in refused(capsys, "builtin:mnist", "--host", "0.0.0.0")
    monkeypatch.setenv("HASTEN_TOKEN", "short")
    assert "takes 16 or more" in refused(capsys, "builtin:mnist", "--host", "0.0.0.0")


def test_models_are_named_once(capsys, monkeypatch):
    monkeypatch.setattr("hasten.serving.served.Served.warm_", lambda self: None)
    assert "name each once" in refused(capsys, "builtin:mnist", "builtin:mnist", "--quiet")


def test_a_port_that_is_taken_is_named(capsys, monkeypatch):
    monkeypatch.setattr("hasten.serving.served.Served.warm_", lambda self: None)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        assert f"port {port}" in refused(capsys, "builtin:mnist", "--quiet", "--port", port)


@pytest.mark.parametrize(
    ("arguments", "what"),
    [
        (["--port", "70000"], "port"),
        (["--queue", "0"], "queue"),
        (["--deadline", "0"], "deadline"),
        (["--plan", "missing.json"], "missing.json"),
    ],
)
def test_an_option_that_does_not_fit_is_named(capsys, arguments, what):
    assert what in refused(capsys, "builtin:mnist", *arguments)


def test_a_server_answers_until_it_is_interrupted():
    plan = "solver=dpmpp,grid=log-snr,steps=2"
    command = [sys.executable, "-m", "hasten", "serve", "builtin:mnist", "--plan", plan]
    server = subprocess.Popen(
        [*command, "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert server.stdout is not None
    address = server.stdout.readline().strip()
    body = json.dumps({"prompt": "3"}).encode()
    headers = {"Content-Type": "application/json"}
    request = urllib.request.Request(f"{address}/v1/images/generations", body, headers)
    with urllib.request.urlopen(request, timeout=60) as answer:
        assert len(json.load(answer)["data"]) == 1
    server.send_signal(signal.SIGINT)
    _, errors = server.communicate(timeout=60)
    assert server.returncode == 130
    assert "Traceback" not in errors
