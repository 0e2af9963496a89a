"""A stand-in for the Hugging Face hub on this machine: the calls that pushing and pulling make,
through the real huggingface_hub."""

from __future__ import annotations

import base64
import hashlib
import json
import threading
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_write"
Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """Repos as ``{name: {commit: {path: bytes}}}``, and the branches of each.

    ``answers`` maps a repo to (status, error code), which every call about it gets instead.
    """

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.commits: dict[str, dict[str, Files]] = {}
        self.branches: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.messages: list[str] = []
        self.asked: list[str] = []
        self.answers: dict[str, tuple[int, str]] = {}
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def put(self, repo: str, changes: Files, branch: str = "main") -> str:
        """A commit with ``changes`` on what ``branch`` holds; gives its hash."""
        branches = self.branches.setdefault(repo, {"main": ""})
        before = self.commits.setdefault(repo, {"": {}}).get(branches.get(branch, ""), {})
        files = {**before, **changes}
        text = json.dumps({name: base64.b64encode(body).decode() for name, body in files.items()})
        commit = hashlib.sha1(f"{branch}{text}".encode()).hexdigest()
        self.commits[repo][commit] = files
        branches[branch] = commit
        return commit

    def files(self, repo: str, branch: str = "main") -> Files:
        return self.commits[repo][self.branches[repo][branch]]


class Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: object) -> None:
        """Nothing on stderr."""

    def do_GET(self) -> None:
        self._answer(self._read())

    def do_HEAD(self) -> None:
        self._answer(self._read())

    def do_POST(self) -> None:
        self._answer(self._write())

    def _path(self) -> list[str]:
        plain = self.path.partition("?")[0].strip("/")
        return [urllib.parse.unquote(part) for part in plain.split("/")]

    def _read(self) -> tuple[int, dict[str, str], bytes]:
        """A repo's commit, its tree, or a file."""
        path, hub = self._path(), self.server
        hub.asked.append("/".join(path))
        api = path[:2] == ["api", "models"]
        repo = "/".join(path[2:4] if api else path[:2])
        if repo in hub.answers:
            return self._refused(*hub.answers[repo])
        if repo not in hub.commits:
            return self._refused(404, "RepoNotFound")
        rest = path[4:] if api else path[2:]
        revision = rest[1] if len(rest) > 1 else "main"
        commit = hub.branches[repo].get(revision, revision)
        if commit not in hub.commits[repo]:
            return self._refused(404, "RevisionNotFound")
        files = hub.commits[repo][commit]
        if api and rest[:1] == ["tree"]:
            tree = [
                {"type": "file", "path": name, "size": len(body), "oid": _oid(body)}
                for name, body in files.items()
            ]
            return self._json(tree)
        if api:
            names = [{"rfilename": name} for name in files]
            return self._json({"id": repo, "sha": commit, "siblings": names})
        name = "/".join(rest[2:])
        if name not in files:
            return self._refused(404, "EntryNotFound")
        headers = {"ETag": f'"{_oid(files[name])}"', "X-Repo-Commit": commit}
        return 200, headers, files[name]

    def _write(self) -> tuple[int, dict[str, str], bytes]:
        """Make a repo or a branch, check a card, say how files go up, or commit them."""
        path, hub = self._path(), self.server
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._refused(401, "")
        if path == ["api", "validate-yaml"]:
            return self._json({"warnings": [], "errors": []})
        if path == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}"
            if repo in hub.answers:
                return self._refused(*hub.answers[repo])
            if repo in hub.commits:
                return self._json({"url": f"{hub.url}/{repo}", "error": "exists"}, 409)
            hub.private[repo] = asked.get("visibility") == "private" or bool(asked.get("private"))
            hub.put(repo, {".gitattributes": b""})
            return self._json({"url": f"{hub.url}/{repo}"})
        repo, verb, branch = "/".join(path[2:4]), path[4], path[5]
        if verb == "branch":
            hub.branches[repo].setdefault(branch, hub.branches[repo]["main"])
            return self._json({})
        if verb == "preupload":
            files = [
                {"path": file["path"], "uploadMode": "regular", "shouldIgnore": False}
                for file in json.loads(body)["files"]
            ]
            return self._json({"files": files})
        rows = [json.loads(line) for line in body.splitlines()]
        hub.messages += [row["value"]["summary"] for row in rows if row["key"] == "header"]
        changes = {
            row["value"]["path"]: base64.b64decode(row["value"]["content"])
            for row in rows
            if row["key"] == "file"
        }
        commit = hub.put(repo, changes, branch)
        return self._json({"commitUrl": f"{hub.url}/{repo}/commit/{commit}", "commitOid": commit})

    def _json(self, body: object, status: int = 200) -> tuple[int, dict[str, str], bytes]:
        return status, {"Content-Type": "application/json"}, json.dumps(body).encode()

    def _refused(self, status: int, code: str) -> tuple[int, dict[str, str], bytes]:
        return status, {"X-Error-Code": code} if code else {}, b"{}"

    def _answer(self, answer: tuple[int, dict[str, str], bytes]) -> None:
        status, headers, body = answer
        self.send_response(status)
        for name, value in {**headers, "Content-Length": str(len(body))}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)


def _oid(body: bytes) -> str:
    return hashlib.sha1(body).hexdigest()
