"""The error tree. Every class carries its HTTP status, its code on the wire and a sentence that says what to do.

TunesmithError
├── InvalidInput            422  something in the request is wrong; `details` names each place
│   └── BadData             422  rows of a dataset are wrong; `details` names row and column
├── BadRequest              400  the request itself cannot be read
├── NotLoggedIn             401
├── PermissionDenied        403
│   └── QuotaExceeded       403
├── NotFound                404  absent and not-yours look the same
├── Conflict                409  the thing is in a state that does not allow this
│   └── InUse               409
├── TooSlow                408
├── TooLarge                413
├── UnsupportedFormat       415
├── TooMany                 429
├── Unavailable             503  a part that is needed is not ready
├── DiskFull                507
└── JobFailure              —    how a training job failed; see `FailureCode`
"""

from __future__ import annotations

import errno
import re
from collections.abc import Sequence
from enum import StrEnum
from typing import Any


class TunesmithError(Exception):
    """Something went wrong inside Tunesmith; the server's log has the details."""

    status = 500

    def __init__(self, message: str | None = None, *, hint: str = "", details: Sequence[dict[str, Any]] = ()) -> None:
        """`message` says what is wrong, `hint` what to do, `details` where: one `{loc, message, …}` a problem."""
        self.message = message or (self.__doc__ or "").strip().splitlines()[0]
        self.hint = hint
        self.details = list(details)
        super().__init__(self.message)

    @property
    def code(self) -> str:
        """The class name in snake case: the stable name on the wire."""
        return re.sub(r"(?<!^)(?=[A-Z])", "_", type(self).__name__).lower()

    def body(self) -> dict[str, Any]:
        """The one shape of every error in the API: `{error, message, hint, details[]}`."""
        return {"error": self.code, "message": self.message, "hint": self.hint, "details": self.details}


class InvalidInput(TunesmithError):
    """Some values cannot be used; each is named in the details."""

    status = 422


class BadData(InvalidInput):
    """Some rows of the dataset cannot be used; each is named with its row and column."""


class BadRequest(TunesmithError):
    """The request could not be read."""

    status = 400


class NotLoggedIn(TunesmithError):
    """Log in first."""

    status = 401


class PermissionDenied(TunesmithError):
    """You may not do this."""

    status = 403


class QuotaExceeded(PermissionDenied):
    """This would be more than your account may have."""


class NotFound(TunesmithError):
    """There is nothing here by that id."""

    status = 404


class Conflict(TunesmithError):
    """This cannot be done in the state things are in."""

    status = 409


class InUse(Conflict):
    """Something else still uses this."""


class TooSlow(TunesmithError):
    """The request did not arrive in time."""

    status = 408


class TooLarge(TunesmithError):
    """This is larger than the limit."""

    status = 413


class UnsupportedFormat(TunesmithError):
    """This format is not read here."""

    status = 415


class TooMany(TunesmithError):
    """Too many requests at once; try again in a moment."""

    status = 429


class Unavailable(TunesmithError):
    """A part that this needs is not ready; try again in a moment."""

    status = 503


class DiskFull(TunesmithError):
    """The disk is full; free some space and try again."""

    status = 507


class FailureCode(StrEnum):
    """Why a job failed. Each has a hint in `FAILURE_HINTS`."""

    OUT_OF_MEMORY = "out_of_memory"
    BAD_DATA = "bad_data"
    NAN_LOSS = "nan_loss"
    DISK_FULL = "disk_full"
    MODEL_NOT_FOUND = "model_not_found"
    INVALID_SETTINGS = "invalid_settings"
    UNSUPPORTED = "unsupported"
    TIMEOUT = "timeout"
    LOST_WORKER = "lost_worker"
    STALLED = "stalled"
    SCRIPT_FAILED = "script_failed"
    INTERNAL = "internal"


FAILURE_HINTS: dict[FailureCode, str] = {
    FailureCode.OUT_OF_MEMORY: "Use a smaller batch_size or max_length, method qlora, or gradient_checkpointing: true.",
    FailureCode.BAD_DATA: "Open the dataset's validation report, repair the rows it names, and start again.",
    FailureCode.NAN_LOSS: "Lower learning_rate (a third is a good start), set max_grad_norm to 1.0, and use bf16 rather than fp16.",
    FailureCode.DISK_FULL: "Free some disk space or delete old checkpoints, then resume: nothing finished is lost.",
    FailureCode.MODEL_NOT_FOUND: "Check the model's name, or download it while online; a local folder with safetensors works too.",
    FailureCode.INVALID_SETTINGS: "Change the setting the message names and start again.",
    FailureCode.UNSUPPORTED: "This machine or model cannot do that; the message names what can.",
    FailureCode.TIMEOUT: "Raise timeout_s, or train for fewer epochs or steps, then resume from the last checkpoint.",
    FailureCode.LOST_WORKER: "The training process was killed from outside more often than allowed; look at the machine's memory, then resume.",
    FailureCode.STALLED: "Read where it stood at the end of the log, then resume; raise TUNESMITH_STALL_S where a single step takes that long.",
    FailureCode.SCRIPT_FAILED: "The last lines of the log show what the script said.",
    FailureCode.INTERNAL: "This is a defect of Tunesmith; the log has the traceback. Resume usually works.",
}


class JobFailure(TunesmithError):
    """A training job cannot go on; carries the failure's code, so that nobody has to guess it from text."""

    def __init__(
        self, failure: FailureCode, message: str, *, hint: str = "", details: Sequence[dict[str, Any]] = ()
    ) -> None:
        super().__init__(message, hint=hint or FAILURE_HINTS[failure], details=details)
        self.failure = failure


OUT_OF_MEMORY_WORDS = ("out of memory", "can't allocate memory", "cannot allocate memory", "defaultcpuallocator")


def is_out_of_memory(error: BaseException) -> bool:
    """Whether memory ran out: torch's own error, the CPU allocator's message, or Python's."""
    if isinstance(error, MemoryError) or type(error).__name__ == "OutOfMemoryError":
        return True
    if isinstance(error, OSError):
        return error.errno == errno.ENOMEM
    return isinstance(error, RuntimeError) and any(words in str(error).lower() for words in OUT_OF_MEMORY_WORDS)
