"""Which version of the registry a model's name stands for."""

from __future__ import annotations

import re

from tunesmith.core.errors import TunesmithError
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.naming import NAME
from tunesmith.features.registry.tables import VersionRow
from tunesmith.storage.database import Session

OF_JOB = re.compile(r"job:([1-9][0-9]{0,17})")


def evaluated_version(session: Session, model: str) -> VersionRow | None:
    """The version that a model's name stands for, or None."""
    if found := OF_JOB.fullmatch(model):
        return registry.of_job(session, int(found[1]))
    if not NAME.fullmatch(model.partition("@")[0]):
        return None
    try:
        return registry.find_version(session, model)
    except TunesmithError:
        return None
