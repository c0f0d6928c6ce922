"""One HTTP connection to a server: errors become exceptions of `tunesmith.core.errors`."""

from __future__ import annotations

import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx

from tunesmith.core import errors

DEFAULT_URL = "http://127.0.0.1:8000"
CHUNK_BYTES = 1024 * 1024
TRIES = 5
"""How often a request that may safely be repeated is sent when the connection breaks."""

Progress = Callable[[int, int], None]
"""`(bytes so far, bytes in all)`"""


class ServerUnreachable(errors.TunesmithError):
    """No Tunesmith server answers there."""


class Connection:
    """Sends requests under `/api/v1`."""

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout_s: float = 60.0) -> None:
        self.url = (url or os.environ.get("TUNESMITH_URL") or DEFAULT_URL).rstrip("/")
        check_url(self.url)
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        self.http = httpx.Client(base_url=f"{self.url}/api/v1", headers=headers, timeout=timeout_s)

    def close(self) -> None:
        self.http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Raises the server's error, or `ServerUnreachable`. GET is repeated when the connection breaks."""
        return self._send(method, path, TRIES if method == "GET" else 1, **options)

    def get(self, path: str, **params: Any) -> Any:
        return self.request("GET", path, params={k: v for k, v in params.items() if v is not None}).json()

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.request("POST", path, json=body)
        return answer.json() if answer.content else None

    def post_once(self, path: str, body: Any) -> Any:
        """A POST that makes one thing however often it has to be sent, by an `Idempotency-Key`."""
        return self._send("POST", path, TRIES, json=body, headers={"Idempotency-Key": str(uuid.uuid4())}).json()

    def _send(self, method: str, path: str, tries: int, **options: Any) -> httpx.Response:
        for number in range(1, tries + 1):
            try:
                answer = self.http.request(method, path, **options)
                break
            except httpx.TransportError as error:
                if number == tries or isinstance(error, httpx.ConnectError):
                    raise self._unreachable(error) from None
                time.sleep(0.2 * 2**number)
        raise_for_error(answer)
        return answer

    def _unreachable(self, error: httpx.TransportError) -> ServerUnreachable:
        return ServerUnreachable(
            f"No Tunesmith server answers at {self.url} ({error}).", hint="Start one with: tunesmith up"
        )

    def upload(self, path: Path, name: str | None, progress: Progress | None) -> Any:
        """Stream a file as a new dataset."""
        size_bytes = path.stat().st_size

        def parts() -> Iterator[bytes]:
            sent = 0
            with path.open("rb") as file:
                while chunk := file.read(CHUNK_BYTES):
                    yield chunk
                    sent += len(chunk)
                    if progress:
                        progress(sent, size_bytes)

        params = {"file_name": path.name, **({"name": name} if name else {})}
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
        return self.request("PUT", "/datasets/upload", params=params, content=parts(), headers=headers).json()

    def download(self, path: str, target: Path, progress: Progress | None = None, **params: Any) -> Path:
        """Stream to `target`, which appears whole or not at all."""
        part = target.with_name(f".{target.name}.part")
        try:
            with self.http.stream("GET", path, params={k: v for k, v in params.items() if v is not None}) as answer:
                if answer.status_code >= 400:
                    answer.read()
                raise_for_error(answer)
                total, done = int(answer.headers.get("content-length", 0)), 0
                with part.open("wb") as file:
                    for chunk in answer.iter_bytes(CHUNK_BYTES):
                        file.write(chunk)
                        done += len(chunk)
                        if progress:
                            progress(done, total)
            os.replace(part, target)
        except httpx.TransportError as error:
            raise self._unreachable(error) from None
        finally:
            part.unlink(missing_ok=True)
        return target


def check_url(url: str) -> None:
    """Raise `InvalidInput` for what is no address of a server."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise errors.InvalidInput(f"{url!r} is no address of a server.", hint=f"TUNESMITH_URL is like {DEFAULT_URL}")


def raise_for_error(answer: httpx.Response) -> None:
    """Raise the class that the server's `error` names."""
    if answer.status_code < 400:
        return
    try:
        body = answer.json()
    except ValueError:
        body = {}
    raise error_from(body if isinstance(body, dict) else {}, answer.status_code)


def error_from(body: dict[str, Any], status: int = 500) -> errors.TunesmithError:
    """An exception with the server's message, hint and details."""
    known = {cls().code: cls for cls in _all(errors.TunesmithError) if cls is not errors.JobFailure}
    cls = known.get(str(body.get("error")), errors.TunesmithError)
    error = cls(
        str(body.get("message") or f"The server answered {status}."),
        hint=str(body.get("hint", "")),
        details=body.get("details", []),
    )
    error.status = status
    return error


def _all(root: type[errors.TunesmithError]) -> list[type[errors.TunesmithError]]:
    return [
        root,
        *(found for child in root.__subclasses__() if child is not errors.JobFailure for found in _all(child)),
    ]
