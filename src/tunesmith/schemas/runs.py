"""Tables of runs on the wire: columns, groups and saved views."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, Field, StringConstraints

from tunesmith.core.job_status import JobStatus
from tunesmith.core.metrics import better_of
from tunesmith.schemas.common import Wire
from tunesmith.schemas.jobs import JobRead

MAX_COLUMNS = 30
NAME = r"(status|method|model|dataset|owner|(metric|param)\.[^,]{1,190})"
VALUE = f"^{NAME}$"
"""The name of a value of a job."""
SORT = f"^(created|name|eval_loss|{NAME})$"
COLUMNS = f"^({NAME}(,{NAME}){{0,{MAX_COLUMNS - 1}}})?$"
"""Names with commas between them."""

ValueName = Annotated[str, StringConstraints(pattern=VALUE)]


class RunTable(Wire):
    """What a table of jobs shows."""

    columns: list[ValueName] = Field(
        default_factory=list, max_length=MAX_COLUMNS, examples=[["metric.eval_loss.best", "param.learning_rate"]]
    )
    sort: str = Field("created", pattern=SORT)
    order: Literal["asc", "desc"] = "desc"
    group: ValueName | None = None
    q: str = Field("", max_length=200)
    status: JobStatus | None = None
    method: str = Field("", max_length=50)
    tag: str = Field("", max_length=100)
    dataset_id: int | None = Field(None, ge=1, lt=2**63)
    where: list[Annotated[str, StringConstraints(max_length=400)]] = Field(default_factory=list, max_length=8)
    """`name=value`: only jobs with that value."""


class JobViewCreate(Wire):
    """A table of jobs to save."""

    name: Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=100)]
    view: RunTable = Field(default_factory=RunTable)


class JobViewRead(BaseModel):
    """A saved table of jobs."""

    id: int
    name: str
    view: RunTable
    path: str
    """Its page on this server: whoever opens it sees their jobs in the same table."""


class JobColumn(BaseModel):
    """A value that jobs have."""

    name: str
    """As `sort`, `columns`, `group` and `where` take it."""
    kind: Literal["job", "metric", "parameter"]
    title: str


class JobGroup(BaseModel):
    """Jobs that share a value."""

    value: Any
    """Null for jobs without it."""
    total: int
    jobs: list[JobRead]
    """The first of them, sorted as asked."""


class JobGroups(BaseModel):
    groups: list[JobGroup]
    next_offset: int | None
    """Pass as `offset` to read the next groups; null at the end."""


def natural_order(name: str) -> Literal["asc", "desc"]:
    """The order in which the best, the newest or the first by name comes first."""
    kind = name.partition(".")[0]
    if kind == "created" or (kind == "metric" and better_of(name.removesuffix(".best")) != "lower"):
        return "desc"
    return "asc"
