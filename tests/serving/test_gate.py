"""Who may ask the server, how much at once, and what hostile clients get."""

import json
import socket

import pytest

from hasten.serving import gate
from hasten.serving.gate import Rules
from served_models import serving

httpx = pytest.importorskip("httpx")

TOKEN = "a long enough token"
ROUTES = ("/v1/images/generations", "/v1/images/edits", "/v1/videos")
HOSTILE = [
    "../../etc/passwd",
    "..\\..\\windows\\win.ini",
    "....//....//etc/passwd",
    "/etc/passwd",
    "file:///etc/passwd",
    "%2e%2e%2fetc%2fpasswd",
    "%252e%252e%252fetc%252fpasswd",
    "..%c0%af..%c0%afetc/passwd",
    "..;/..;/etc/passwd",
    "/proc/self/environ",
    "\\\\127.0.0.1\\share",
    "C:\\secrets.txt",
    "~/.ssh/id_rsa",
    "./../../x\x00.png",
    "http://169.254.169.254/latest/meta-data/",
    "http://127.0.0.1:8000/metrics",
    "http://[::1]/",
    "http://localhost:22",
    "gopher://127.0.0.1:25/",
    "ftp://127.0.0.1/x",
]


def hostile_requests(address):
    """Sixty requests that try to read files, or to reach other servers."""
    for text in HOSTILE:
        yield "POST", f"{address}/v1/images/generations", {"json": {"prompt": "3", "model": text}}
        yield "POST", f"{address}/v1/images/generations", {"json": {"prompt": "3", "plan": text}}
        quoted = text.replace("\x00", "%00").replace("\\", "%5c").replace(" ", "%20")
        quoted = quoted.replace("[", "%5b").replace("]", "%5d")
        yield "GET", f"{address}/v1/videos/{quoted}/content", {}


def test_paths_and_addresses_in_requests_open_nothing(address):
    count = 0
    for method, url, body in hostile_requests(address):
        answer = httpx.request(method, url, **body)
        assert 400 <= answer.status_code < 500, (url, answer.status_code)
        assert "root:" not in answer.text
        count += 1
    assert count == 60
    assert httpx.get(f"{address}/health").json() == {"status": "ok"}


def test_a_prompt_may_say_anything(address):
    for text in HOSTILE:
        answer = httpx.post(f"{address}/v1/images/generations", json={"prompt": text})
        assert answer.status_code == 400  # it is no class of this model


@pytest.mark.parametrize("route", ROUTES)
def test_a_body_too_large_is_refused_before_it_has_come(address, route):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        head = f"POST {route} HTTP/1.1\r\nHost: {host}\r\nContent-Type: application/json\r\n"
        sock.sendall(f"{head}Content-Length: {64 << 20}\r\n\r\n".encode())
        assert b" 413 " in sock.recv(4096)


def test_a_body_that_does_not_say_its_size_is_cut_off(address):
    def chunks():
        for _ in range(20):
            yield b" " * (1 << 20)

    try:
        answer = httpx.post(f"{address}/v1/images/generations", content=chunks())
        assert answer.status_code == 413
    except httpx.TransportError:
        pass  # the server closed the connection while the rest was on its way
    assert httpx.get(f"{address}/health").status_code == 200


def test_a_body_that_comes_slowly_is_given_up(served_mnist, monkeypatch):
    monkeypatch.setattr(gate, "SLOWEST", 0.2)
    with serving([served_mnist]) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=10) as sock:
            head = f"POST /v1/images/generations HTTP/1.1\r\nHost: {host}\r\n"
            sock.sendall(f"{head}Content-Length: 100\r\n\r\n{{".encode())
            assert b" 408 " in sock.recv(4096)


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"",
        b"null",
        b"[]",
        b'"text"',
        b"\xff\xfe",
        b'{"prompt": NaN}',
        b"[" * 100_000,
        b'{"prompt":' * 10_000,
        json.dumps({"prompt": "3", "seed": 10**4000}).encode(),
        b'{"prompt": "3", "guidance_scale": 1e999}',
        b'{"prompt": "\\ud800"}',
    ],
)
def test_bodies_that_are_no_requests_are_refused(address, body):
    headers = {"Content-Type": "application/json"}
    answer = httpx.post(f"{address}/v1/images/generations", content=body, headers=headers)
    assert answer.status_code == 400
    assert set(answer.json()["error"]) == {"type", "message", "param", "code"}


def test_other_addresses_and_methods_are_errors_of_the_same_shape(address):
    assert httpx.head(f"{address}/health").status_code == 200
    for method, path, status in (("GET", "/v2", 404), ("GET", ROUTES[0], 405)):
        answer = httpx.request(method, f"{address}{path}")
        assert answer.status_code == status
        assert set(answer.json()["error"]) == {"type", "message", "param", "code"}


def test_names_of_other_hosts_are_refused(address):
    answer = httpx.get(f"{address}/v1/models", headers={"Host": "evil.example:80"})
    assert answer.status_code == 403


def test_pages_of_other_sites_may_not_ask(address):
    headers = {"Origin": "https://evil.example"}
    answer = httpx.post(f"{address}/v1/images/edits", headers=headers, data={"prompt": "3"})
    assert answer.status_code == 403


@pytest.mark.parametrize("origin", ["null", "http://[", "https://127.0.0.1.evil.example"])
def test_origins_that_are_none_are_refused(address, origin):
    answer = httpx.get(f"{address}/v1/models", headers={"Origin": origin})
    assert answer.status_code == 403


@pytest.mark.parametrize("host", ["LOCALHOST", "localhost.", "[::1]:80", "127.0.0.1"])
def test_names_of_this_machine_are_taken(address, host):
    assert httpx.get(f"{address}/health", headers={"Host": host}).status_code == 200


def test_a_head_that_never_ends_is_given_up(address):
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as sock:
        sock.sendall(b"GET /" + b"x" * (1 << 17))
        assert b" 400 " in sock.recv(4096)


def test_a_silent_connection_is_closed(served_mnist, monkeypatch):
    monkeypatch.setattr("hasten.serving.listening.SILENT", 0.1)
    with serving([served_mnist]) as address:
        host, port = address.removeprefix("http://").split(":")
        with socket.create_connection((host, int(port)), timeout=30) as sock:
            sock.sendall(b"GET / HTT")
            assert sock.recv(4096) == b""


def test_a_token_is_asked_for_where_there_is_one(served_mnist):
    rules = Rules(token=TOKEN, local=False)  # as behind a proxy
    with serving([served_mnist], rules=rules) as address:
        named = {"Host": "hasten.example.com", "Authorization": f"bearer {TOKEN}"}
        assert httpx.get(f"{address}/v1/models", headers=named).status_code == 200
        assert httpx.get(f"{address}/health").status_code == 200
        for given in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": f"Basic {TOKEN}"}):
            answer = httpx.get(f"{address}/v1/models", headers=given)
            assert answer.status_code == 401
            assert answer.json()["error"]["code"] == "invalid_api_key"
        right = {"Authorization": f"Bearer {TOKEN}"}
        assert httpx.get(f"{address}/v1/models", headers=right).status_code == 200
        assert httpx.get(f"{address}/metrics").status_code == 401


def test_half_closed_and_idle_connections_hold_nobody_up(address):
    host, port = address.removeprefix("http://").split(":")
    idle = [socket.create_connection((host, int(port))) for _ in range(50)]
    for sock in idle[:25]:
        sock.sendall(b"POST /v1/images/generations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Le")
        sock.shutdown(socket.SHUT_WR)
    assert httpx.get(f"{address}/health", timeout=60).status_code == 200
    for sock in idle:
        sock.close()
