"""Where a browser may be sent on."""

from __future__ import annotations

import re

LOCAL_PATH = re.compile(r"/(?![/\\])[^\x00-\x20\x7f-\xa0\\]*")
"""An address on this server. Browsers take a second slash, or a backslash, for another host, and drop control characters."""
MAX_PATH = 2000


def local_path(address: str) -> str:
    """`address` where it is a path of this server, else the first page."""
    return address if len(address) <= MAX_PATH and LOCAL_PATH.fullmatch(address) else "/"
