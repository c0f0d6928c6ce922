"""One HTTP connection to a server: errors become exceptions of `tunesmith.core.errors`."""

from __future__ import annotations

import contextlib
import itertools
import os
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import httpx

from tunesmith.core import errors
from tunesmith.sdk import credentials

DEFAULT_URL = "http://127.0.0.1:8000"
CHUNK_BYTES = 1024 * 1024
TRIES = 5
"""How often a request that may safely be repeated is sent when the connection breaks."""

T = TypeVar("T")
Progress = Callable[[int, int], None]
"""`(bytes so far, bytes in all)`"""


class ServerUnreachable(errors.TunesmithError):
    """No Tunesmith server answers there."""


class NotTunesmith(errors.TunesmithError):
    """Something answers there, but it is no Tunesmith server."""


class Connection:
    """Sends requests under `/api/v1`."""

    def __init__(self, url: str | None = None, token: str | None = None, *, timeout_s: float = 60.0) -> None:
        self.url = (url or os.environ.get("TUNESMITH_URL") or DEFAULT_URL).rstrip("/")
        check_url(self.url)
        self.http = httpx.Client(base_url=f"{self.url}/api/v1", timeout=timeout_s)
        if token := token or credentials.find(self.url):
            self.use_token(token)

    def use_token(self, token: str) -> None:
        """Send this access token or API key from now on."""
        if not token.isascii() or not token.isprintable() or " " in token:
            raise errors.InvalidInput("The API key has characters that no key has.", hint="Copy it again.")
        self.http.headers["Authorization"] = f"Bearer {token}"

    def close(self) -> None:
        self.http.close()

    def request(self, method: str, path: str, **options: Any) -> httpx.Response:
        """Raises the server's error, or `ServerUnreachable`. GET is repeated when the connection breaks."""
        return self._send(method, path, TRIES if method == "GET" else 1, **options)

    def get(self, path: str, **params: Any) -> Any:
        return json_of(self.request("GET", path, params=_given(params)))

    def post(self, path: str, body: Any = None) -> Any:
        answer = self.request("POST", path, json=body)
        return json_of(answer) if answer.content else None

    def post_once(self, path: str, body: Any) -> Any:
        """A POST that makes one thing however often it has to be sent, by an `Idempotency-Key`."""
        return json_of(self._send("POST", path, TRIES, json=body, headers={"Idempotency-Key": str(uuid.uuid4())}))

    @contextlib.contextmanager
    def stream(self, method: str, path: str, **options: Any) -> Iterator[httpx.Response]:
        """An answer to be read as it comes. Raises the server's error, and `httpx.TransportError` when the connection breaks."""
        answer = self.http.send(self._built(method, path, **options), stream=True)
        try:
            if answer.status_code >= 400:
                answer.read()
            raise_for_error(answer)
            yield answer
        finally:
            answer.close()

    def _built(self, method: str, path: str, **options: Any) -> httpx.Request:
        """Raises `InvalidInput` for what JSON cannot hold, such as a number that is not one."""
        try:
            return self.http.build_request(method, path, **options)
        except (TypeError, ValueError) as error:
            raise errors.InvalidInput(f"This cannot be sent: {error}.") from None

    def _send(self, method: str, path: str, tries: int, **options: Any) -> httpx.Response:
        request = self._built(method, path, **options)
        answer = self._tried(tries, lambda: self.http.send(request))
        raise_for_error(answer)
        return answer

    def _tried(self, tries: int, work: Callable[[], T]) -> T:
        """`work`, again when the connection breaks. A server that was never there is not waited for, one that went away is."""
        for number in itertools.count(1):
            try:
                return work()
            except httpx.TransportError as error:
                never_there = number == 1 and isinstance(error, httpx.ConnectError)
                if number == tries or never_there:
                    raise self._unreachable(error) from None
                time.sleep(0.2 * 2**number)
        raise AssertionError  # the count has no end

    def _unreachable(self, error: httpx.TransportError) -> ServerUnreachable:
        return ServerUnreachable(
            f"No Tunesmith server answers at {self.url} ({error}).", hint="Start one with: tunesmith up"
        )

    def upload(self, path: str, file: Path, progress: Progress | None, **options: Any) -> Any:
        """Stream `file` to `path` and return what the server made of it. `options`: `params`, `timeout`."""
        size_bytes = file.stat().st_size

        def parts() -> Iterator[bytes]:
            sent = 0
            with file.open("rb") as opened:
                while chunk := opened.read(CHUNK_BYTES):
                    yield chunk
                    sent += len(chunk)
                    if progress:
                        progress(sent, size_bytes)

        params = _given(options.pop("params", {})) | {"file_name": os.fsencode(file.name).decode(errors="replace")}
        headers = {"Content-Length": str(size_bytes), "Content-Type": "application/octet-stream"}
        return json_of(self.request("PUT", path, params=params, content=parts(), headers=headers, **options))

    def download(self, path: str, target: Path, progress: Progress | None = None, **params: Any) -> Path:
        """Stream to `target`, which appears whole or not at all. Begins again when the connection breaks.

        Raises `InvalidInput` when `target` is a folder or lies in none. `progress` is told 0 in all where that is not known.
        """
        if target.is_dir():
            raise errors.InvalidInput(f"{target} is a folder.", hint="Give the name of a file.")
        if not target.parent.is_dir():
            raise errors.InvalidInput(f"There is no folder {target.parent}.", hint="Make it first.")
        part = target.with_name(f".{target.name[:200]}.{uuid.uuid4().hex[:8]}.part")
        try:
            self._tried(TRIES, lambda: self._write(part, path, progress, params))
            os.replace(part, target)
        finally:
            part.unlink(missing_ok=True)
        return target

    def _write(self, part: Path, path: str, progress: Progress | None, params: dict[str, Any]) -> None:
        with self.stream("GET", path, params=_given(params)) as answer, part.open("wb") as file:
            total, done = int(answer.headers.get("content-length", 0)), 0
            for chunk in answer.iter_bytes(CHUNK_BYTES):
                file.write(chunk)
                done += len(chunk)
                if progress:
                    progress(done, total)


def pages(connection: Connection, path: str, filters: dict[str, Any]) -> Iterator[Any]:
    """The items of every page."""
    cursor: int | None = None
    while True:
        page = connection.get(path, cursor=cursor, **filters)
        yield from page["items"]
        cursor = page["next_cursor"]
        if cursor is None:
            return


def _given(params: dict[str, Any]) -> dict[str, Any]:
    return {key: value for key, value in params.items() if value is not None}


def check_url(url: str) -> None:
    """Raise `InvalidInput` for what is no address of a server."""
    try:
        parsed = httpx.URL(url)
    except httpx.InvalidURL:
        parsed = httpx.URL()
    if parsed.scheme not in ("http", "https") or not parsed.host:
        raise errors.InvalidInput(f"{url!r} is no address of a server.", hint=f"TUNESMITH_URL is like {DEFAULT_URL}")


def raise_for_error(answer: httpx.Response) -> None:
    """Raise the class that the server's `error` names, or `NotTunesmith` for what a Tunesmith server never says."""
    if answer.status_code < 400:
        return
    try:
        body = answer.json()
    except ValueError:
        body = None
    if not isinstance(body, dict) or "error" not in body:
        if answer.status_code in (404, 405, 501):
            raise _stranger(answer)
        body = {}
    raise error_from(body, answer.status_code)


def json_of(answer: httpx.Response) -> Any:
    """Raises `NotTunesmith` when the answer is no JSON."""
    try:
        return answer.json()
    except ValueError:
        raise _stranger(answer) from None


def _stranger(answer: httpx.Response) -> NotTunesmith:
    return NotTunesmith(f"What answers at {answer.url} is no Tunesmith server.", hint="TUNESMITH_URL names the server.")


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
