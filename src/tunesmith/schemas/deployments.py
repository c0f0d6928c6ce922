"""The wire format of deployments."""

from __future__ import annotations
