"""Tunesmith: from a file of examples to a tuned model in use."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from tunesmith.core.processor import limit_libraries
from tunesmith.core.version import VERSION as __version__

if TYPE_CHECKING:
    from tunesmith.sdk.client import Client

__all__ = ["Client", "__version__"]

limit_libraries()


def __getattr__(name: str) -> Any:
    """`Client` is loaded when it is asked for, so that importing a part of Tunesmith does not load the SDK."""
    if name == "Client":
        from tunesmith.sdk.client import Client

        return Client
    raise AttributeError(name)
