"""A small stand-in for the Hub's HTTP interface: repositories in memory, one commit after another."""

import base64
import hashlib
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any

TOKEN = "stand-in-token"

Files = dict[str, bytes]


class Hub(ThreadingHTTPServer):
    """Repositories by name, each a list of `(hash, files)`, the newest last."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.repositories: dict[str, list[tuple[str, Files]]] = {}
        self.private: dict[str, bool] = {}
        self.requests: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"

    def commit(self, repo: str, changes: Files) -> str:
        history = self.repositories[repo]
        files = {**(history[-1][1] if history else {}), **changes}
        digest = hashlib.sha1(f"{len(history)}{sorted(files)}".encode()).hexdigest()
        history.append((digest, files))
        return digest

    def find(self, repo: str, revision: str) -> tuple[str, Files] | None:
        history = self.repositories.get(repo, [])
        if revision == "main":
            return history[-1] if history else None
        return next((one for one in history if one[0] == revision), None)


class Handler(BaseHTTPRequestHandler):
    """The requests that uploading and downloading a model make."""

    server: Hub
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments: Any) -> None:
        """Nothing is printed."""

    def answer(self, content: Any, status: int = 200, headers: dict[str, str] | None = None) -> None:
        body = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        path = self.path.partition("?")[0]
        self.server.requests.append(f"POST {path}")
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid username or password."}, 401)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            repo = f"{wanted.get('organization') or 'someone'}/{wanted['name']}"
            is_new = repo not in self.server.repositories
            self.server.repositories.setdefault(repo, [])
            if is_new:
                self.server.private[repo] = wanted.get("visibility") == "private" or bool(wanted.get("private"))
            return self.answer({"url": f"{self.server.url}/{repo}", "id": repo}, 200 if is_new else 409)
        if match := re.fullmatch(r"/api/models/(.+)/preupload/main", path):
            files = json.loads(body)["files"]
            modes = [{"path": one["path"], "uploadMode": "regular", "shouldIgnore": False} for one in files]
            return self.answer({"files": modes})
        if match := re.fullmatch(r"/api/models/(.+)/commit/main", path):
            lines = [json.loads(line) for line in body.splitlines() if line.strip()]
            files = {
                one["value"]["path"]: base64.b64decode(one["value"]["content"])
                for one in lines
                if one["key"] == "file"
            }
            digest = self.server.commit(match[1], files)
            url = f"{self.server.url}/{match[1]}/commit/{digest}"
            return self.answer({"success": True, "commitOid": digest, "commitUrl": url})
        return self.answer({"error": "Not found"}, 404)

    def do_GET(self) -> None:
        path = self.path.partition("?")[0]
        self.server.requests.append(f"{self.command} {path}")
        if match := re.fullmatch(r"/(?!api/)([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            found = self.server.find(match[1], match[2])
            if found is None:
                return self.answer({"error": "Revision Not Found"}, 404, {"X-Error-Code": "RevisionNotFound"})
            digest, files = found
            if match[3] not in files:
                headers = {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": digest}
                return self.answer({"error": "Entry not found"}, 404, headers)
            content = files[match[3]]
            headers = {"X-Repo-Commit": digest, "ETag": f'"{hashlib.sha1(content).hexdigest()}"'}
            return self.answer(content, 200, headers)
        if match := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/([^/]+))?", path):
            found = self.server.find(match[1], match[2] or "main")
            if found is not None:
                names = [{"rfilename": name} for name in found[1]]
                return self.answer({"id": match[1], "modelId": match[1], "sha": found[0], "siblings": names})
        return self.answer({"error": "Not found"}, 404, {"X-Error-Code": "EntryNotFound"})

    do_HEAD = do_GET


@contextmanager
def running_hub() -> Iterator[Hub]:
    """A stand-in that serves until the block ends."""
    hub = Hub()
    thread = Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    try:
        yield hub
    finally:
        hub.shutdown()
        hub.server_close()
        thread.join()
