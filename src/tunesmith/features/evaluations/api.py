"""REST routes of evaluations and of the arena."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter(prefix="/evaluations", tags=["evaluations"])
