"""A small stand-in for Ollama: its documented HTTP API over a real socket, which really generates with llama.cpp from the file it was
given. Blobs are checked against their digests, and what `create` is told is kept for tests to look at.
"""

from __future__ import annotations

import hashlib
import json
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

from tunesmith.recipes.blocks.llama_cpp import look
from tunesmith.recipes.gguf import check_gguf


class OllamaServer:
    """Start with `with OllamaServer() as ollama:`; `ollama.url` is what OLLAMA_HOST wants."""

    def __init__(self) -> None:
        self.folder = Path(tempfile.mkdtemp(prefix="ollama-"))
        self.models: dict[str, dict[str, Any]] = {}
        self.uploads = 0
        self.refuses = ""
        """What `create` is to answer with, as Ollama does when it cannot use a file."""

    def __enter__(self) -> OllamaServer:
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (_Handler,), {"ollama": self}))
        threading.Thread(target=self._http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        return self

    def __exit__(self, *_: Any) -> None:
        self._http.shutdown()
        self._http.server_close()

    def blob(self, digest: str) -> Path:
        return self.folder / digest.replace(":", "-")

    def generate(self, model: dict[str, Any], asked: dict[str, Any]) -> str:
        """With the system prompt of the model, as Ollama puts it before what it is asked."""
        system = [{"role": "system", "content": model["system"]}] if model.get("system") else []
        messages = asked.get("messages") or [{"role": "user", "content": asked.get("prompt", "")}]
        most = int({**model["parameters"], **asked.get("options", {})}.get("num_predict", 16))
        adapter = next((self.blob(d) for d in (model.get("adapters") or {}).values()), None)
        file = self.blob(next(iter(model["files"].values())))
        return look(file, questions=[[*system, *messages]], max_tokens=most, adapter=adapter).answers[0]


class _Handler(BaseHTTPRequestHandler):
    ollama: OllamaServer

    def log_message(self, *_: Any) -> None:
        pass

    def do_HEAD(self) -> None:
        there = self.path.startswith("/api/blobs/") and self.ollama.blob(self.path.rpartition("/")[2]).is_file()
        self.send_response(200 if there else 404)
        self.end_headers()

    def do_GET(self) -> None:
        if self.path == "/api/version":
            return self._say({"version": "0.12.0"})
        if self.path == "/api/tags":
            return self._say({"models": [{"model": name, "name": name} for name in self.ollama.models]})
        return self._say({"error": "not found"}, 404)

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.path.startswith("/api/blobs/"):
            digest = self.path.rpartition("/")[2]
            if digest != "sha256:" + hashlib.sha256(body).hexdigest():
                return self._say({"error": "digest mismatch"}, 400)
            self.ollama.uploads += 1
            self.ollama.blob(digest).write_bytes(body)
            return self._say({}, 201)
        asked = json.loads(body)
        if self.path == "/api/create":
            return self._create(asked)
        model = self.ollama.models.get(asked["model"].removesuffix(":latest"))
        if model is None:
            return self._say({"error": f"model '{asked['model']}' not found"}, 404)
        if self.path == "/api/show":
            return self._say(
                {"template": model.get("template", ""), "system": model.get("system", ""), "modelfile": ""}
            )
        text = self.ollama.generate(model, asked)
        told = {
            "model": asked["model"],
            "created_at": "2026-01-01T00:00:00Z",
            "done": True,
            "eval_count": len(text.split()),
        }
        if self.path == "/api/chat":
            return self._say({**told, "message": {"role": "assistant", "content": text}})
        return self._say({**told, "response": text})

    def do_DELETE(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        there = self.ollama.models.pop(asked["model"], None)
        self._say({} if there else {"error": "not found"}, 200 if there else 404)

    def _create(self, asked: dict[str, Any]) -> None:
        """A line for each step, and `success` in the end."""
        blobs = [*asked["files"].values(), *(asked.get("adapters") or {}).values()]
        if missing := [digest for digest in blobs if not self.ollama.blob(digest).is_file()]:
            return self._say({"error": f"blob {missing[0]} not found"}, 400)
        for digest in blobs:
            check_gguf(self.ollama.blob(digest))
        steps: list[dict[str, Any]] = [{"status": "parsing GGUF"}, {"status": "writing manifest"}]
        if self.ollama.refuses:
            steps.append({"error": self.ollama.refuses})
        else:
            self.ollama.models[asked["model"]] = asked
            steps.append({"status": "success"})
        return self._say(steps)

    def _say(self, told: Any, status: int = 200) -> None:
        lines = told if isinstance(told, list) else [told]
        data = b"".join(json.dumps(line).encode() + b"\n" for line in lines)
        self.send_response(status)
        self.send_header("Content-Type", "application/x-ndjson" if isinstance(told, list) else "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)
