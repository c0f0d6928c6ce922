"""Pages of the registry: versions of models, their aliases and stages."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(include_in_schema=False)
