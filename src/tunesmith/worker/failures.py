"""What went wrong, in a person's words: any exception → a `Failure` with a code and a hint."""

from __future__ import annotations

import errno
import traceback
from typing import Any

from pydantic import ValidationError

from tunesmith.core.errors import FAILURE_HINTS, BadData, FailureCode, JobFailure, TunesmithError, is_out_of_memory
from tunesmith.core.job_spec import Failure

NOT_FOUND_CLASSES = {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "LocalEntryNotFoundError",
                     "GatedRepoError", "OfflineModeIsEnabled", "HFValidationError"}  # fmt: skip
NOT_FOUND_WORDS = ("is not a local folder and is not a valid model identifier", "does not appear to have a file named",
                   "we couldn't connect to", "no file named model.safetensors", "cannot find the requested files")  # fmt: skip


def _code(error: BaseException) -> FailureCode:
    names = {cls.__name__ for cls in type(error).__mro__}
    text = str(error).lower()
    if is_out_of_memory(error):
        return FailureCode.OUT_OF_MEMORY
    if isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        return FailureCode.DISK_FULL
    if "no space left on device" in text:  # safetensors has an error class of its own
        return FailureCode.DISK_FULL
    if names & NOT_FOUND_CLASSES or any(words in text for words in NOT_FOUND_WORDS):
        return FailureCode.MODEL_NOT_FOUND
    if isinstance(error, BadData):
        return FailureCode.BAD_DATA
    if isinstance(error, ValidationError | TunesmithError):
        return FailureCode.INVALID_SETTINGS
    if isinstance(error, KeyboardInterrupt):
        return FailureCode.LOST_WORKER
    return FailureCode.INTERNAL


MESSAGES = {
    FailureCode.OUT_OF_MEMORY: "The memory was not enough.",
    FailureCode.DISK_FULL: "The disk is full.",
    FailureCode.LOST_WORKER: "The training process was interrupted.",
}


def classify(error: BaseException) -> Failure:
    """The failure as it goes into `exit.json`. Tracebacks are kept for what nobody expected."""
    if isinstance(error, JobFailure):
        return Failure(code=error.failure, message=error.message, hint=error.hint, details=error.details)
    code = _code(error)
    said = error.message if isinstance(error, TunesmithError) else (str(error).strip().splitlines() or [""])[0][:500]
    message = MESSAGES.get(code) or said or type(error).__name__
    details: list[dict[str, Any]] = []
    if isinstance(error, TunesmithError):
        details = error.details
    elif isinstance(error, ValidationError):
        details = [{"loc": ".".join(map(str, p["loc"])), "message": p["msg"]} for p in error.errors()]
        message = f"{len(details)} setting(s) cannot be used: {', '.join(d['loc'] for d in details[:5])}."
    unexpected = code in (FailureCode.INTERNAL, FailureCode.OUT_OF_MEMORY, FailureCode.MODEL_NOT_FOUND)
    return Failure(
        code=code,
        message=message,
        hint=(isinstance(error, TunesmithError) and error.hint) or FAILURE_HINTS[code],
        details=details,
        traceback="".join(traceback.format_exception(error))[-20_000:] if unexpected else "",
    )
