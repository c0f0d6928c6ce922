"""A small stand-in for the hub over a real socket: repositories, commits, and large files by Git LFS' batch interface."""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

TOKEN = "hf_" + "t" * 34


class HubServer:
    """`repos`: name → {private, files: path → bytes}."""

    def __init__(self) -> None:
        self.repos: dict[str, dict[str, Any]] = {}
        self.large: dict[str, bytes] = {}
        self.lock = threading.Lock()
        self.breaks_after: int | None = None
        """How many large files are taken before the hub goes silent with status 500; None for all."""

    def __enter__(self) -> HubServer:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"hub": self}))
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: HubServer

    def log_message(self, *_: Any) -> None:
        pass

    def _handle(self) -> None:
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        path = self.path.partition("?")[0]
        if path.startswith("/lfs/"):  # as on the real hub, the address itself is the permission
            return self._take(path.rpartition("/")[2], body)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self._say({"error": "Invalid credentials"}, 401)
        if path == "/api/whoami-v2":
            return self._say({"type": "user", "name": "tester", "auth": {"accessToken": {"role": "write"}}})
        if path == "/api/validate-yaml":
            return self._say({"errors": [], "warnings": []})
        if path == "/api/repos/create":
            return self._create(json.loads(body))
        if path == "/api/repos/delete":
            asked = json.loads(body)
            self.hub.repos.pop(f"{asked['organization']}/{asked['name']}", None)
            return self._say({})
        if found := re.fullmatch(
            r"/(?:api/models/)?([^/]+/[^/]+?)(?:\.git)?(/preupload/main|/commit/main|/info/lfs/objects/batch|/revision/main|)",
            path,
        ):
            return self._repo(found[1], found[2], body)
        return self._say({"error": f"not known here: {path}"}, 404)

    do_GET = do_POST = do_PUT = do_DELETE = _handle

    def _create(self, asked: dict[str, Any]) -> None:
        name = f"{asked.get('organization') or 'tester'}/{asked['name']}"
        if name in self.hub.repos:
            return self._say({"error": "exists", "url": f"{self.hub.url}/{name}"}, 409)
        private = asked.get("private", asked.get("visibility") == "private")
        self.hub.repos[name] = {"private": private, "files": {}}
        return self._say({"url": f"{self.hub.url}/{name}"})

    def _repo(self, name: str, part: str, body: bytes) -> None:
        repo = self.hub.repos.get(name)
        if repo is None:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return None
        if part == "/preupload/main":
            files = [
                {"path": f["path"], "uploadMode": "lfs" if f["path"].endswith((".safetensors", ".gguf")) else "regular", "shouldIgnore": False}
                for f in json.loads(body)["files"]
            ]  # fmt: skip
            return self._say({"files": files})
        if part == "/info/lfs/objects/batch":
            return self._batch(json.loads(body))
        if part == "/commit/main":
            return self._commit(name, repo, body)
        siblings = [{"rfilename": path} for path in repo["files"]]
        return self._say({"id": name, "private": repo["private"], "sha": "c" * 40, "siblings": siblings, "tags": []})

    def _batch(self, asked: dict[str, Any]) -> None:
        objects = []
        for wanted in asked["objects"]:
            action = {"upload": {"href": f"{self.hub.url}/lfs/{wanted['oid']}"}}
            objects.append({**wanted, **({} if wanted["oid"] in self.hub.large else {"actions": action})})
        self._say({"transfer": "basic", "objects": objects})

    def _take(self, oid: str, body: bytes) -> None:
        with self.hub.lock:  # files come several at a time
            if self.hub.breaks_after is not None and len(self.hub.large) >= self.hub.breaks_after:
                return self._say({"error": "not now"}, 500)
            assert hashlib.sha256(body).hexdigest() == oid
            self.hub.large[oid] = body
        return self._say({})

    def _commit(self, name: str, repo: dict[str, Any], body: bytes) -> None:
        for line in body.decode().splitlines():
            told = json.loads(line)
            value = told["value"]
            if told["key"] == "file":
                repo["files"][value["path"]] = base64.b64decode(value["content"])
            elif told["key"] == "lfsFile":
                repo["files"][value["path"]] = self.hub.large[value["oid"]]
        self._say({"success": True, "commitOid": "c" * 40, "commitUrl": f"{self.hub.url}/{name}/commit/{'c' * 40}"})

    def _say(self, told: Any, status: int = 200) -> None:
        data = json.dumps(told).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
