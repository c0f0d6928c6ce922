"""A stand-in for the hub's files over a real socket: one repository with LFS and plain files, ranges, cuts, forged bytes, gates."""

from __future__ import annotations

import contextlib
import hashlib
import json
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

TOKEN = "hf_" + "s" * 34
COMMIT = "c" * 40
PIECE = 64 * 1024


@dataclass
class Repository:
    """One model as the hub keeps it, and what goes wrong with it."""

    files: dict[str, bytes]
    gated: bool = False
    cut_after: int = 0
    """Bytes after which each connection of a large file breaks; 0 for never."""
    forged: set[str] = field(default_factory=set)
    """Files of which one byte is another than the digest says."""
    bytes_per_s: float = 0.0
    """Speed of large files; 0 for as fast as it goes."""
    tags: tuple[str, ...] = ("license:apache-2.0", "conversational")
    num_parameters: int | None = 328


def git_id(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def is_large(path: str) -> bool:
    return path.endswith((".safetensors", ".gguf", ".bin"))


class Hub(ThreadingHTTPServer):
    """`repositories` by name; `asked` is what came: method, path, range and whether a token came along."""

    daemon_threads = True

    def __init__(self, repositories: dict[str, Repository]) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.repositories = repositories
        self.asked: list[tuple[str, str, str, bool]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def handle_error(self, *_: Any) -> None:
        """Connections that were cut say nothing."""


class _Handler(BaseHTTPRequestHandler):
    server: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self.do_GET()

    def do_GET(self) -> None:
        path = unquote(urlsplit(self.path).path)
        token = self.headers.get("Authorization") == f"Bearer {TOKEN}"
        self.server.asked.append((self.command, path, self.headers.get("Range", ""), token))
        for name, repository in self.server.repositories.items():
            if path in (f"/api/models/{name}", *(f"/api/models/{name}/revision/{one}" for one in ("main", COMMIT))):
                return self._json(about(name, repository))
            if path == f"/api/models/{name}/auth-check":
                return self._refused(name) if repository.gated and not token else self._json({})
            for revision in ("main", COMMIT):
                prefix = f"/{name}/resolve/{revision}/"
                if path.startswith(prefix):
                    return self._file(name, repository, path.removeprefix(prefix), token)
        if path == "/api/models":
            return self._json([about(name, repository) for name, repository in self.server.repositories.items()])
        return self._error(404, "RepoNotFound")

    def _json(self, value: Any) -> None:
        body = json.dumps(value).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def _error(self, status: int, code: str) -> None:
        self.send_response(status)
        self.send_header("X-Error-Code", code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def _refused(self, name: str) -> None:
        self._error(403, "GatedRepo")

    def _file(self, name: str, repository: Repository, path: str, token: bool) -> None:
        if repository.gated and not token and path != "README.md":
            return self._refused(name)
        if path not in repository.files:
            return self._error(404, "EntryNotFound")
        content = repository.files[path]
        if path in repository.forged:
            content = content[:-1] + bytes([content[-1] ^ 1])
        start = 0
        if asked := self.headers.get("Range", ""):
            start = int(asked.removeprefix("bytes=").split("-")[0])
        digest = (
            hashlib.sha256(repository.files[path]).hexdigest() if is_large(path) else git_id(repository.files[path])
        )
        self.send_response(206 if start else 200)
        self.send_header("ETag", f'"{digest}"')
        self.send_header("X-Linked-ETag", f'"{digest}"')
        self.send_header("X-Linked-Size", str(len(content)))
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(content) - 1}/{len(content)}")
        self.send_header("Content-Length", str(len(content) - start))
        self.end_headers()
        if self.command == "GET":
            self._send(repository, content[start:], is_large(path))
        return None

    def _send(self, repository: Repository, content: bytes, is_large: bool) -> None:
        sent = 0
        while sent < len(content):
            if is_large and repository.cut_after and sent >= repository.cut_after:
                self.close_connection = True
                return
            self.wfile.write(content[sent : sent + PIECE])
            sent += PIECE
            if is_large and repository.bytes_per_s:
                time.sleep(PIECE / repository.bytes_per_s)


def about(name: str, repository: Repository) -> dict[str, Any]:
    """As `GET /api/models/{name}?blobs=true` has it."""
    siblings: list[dict[str, Any]] = []
    for path, content in repository.files.items():
        one: dict[str, Any] = {"rfilename": path, "size": len(content), "blobId": git_id(content)}
        if is_large(path):
            one["lfs"] = {"sha256": hashlib.sha256(content).hexdigest(), "size": len(content), "pointerSize": 130}
        siblings.append(one)
    told: dict[str, Any] = {
        "id": name, "modelId": name, "author": name.partition("/")[0], "sha": COMMIT, "private": False, "siblings": siblings,
        "gated": "manual" if repository.gated else False, "disabled": False, "downloads": 12, "likes": 3,
        "pipeline_tag": "text-generation", "tags": list(repository.tags), "lastModified": "2026-01-02T03:04:05.000Z",
    }  # fmt: skip
    if repository.num_parameters:
        total = repository.num_parameters
        told["safetensors"] = {"parameters": {"F32": total}, "total": total}
    return told


def files_of(folder: Path, padding: int = 0) -> dict[str, bytes]:
    """The files of a model folder, its weights made larger by bytes behind the last tensor's, and what must not be fetched."""
    files = {path.name: path.read_bytes() for path in folder.iterdir()}
    if padding:
        files["model.safetensors"] = padded(files["model.safetensors"], padding)
    return files | {
        "README.md": b"---\nlicense: apache-2.0\n---\n# It\n\nA small model that answers questions about parcels and refunds.\n",
        "tokenizer.json": b"{}",
        "pytorch_model.bin": b"never" * 100,
        "modeling_evil.py": b"raise SystemExit",
        "onnx/model.onnx": b"x",
    }


def padded(content: bytes, num_bytes: int) -> bytes:
    """A safetensors file with one more tensor of so many bytes."""
    import numpy as np
    from safetensors.numpy import load, save

    chance = np.random.default_rng(0)
    return save({**load(content), "model.more.weight": chance.integers(0, 255, num_bytes, np.uint8)})


@contextlib.contextmanager
def file_hub(**repositories: Repository) -> Iterator[Hub]:
    """Names are given with `__` for the slash."""
    hub = Hub({name.replace("__", "/").replace("_", "-"): one for name, one in repositories.items()})
    thread = threading.Thread(target=hub.serve_forever, daemon=True)
    thread.start()
    yield hub
    hub.shutdown()
    hub.server_close()
