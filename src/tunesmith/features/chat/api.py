"""REST routes of chat."""

from fastapi import APIRouter

router = APIRouter(tags=["chat"])
