"""What a worker prints, on its way to `output.log`. Printing can neither stop a worker nor end it.

The worker and all it starts write to a pipe. The shim empties it whatever becomes of the log: what a full disk does not take, or
a hung one not soon enough, is left out and counted, and the log says so once there is room again. No library in the worker ever
meets the full disk, in whatever language and at whatever moment it prints. A worker ends with its shim (`prepare_worker`), so
there is none that writes to a pipe without a reader.
"""

from __future__ import annotations

import contextlib
import os
import sys
import threading
from collections import deque

if sys.platform == "linux":
    from fcntl import F_SETPIPE_SZ, fcntl

CHUNK_BYTES = 64 * 1024
PIPE_BYTES = 1024 * 1024
"""Room in the pipe, so that a shim that comes late holds up nobody."""
MAX_BYTES = 64 * 1024 * 1024
"""Most of one attempt's output that is kept from its beginning on."""
TAIL_BYTES = 1024 * 1024
"""And from its end, where the reason of a failure stands."""
MAX_WAITING_BYTES = 8 * 1024 * 1024
"""Most that waits for the disk."""
PATIENCE_S = 1.0
"""How long the pipe waits for a slow disk before output is left out."""
END_WITHIN_S = 5.0


class Output:
    """Takes the place of this process's output and error streams. Make it before the worker, `start` it after the fork."""

    def __init__(self) -> None:
        self._log = os.dup(1)
        self._read, write = os.pipe()
        if sys.platform == "linux":
            with contextlib.suppress(OSError):  # more than this user may have
                fcntl(write, F_SETPIPE_SZ, PIPE_BYTES)
        os.dup2(write, 1)
        os.dup2(write, 2)
        os.close(write)
        self._changed = threading.Condition()
        self._waiting: deque[bytes] = deque()
        self._waiting_bytes = 0
        self._is_behind = self._has_ended = False
        self._left_out = _LeftOut()
        self._kept_bytes = 0
        self._tail: deque[bytes] = deque()
        self._tail_bytes = 0
        self._beyond = _LeftOut()
        self._threads = [threading.Thread(target=target, daemon=True) for target in (self._empty, self._keep)]

    def leave(self) -> None:
        """In the worker: keep nothing of this but the streams."""
        os.close(self._read)
        os.close(self._log)

    def start(self) -> None:
        for thread in self._threads:
            thread.start()

    def finish(self) -> None:
        """Give this process its streams back, and wait for what the worker printed last."""
        os.dup2(self._log, 1)
        os.dup2(self._log, 2)
        for thread in self._threads:
            if thread.ident is not None:
                thread.join(END_WITHIN_S)

    # -- the pipe: never waits for the disk for long ----------------------------------------------------------------

    def _empty(self) -> None:
        while chunk := os.read(self._read, CHUNK_BYTES):
            with self._changed:
                if not self._changed.wait_for(self._has_room, 0 if self._is_behind else PATIENCE_S):
                    self._is_behind = True
                    self._left_out.add(chunk, "the disk is too slow")
                    continue
                self._is_behind = False
                self._waiting.append(chunk)
                self._waiting_bytes += len(chunk)
                self._changed.notify_all()
        with self._changed:
            self._has_ended = True
            self._changed.notify_all()

    def _has_room(self) -> bool:
        return self._waiting_bytes < MAX_WAITING_BYTES

    # -- the log: may wait for ever ---------------------------------------------------------------------------------

    def _keep(self) -> None:
        while True:
            with self._changed:
                self._changed.wait_for(lambda: self._waiting or self._has_ended)
                if not self._waiting:
                    break
                chunk = self._waiting.popleft()
                self._waiting_bytes -= len(chunk)
                self._changed.notify_all()
            self._take(chunk)
        if self._tail:
            self._write(self._beyond.sentence())
            for chunk in self._tail:
                self._write(chunk)
        self._write(b"")
        with contextlib.suppress(OSError):
            os.fsync(self._log)

    def _take(self, chunk: bytes) -> None:
        room = MAX_BYTES - self._kept_bytes
        if room > 0:
            self._kept_bytes += len(chunk)
            self._write(chunk[:room])
            if len(chunk) < room:
                return
            said = f"This attempt printed {MAX_BYTES >> 20} MiB. Of what follows, the last is added when it has ended."
            self._write(f"\n[tunesmith] {said}\n".encode())
            chunk = chunk[room:]
        self._tail.append(chunk)
        self._tail_bytes += len(chunk)
        while self._tail_bytes > TAIL_BYTES:
            oldest = self._tail.popleft()
            self._tail_bytes -= len(oldest)
            self._beyond.add(oldest, "the attempt printed too much")

    def _write(self, chunk: bytes) -> None:
        """Append what the disk takes, and count the rest."""
        with self._changed:
            left_out, self._left_out = self._left_out, _LeftOut()
        try:
            if sentence := left_out.sentence():
                sentence = sentence[os.write(self._log, sentence) :]
                if sentence:
                    raise OSError("the disk takes no more")
            left_out = _LeftOut()
            while chunk:
                chunk = chunk[os.write(self._log, chunk) :]
        except OSError as error:
            with self._changed:
                left_out.add(chunk, error.strerror or str(error))
                left_out.add_all(self._left_out)
                self._left_out = left_out


class _LeftOut:
    """Counts what did not get into the log."""

    def __init__(self) -> None:
        self._bytes = self._lines = 0
        self._why = ""

    def add(self, chunk: bytes, why: str) -> None:
        self._bytes += len(chunk)
        self._lines += chunk.count(b"\n")
        self._why = why

    def add_all(self, other: _LeftOut) -> None:
        self._bytes, self._lines = self._bytes + other._bytes, self._lines + other._lines
        self._why = other._why or self._why

    def sentence(self) -> bytes:
        """What the log says in its place; empty when nothing is missing."""
        if not self._bytes:
            return b""
        return f"\n[tunesmith] {self._lines} lines, {self._bytes} bytes, are missing here: {self._why}.\n".encode()
