"""The wire format of evaluations and of the arena."""

from __future__ import annotations
