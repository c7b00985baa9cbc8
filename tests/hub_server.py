"""A Hugging Face Hub of this machine: repositories are made, take a commit, and give its files."""

import base64
import hashlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

COMMIT = "c0ffee" + 34 * "0"


class Hub(ThreadingHTTPServer):
    """All its repositories, in memory."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, dict[str, bytes]] = {}
        self.messages: list[str] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def do_POST(self) -> None:
        length = int(self.headers.get("Content-Length") or 0)
        body = self.rfile.read(length) if length else self._chunks()
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            owner = asked.get("organization") or "me"
            self.server.files.setdefault(f"{owner}/{asked['name']}", {})
            return self._json({"url": f"{self.server.url}/{owner}/{asked['name']}"})
        if parts == ["api", "validate-yaml"]:
            return self._json({"warnings": [], "errors": []})
        repo = "/".join(parts[2:4])
        if parts[4:5] == ["preupload"]:
            asked = json.loads(body)["files"]
            modes = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in asked
            ]
            return self._json({"files": modes})
        if parts[4:5] == ["commit"]:
            for line in body.decode().splitlines():
                entry = json.loads(line)
                value = entry["value"]
                if entry["key"] == "header":
                    self.server.messages.append(value["summary"])
                else:
                    self.server.files[repo][value["path"]] = base64.b64decode(value["content"])
            url = f"{self.server.url}/{repo}/commit/{COMMIT}"
            return self._json({"success": True, "commitUrl": url, "commitOid": COMMIT})
        return self._missing()

    def do_HEAD(self) -> None:
        self._file(with_body=False)

    def do_GET(self) -> None:
        parts = self.path.split("?")[0].strip("/").split("/")
        if parts[0] != "api":
            return self._file(with_body=True)
        repo = "/".join(parts[2:4])
        if repo not in self.server.files:
            return self._missing()
        if parts[4:5] == ["tree"]:
            files = self.server.files[repo].items()
            return self._json([
                {"type": "file", "path": n, "size": len(c), "oid": hashlib.sha1(c).hexdigest()}
                for n, c in files
            ])  # fmt: skip
        siblings = [{"rfilename": name} for name in self.server.files[repo]]
        return self._json({"id": repo, "modelId": repo, "sha": COMMIT, "siblings": siblings})

    def _file(self, *, with_body: bool) -> None:
        owner, name, _, _, path = self.path.split("?")[0].strip("/").split("/", 4)
        content = self.server.files.get(f"{owner}/{name}", {}).get(path)
        if content is None:
            return self._missing()
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("ETag", f'"{hashlib.sha1(content).hexdigest()}"')
        self.send_header("X-Repo-Commit", COMMIT)
        self.end_headers()
        if with_body:
            self.wfile.write(content)
        return None

    def _json(self, values: object) -> None:
        content = json.dumps(values).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def _missing(self) -> None:
        self.send_response(404)
        self.send_header("X-Error-Code", "RepoNotFound")
        self.send_header("X-Error-Message", "Repository not found")
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _chunks(self) -> bytes:
        found = b""
        if self.headers.get("Transfer-Encoding") == "chunked":
            while size := int(self.rfile.readline(), 16):
                found += self.rfile.read(size)
                self.rfile.readline()
            self.rfile.readline()
        return found

    def log_message(self, *arguments: object) -> None:
        """Say nothing."""


@contextmanager
def local_hub() -> Iterator[Hub]:
    with Hub() as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
