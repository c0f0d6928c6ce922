"""A multipart request taken apart while it streams: files go to disk as they come, nothing is held in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from typing import Any

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header

from tunesmith.core.errors import BadRequest, TooLarge, TooMany, UnsupportedFormat

MAX_PARTS = 1_000
MAX_FIELD_BYTES = 64 * 1024
MAX_HEADER_BYTES = 16 * 1024


class Sink:
    """What takes a file: `begin(file_name)`, then `write(data)` …, then `end()`. May raise to refuse the file."""

    def begin(self, file_name: str) -> None: ...

    def write(self, data: bytes) -> None: ...

    def end(self) -> None: ...


class _Parts:
    """The parser's callbacks."""

    def __init__(self, sink: Sink, fields: dict[str, str]) -> None:
        self.sink, self.fields = sink, fields
        self.num_parts = 0
        self.whole = False
        self._reset()

    def _reset(self) -> None:
        self._header_name = self._header_value = b""
        self._headers: dict[bytes, bytes] = {}
        self._field: str | None = None
        self._value = bytearray()
        self._in_file = False

    def on_part_begin(self) -> None:
        self._reset()
        self.num_parts += 1
        if self.num_parts > MAX_PARTS:
            raise TooMany(f"The request has more than {MAX_PARTS} parts.", hint="Upload in several requests.")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._header_name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._header_value += data[start:end]
        if len(self._header_value) + len(self._header_name) > MAX_HEADER_BYTES:
            raise BadRequest("A header of the multipart body is too long.")

    def on_header_end(self) -> None:
        self._headers[self._header_name.lower()] = self._header_value
        self._header_name = self._header_value = b""

    def on_headers_finished(self) -> None:
        _, options = parse_options_header(self._headers.get(b"content-disposition", b""))
        file_name = options.get(b"filename")
        if file_name is not None:
            self._in_file = True
            self.sink.begin(file_name.decode("utf-8", "replace"))
        else:
            self._field = options.get(b"name", b"").decode("utf-8", "replace")

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        if self._in_file:
            self.sink.write(data[start:end])
            return
        self._value += data[start:end]
        if len(self._value) > MAX_FIELD_BYTES:
            raise TooLarge(f"Field {self._field!r} is longer than {MAX_FIELD_BYTES} bytes.")

    def on_part_end(self) -> None:
        if self._in_file:
            self.sink.end()
        elif self._field:
            self.fields[self._field] = self._value.decode("utf-8", "replace")

    def on_end(self) -> None:
        self.whole = True


async def receive(content_type: str, body: AsyncIterator[bytes], sink: Sink, run: Callable[..., Any]) -> dict[str, str]:
    """Feed the body to `sink`; returns the plain fields. `run` calls the parser off the event loop.

    Raises `UnsupportedFormat` for another content type, `BadRequest` for a body that is broken or cut off.
    """
    kind, options = parse_options_header(content_type)
    boundary = options.get(b"boundary")
    if kind != b"multipart/form-data" or not boundary:
        raise UnsupportedFormat(
            "Send the files as multipart/form-data.", hint='For example: curl -F "file=@data.csv" …/api/v1/datasets/'
        )
    fields: dict[str, str] = {}
    parts = _Parts(sink, fields)
    callbacks = {name: getattr(parts, name) for name in dir(parts) if name.startswith("on_")}
    try:
        parser = MultipartParser(boundary, callbacks)  # type: ignore[arg-type]
        async for chunk in body:
            if chunk:
                await run(parser.write, chunk)
        parser.finalize()
    except FormParserError as error:
        raise BadRequest(f"The multipart body is broken: {str(error)[:200]}") from None
    if not parts.whole:
        raise BadRequest("The upload ended before it was whole.", hint="Upload it again.")
    return fields
