"""Text from elsewhere, made harmless for logs and terminals: it begins no new line, starts no escape sequence, and does not
turn the direction of what follows."""

from __future__ import annotations

import logging
import re
from types import TracebackType

CONTROL = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")
"""What terminals and readers of logs act on: C0 and C1 with ESC and CSI, the two separators of Unicode, overrides of direction, and
halves of surrogate pairs, which no output bears."""
BREAKS = re.compile("\r\n?")
BUT_LINES = re.compile("[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


def one_line(text: str) -> str:
    r"""`text` with `\n`, `\x1b` and the like written out."""
    return CONTROL.sub(_written_out, text)


def lines(text: str) -> str:
    r"""The same, but that tabs and ends of lines stay; a lone `\r` is one."""
    return BUT_LINES.sub(_written_out, BREAKS.sub("\n", text))


def _written_out(found: re.Match[str]) -> str:
    return found[0].encode("unicode_escape").decode()


class PlainFormatter(logging.Formatter):
    """One record, one line, whatever the message holds; lines of a traceback are indented, so that none looks like a record."""

    def format(self, record: logging.LogRecord) -> str:
        record.exc_text = None  # what another handler has made of the traceback is kept there
        try:
            return super().format(record)
        finally:
            record.exc_text = None

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802
        return one_line(super().formatMessage(record))

    def formatException(  # noqa: N802
        self,
        ei: tuple[type[BaseException], BaseException, TracebackType | None] | tuple[None, None, None],
    ) -> str:
        return _indented(super().formatException(ei))

    def formatStack(self, stack_info: str) -> str:  # noqa: N802
        return _indented(stack_info)


def _indented(text: str) -> str:
    return "\n".join(f"    {one_line(line)}" for line in text.split("\n"))
