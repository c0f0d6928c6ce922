"""What went wrong, in a person's words: any exception → a `Failure` with a code and a hint."""

from __future__ import annotations

import errno
import os
import traceback
from typing import Any

from pydantic import ValidationError

from tunesmith.core.errors import (
    FAILURE_HINTS,
    BadData,
    DiskFull,
    FailureCode,
    JobFailure,
    NotFound,
    TunesmithError,
    UnsupportedFormat,
    is_out_of_memory,
)
from tunesmith.core.job_spec import Failure
from tunesmith.core.validation import message_of
from tunesmith.core.words import plural

NOT_FOUND_CLASSES = {"RepositoryNotFoundError", "RevisionNotFoundError", "EntryNotFoundError", "LocalEntryNotFoundError",
                     "GatedRepoError", "OfflineModeIsEnabled", "HFValidationError"}  # fmt: skip
NOT_FOUND_WORDS = ("is not a local folder and is not a valid model identifier", "does not appear to have a file named",
                   "we couldn't connect to", "no file named model.safetensors", "cannot find the requested files",
                   "can't load the configuration of", "can't load tokenizer for", "can't load the model for",
                   "repo id must")  # fmt: skip
UNSUPPORTED_WORDS = ("does not recognize this architecture", "unrecognized configuration class", "trust_remote_code",
                     "requires you to execute the configuration file")  # fmt: skip
KERNEL_WORDS = (
    "no kernel",
    "implemented for '",
    "implemented for the",
    "could not run 'aten::",
    "could not run 'torch",
)
"""What torch says of an operation that it cannot do on a device or in a number format."""
DISK_FULL_WORDS = ("no space left on device", "os error 27)", "os error 28)", "os error 122)", "disk quota exceeded")
MEMORY_WORDS = ("bad_alloc", "not enough memory: you tried to allocate", "cublas_status_alloc_failed", "os error 12)")
OFFLINE_HINT = "This machine may not ask a model hub (offline). Download the model first, or name a local folder."


def _code(error: BaseException) -> FailureCode | None:
    """The code of this one error, its causes left aside; None when nothing is known of it."""
    names = {cls.__name__ for cls in type(error).__mro__}
    text = str(error).lower()

    def says(words: tuple[str, ...]) -> bool:
        return any(word in text for word in words)

    if isinstance(error, BadData):
        return FailureCode.BAD_DATA
    if isinstance(error, NotFound):
        return FailureCode.MODEL_NOT_FOUND
    if isinstance(error, UnsupportedFormat) or (isinstance(error, RuntimeError) and says(KERNEL_WORDS)):
        return FailureCode.UNSUPPORTED
    if isinstance(error, ModuleNotFoundError) and not (error.name or "tunesmith").startswith("tunesmith"):
        return FailureCode.UNSUPPORTED
    if isinstance(error, DiskFull) or (
        isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
    ):
        return FailureCode.DISK_FULL
    if isinstance(error, ValidationError | TunesmithError):
        return FailureCode.INVALID_SETTINGS
    if isinstance(error, KeyboardInterrupt):
        return FailureCode.LOST_WORKER
    # Libraries written in Rust and C++ have error classes of their own: only the text tells.
    if is_out_of_memory(error) or says(MEMORY_WORDS):
        return FailureCode.OUT_OF_MEMORY
    if says(DISK_FULL_WORDS):
        return FailureCode.DISK_FULL
    if names & NOT_FOUND_CLASSES or (isinstance(error, OSError) and says(NOT_FOUND_WORDS)):
        return FailureCode.MODEL_NOT_FOUND
    if isinstance(error, ValueError | OSError | ImportError) and says(UNSUPPORTED_WORDS):
        return FailureCode.UNSUPPORTED
    return None


def _code_of_chain(error: BaseException) -> FailureCode:
    """The first code known along `raise … from …`, so that a wrapped error is not taken for a defect."""
    link: BaseException | None = error
    while link is not None:
        if isinstance(link, JobFailure):
            return link.failure
        code = _code(link)
        if code is not None:
            return code
        link = link.__cause__
    return FailureCode.INTERNAL


def _hint(error: BaseException, code: FailureCode) -> str:
    if isinstance(error, TunesmithError) and error.hint:
        return error.hint
    if code == FailureCode.MODEL_NOT_FOUND and os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return OFFLINE_HINT
    if isinstance(error, ModuleNotFoundError):
        return f"Install it with: pip install {(error.name or '').partition('.')[0]}. Or choose another method."
    return FAILURE_HINTS[code]


MESSAGES = {
    FailureCode.OUT_OF_MEMORY: "The memory was not enough.",
    FailureCode.DISK_FULL: "The disk is full.",
    FailureCode.LOST_WORKER: "The training process was interrupted.",
}


def classify(error: BaseException) -> Failure:
    """The failure as it goes into `exit.json`. Tracebacks are kept for what nobody expected."""
    if isinstance(error, JobFailure):
        return Failure(code=error.failure, message=error.message, hint=error.hint, details=error.details)
    code = _code_of_chain(error)
    said = error.message if isinstance(error, TunesmithError) else (str(error).strip().splitlines() or [""])[0][:500]
    message = MESSAGES.get(code) or said or type(error).__name__
    details: list[dict[str, Any]] = []
    if isinstance(error, TunesmithError):
        details = error.details
    elif isinstance(error, ValidationError):
        details = [{"loc": ".".join(map(str, p["loc"])), "message": message_of(p)} for p in error.errors()]
        message = f"{plural(len(details), 'setting')} cannot be used: {', '.join(d['loc'] for d in details[:5])}."
    unexpected = code in (FailureCode.INTERNAL, FailureCode.OUT_OF_MEMORY, FailureCode.MODEL_NOT_FOUND)
    return Failure(
        code=code,
        message=message,
        hint=_hint(error, code),
        details=details,
        traceback="".join(traceback.format_exception(error))[-20_000:] if unexpected else "",
    )
