"""Every error leaves here as `{error, message, hint, details[]}`; to a browser that asked for a page, as a page."""

from __future__ import annotations

import errno
import logging
from collections.abc import Callable
from typing import Any

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import ValidationError
from sqlalchemy.exc import DataError, DBAPIError, IntegrityError
from starlette.exceptions import HTTPException

from tunesmith.core.errors import Conflict, DiskFull, InvalidInput, NotFound, TunesmithError, Unavailable
from tunesmith.core.validation import message_of
from tunesmith.core.words import plural
from tunesmith.storage.outage import RETRY_AFTER_S, DatabaseAway

log = logging.getLogger(__name__)

STATUS_CODES = {404: "not_found", 405: "method_not_allowed", 400: "bad_request", 415: "unsupported_format"}


def problems(error: ValidationError | RequestValidationError, *, prefix: str = "") -> list[dict[str, Any]]:
    """Pydantic's problems as `{loc, message, type}`, with the place as a dotted path and without echoing the input."""
    found = []
    for problem in error.errors():
        loc = [str(part) for part in problem["loc"] if part != "body"]
        found.append(
            {
                "loc": ".".join([*([prefix] if prefix else []), *loc]),
                "message": message_of(problem),
                "type": problem["type"],
            }
        )
    return found


def invalid_input(error: ValidationError | RequestValidationError, *, prefix: str = "") -> InvalidInput:
    """All problems named at once."""
    details = problems(error, prefix=prefix)
    where = ", ".join(d["loc"] for d in details[:5] if d["loc"])
    return InvalidInput(
        f"{plural(len(details), 'value')} cannot be used: {where}." if where else "The request cannot be used.",
        hint="Each problem is named with its place.",
        details=details,
    )


def is_disk_full(error: Exception) -> bool:
    """A file that could not be written, or a database that says so of its own."""
    if isinstance(error, OSError):
        return error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    said = str(error.orig) if isinstance(error, DBAPIError) else ""
    return "disk is full" in said or "No space left on device" in said


def is_out_of_files(error: Exception) -> bool:
    """No file or connection can be opened."""
    return isinstance(error, OSError) and error.errno in (errno.EMFILE, errno.ENFILE)


def retry_after(error: TunesmithError) -> dict[str, str]:
    """The header that says when to come back."""
    return {"Retry-After": str(RETRY_AFTER_S)} if error.status == Unavailable.status else {}


def is_read_only(error: Exception) -> bool:
    """The home folder's file system takes no changes any more: the kernel makes it so when a disk fails."""
    if isinstance(error, OSError):
        return error.errno == errno.EROFS
    return isinstance(error, DBAPIError) and "readonly database" in str(error.orig)


def machine_trouble(error: Exception) -> TunesmithError | None:
    """What the machine lacks, where that is why something went wrong."""
    if is_disk_full(error):
        return DiskFull("The disk is full; nothing was changed.", hint="Free some space and try again.")
    if is_out_of_files(error):
        return Unavailable("The server has too many files open.", hint="Try again in a moment; ulimit -n raises it.")
    if is_read_only(error):
        return Unavailable(
            "The home folder is read-only; nothing was changed.",
            hint="Look in the system's log for a failing disk, and make the folder writable again.",
        )
    return None


OPENAI_PATHS = "/v1/"
"""Where errors have the form that OpenAI's clients read."""
OPENAI_TYPES = {
    400: "invalid_request_error",
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
}


def openai_error(error: TunesmithError) -> dict[str, Any]:
    """As OpenAI's clients read it, with our own words beside."""
    status = 400 if error.status == 422 else error.status
    kind = OPENAI_TYPES.get(status, "invalid_request_error" if status < 500 else "server_error")
    message = f"{error.message} {error.hint}".strip()
    param = error.details[0].get("loc") if error.details else None
    return {"error": {"message": message, "type": kind, "code": error.code, "param": param, "details": error.details}}


def openai_answer(error: TunesmithError) -> JSONResponse:
    """The same as an answer; what cannot be used is 400 here."""
    status = 400 if error.status == 422 else error.status
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(openai_error(error), status_code=status, headers=headers)


HUGGING_FACE_PATHS = "/models/"
"""Where errors have the form that Hugging Face's clients read."""


def hugging_face_answer(error: TunesmithError) -> JSONResponse:
    """The sentence as `error`, with the rest beside; what cannot be used is 400 here."""
    status = 400 if error.status == 422 else error.status
    told = {"error": f"{error.message} {error.hint}".strip(), "error_code": error.code, "details": error.details}
    headers = {"Retry-After": "1"} if status in (429, 503) else None
    return JSONResponse(told, status_code=status, headers=headers)


def error_answer(path: str, error: TunesmithError) -> JSONResponse:
    """In the form of the API that `path` belongs to."""
    if path.startswith(HUGGING_FACE_PATHS):
        return hugging_face_answer(error)
    if path.startswith(OPENAI_PATHS):
        return openai_answer(error)
    return JSONResponse(error.body(), status_code=error.status, headers=retry_after(error))


ErrorPage = Callable[[Request, TunesmithError], Response]


def wants_page(request: Request) -> bool:
    """Whether a browser asks for something that is no part of the API."""
    path = request.scope["path"]
    return "text/html" in request.headers.get("accept", "") and not path.startswith("/api/")


def _plain_body(path: str, error: HTTPException) -> dict[str, Any]:
    """What the framework refuses: an address that is none, or a method that it has not."""
    code = STATUS_CODES.get(error.status_code, "http_error")
    if not path.startswith(OPENAI_PATHS):
        return {"error": code, "message": str(error.detail), "hint": "The API is described at /docs.", "details": []}
    message = f"{error.detail}. docs/deployments.md lists what there is under /v1."
    kind = OPENAI_TYPES.get(error.status_code, "invalid_request_error" if error.status_code < 500 else "server_error")
    return {"error": {"message": message, "type": kind, "code": code, "param": None, "details": []}}


def install_error_handlers(app: FastAPI, page: ErrorPage | None = None) -> None:
    """Register the handlers; the last one hides what the error says and logs it. `page` draws an error for a browser."""

    def answer(request: Request, error: TunesmithError) -> Response:
        if page and wants_page(request):
            return page(request, error)
        return error_answer(request.scope["path"], error)

    @app.exception_handler(DatabaseAway)
    def away(request: Request, error: DatabaseAway) -> Response:
        return answer(request, error.answer)  # the database has written it down

    @app.exception_handler(TunesmithError)
    def known(request: Request, error: TunesmithError) -> Response:
        if error.status >= 500:
            log.error("%s: %s", error.code, error.message, exc_info=error if error.status == 500 else None)
        return answer(request, error)

    @app.exception_handler(RequestValidationError)
    def invalid(request: Request, error: RequestValidationError) -> Response:
        return answer(request, invalid_input(error))

    @app.exception_handler(DataError)
    def not_storable(request: Request, error: DataError) -> Response:
        log.warning("the database refused a value: %s", error.orig)
        return answer(
            request, InvalidInput("A value cannot be stored.", hint="Text without NUL, numbers within 64 bits.")
        )

    @app.exception_handler(IntegrityError)
    def taken(request: Request, error: IntegrityError) -> Response:
        log.warning("the database refused a row: %s", error.orig)
        return answer(request, Conflict("Somebody else took this name just now.", hint="Choose another one."))

    @app.exception_handler(HTTPException)
    def plain(request: Request, error: HTTPException) -> Response:
        if page and error.status_code == 404 and wants_page(request):
            return page(request, NotFound("There is no such page.", hint="Look for it in the navigation."))
        return JSONResponse(_plain_body(request.scope["path"], error), error.status_code, error.headers)

    # OSError by itself too: what comes as a mere Exception is written down by the server once more
    @app.exception_handler(OSError)
    @app.exception_handler(Exception)
    def unknown(request: Request, error: Exception) -> Response:
        if trouble := machine_trouble(error):
            log.error("%s %s %s", trouble.message, request.method, request.scope["path"])
            return answer(request, trouble)
        log.exception("unexpected error in %s %s", request.method, request.scope["path"], exc_info=error)
        hidden = TunesmithError("Something went wrong inside Tunesmith.", hint="The server's log has the details.")
        return answer(request, hidden)
