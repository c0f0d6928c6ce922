"""The REST route that shows rows as a model reads them."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Path, Query

from tunesmith.core.acting import Scope
from tunesmith.features.jobs import inspection
from tunesmith.http.policy import needs
from tunesmith.http.session import State
from tunesmith.schemas.datasets import DatasetTokens, TokensRequest

router = APIRouter(prefix="/datasets", tags=["datasets"])


@router.get("/{dataset_id}/tokens", summary="What the model will see")
@needs(Scope.READ)
def tokens(
    dataset_id: Annotated[int, Path(ge=1, lt=2**63)], wanted: Annotated[TokensRequest, Query()], state: State
) -> DatasetTokens:
    """Rows rendered by the model's own chat template, token by token: what is learned, what is read only, what is cut."""
    return inspection.show(state.settings, state.database, dataset_id, wanted)
