"""Every error leaves here as `{error, message, hint, details[]}`."""

from __future__ import annotations

import errno
import logging
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import ValidationError
from sqlalchemy.exc import DataError, DBAPIError
from starlette.exceptions import HTTPException

from tunesmith.core.errors import DiskFull, InvalidInput, TunesmithError

log = logging.getLogger(__name__)

STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 400: "bad_request", 415: "unsupported_format"}


def problems(error: ValidationError | RequestValidationError, *, prefix: str = "") -> list[dict[str, Any]]:
    """Pydantic's problems as `{loc, message, type}`, with the place as a dotted path and without echoing the input."""
    found = []
    for problem in error.errors():
        loc = [str(part) for part in problem["loc"] if part != "body"]
        found.append(
            {"loc": ".".join([*([prefix] if prefix else []), *loc]), "message": problem["msg"], "type": problem["type"]}
        )
    return found


def invalid_input(error: ValidationError | RequestValidationError, *, prefix: str = "") -> InvalidInput:
    """All problems named at once."""
    details = problems(error, prefix=prefix)
    where = ", ".join(d["loc"] for d in details[:5] if d["loc"])
    return InvalidInput(
        f"{len(details)} value(s) cannot be used: {where}." if where else "The request cannot be used.",
        hint="Each problem is named in details, with its place.",
        details=details,
    )


def is_disk_full(error: Exception) -> bool:
    """A file that could not be written, or a database that says so of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    said = str(error.orig) if isinstance(error, DBAPIError) else ""
    return "disk is full" in said or "No space left on device" in said


def _answer(error: TunesmithError) -> JSONResponse:
    return JSONResponse(error.body(), status_code=error.status)


def install_error_handlers(app: FastAPI) -> None:
    """Register the handlers; the last one hides what the error says and logs it."""

    @app.exception_handler(TunesmithError)
    def known(_request: Request, error: TunesmithError) -> JSONResponse:
        if error.status >= 500:
            log.error("%s: %s", error.code, error.message, exc_info=error)
        return _answer(error)

    @app.exception_handler(RequestValidationError)
    def invalid(_request: Request, error: RequestValidationError) -> JSONResponse:
        return _answer(invalid_input(error))

    @app.exception_handler(DataError)
    def not_storable(_request: Request, error: DataError) -> JSONResponse:
        log.warning("the database refused a value: %s", error.orig)
        return _answer(InvalidInput("A value cannot be stored.", hint="Text without NUL, numbers within 64 bits."))

    @app.exception_handler(HTTPException)
    def plain(_request: Request, error: HTTPException) -> JSONResponse:
        code = STATUS_CODES.get(error.status_code, "http_error")
        body = {"error": code, "message": str(error.detail), "hint": "The API is described at /docs.", "details": []}
        return JSONResponse(body, status_code=error.status_code, headers=error.headers)

    @app.exception_handler(Exception)
    def unknown(request: Request, error: Exception) -> JSONResponse:
        if is_disk_full(error):
            log.error("the disk is full: %s %s", request.method, request.scope["path"])
            return _answer(DiskFull("The disk is full; nothing was changed.", hint="Free some space and try again."))
        log.exception("unexpected error in %s %s", request.method, request.scope["path"], exc_info=error)
        return _answer(
            TunesmithError("Something went wrong inside Tunesmith.", hint="The server's log has the details.")
        )
