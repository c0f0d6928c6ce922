"""The wire format of the registry: versions of models, their aliases and stages."""

from __future__ import annotations
