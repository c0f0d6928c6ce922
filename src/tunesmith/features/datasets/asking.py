"""An answer of the child process that a request waits for, outside of any transaction."""

from __future__ import annotations

import contextlib
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tunesmith.core import errors
from tunesmith.core.errors import TooLarge, Unavailable
from tunesmith.features.datasets.child import Child
from tunesmith.settings import Settings

COMPARING, LOOKING, INSPECTING = threading.Lock(), threading.Lock(), threading.Lock()
"""One of each kind at a time, because each may need `dataset_memory_bytes`."""
MEANT = {
    cls().code: cls
    for cls in (
        errors.BadData,
        errors.InvalidInput,
        errors.TooLarge,
        errors.UnsupportedFormat,
        errors.DiskFull,
        errors.Unavailable,
    )
}
"""Errors of the child that are the caller's to mend."""
_under_way: set[Child] = set()


def stop() -> None:
    """The server ends: so do the children, whose requests would hold it up."""
    for child in list(_under_way):
        child.kill()


@contextlib.contextmanager
def asked(
    settings: Settings,
    request: dict[str, Any],
    turn: threading.Lock,
    *,
    wait_s: float,
    limit_s: float,
    module: str = "tunesmith.dataprep",
) -> Iterator[Path]:
    """The folder that the child made for `request`, removed when the block ends.

    Raises what the child found wrong, `TooLarge` after `limit_s`, and `Unavailable` when its turn does not come in
    `wait_s` or it ends in an unknown way.
    """
    if not turn.acquire(timeout=wait_s):
        raise Unavailable("Other files are being looked at.", hint="Try again in a moment.")
    try:
        with tempfile.TemporaryDirectory(prefix="asked-", dir=settings.uploads_dir) as folder:
            work = Path(folder)
            _run(settings, {**request, "out_dir": str(work / "out")}, work, limit_s, module)
            yield work / "out"
    finally:
        turn.release()


def _run(settings: Settings, request: dict[str, Any], work: Path, limit_s: float, module: str) -> None:
    child = Child(settings, request, work, module)
    late = threading.Event()

    def give_up() -> None:
        late.set()
        child.kill()

    timer = threading.Timer(limit_s, give_up)
    timer.daemon = True
    timer.start()
    _under_way.add(child)
    try:
        for _ in child.progress():
            pass
        error = child.end()
    finally:
        child.kill()
        timer.cancel()
        _under_way.discard(child)
    if error is None:
        return
    if late.is_set():
        raise TooLarge(f"It takes longer than {limit_s:g} seconds.", hint="Try it with less data.")
    known = MEANT.get(error["error"])
    if known is None:
        raise Unavailable("The data could not be looked at.", hint="Try again; the server's log has the details.")
    raise known(error["message"], hint=error["hint"], details=error["details"])
