"""REST routes of the registry: versions of models, their aliases and stages."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/registry", tags=["registry"])
