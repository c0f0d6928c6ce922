"""How fast this machine is, told from the jobs that it has finished."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lay_database
from tunesmith.core.clock import utc_now
from tunesmith.core.job_spec import JobSpec, ModelRef, ResourceRequest
from tunesmith.features.jobs.planning import find_pace
from tunesmith.features.jobs.submission import Checked
from tunesmith.features.jobs.tables import JobRow
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.duration import GUESSED, SAME, SIMILAR
from tunesmith.recipes.model_info import read_model_info
from tunesmith.recipes.plans import Facts, Machine, Plan
from tunesmith.recipes.sft_plan import flop_per_token
from tunesmith.schemas.jobs import JobCreate
from tunesmith.storage.database import Database, Session

TOKENS_PER_S = 500.0


@pytest.fixture
def session(tmp_path: Path) -> Iterator[Session]:
    lay_database(tmp_path)
    database = Database(f"sqlite:///{tmp_path / 'tunesmith.db'}")
    with database.unit_of_work() as session:
        yield session
    database.close()


def finished(session: Session, folder: Path, **changes: Any) -> None:
    """A completed job that trained 5,000 tokens in ten seconds, unless `changes` say otherwise."""
    fields: dict[str, Any] = {
        "name": "x", "method": "lora", "model": "tests/tiny", "hyperparameters": get_recipe("lora").params().model_dump(mode="json"),
        "reasons": {}, "request": {}, "resources": {"num_gpus": 0}, "tags": [], "status": "completed",
        "metrics": {"training_s": 10.0, "tokens_seen": 10 * TOKENS_PER_S}, "created_at": utc_now(),
    }  # fmt: skip
    row = JobRow(**{**fields, **changes}, output_name=f"x-{session.query(JobRow).count()}")
    row.spec = JobSpec(
        job_id=1, name="x", recipe="lora", params={}, model=ModelRef(name="tests/tiny", path=str(folder)), cache_dir="x"
    ).model_dump(mode="json")
    session.add(row)
    session.flush()


def wanted(method: str, model: Path, device: str = "cpu") -> Checked:
    facts = Facts(machine=Machine(device, 2**34), model=read_model_info(model), num_rows=10)
    ref = ModelRef(name="tests/tiny", path=str(model))
    return Checked(get_recipe(method), ref, None, None, Plan({}, {}, {}), ResourceRequest(), facts, JobCreate())


def test_the_nearest_job_counts_and_none_is_a_guess(session: Session, tiny_model: Path) -> None:
    assert find_pace(session, wanted("lora", tiny_model)).off_by == GUESSED
    finished(session, tiny_model, model="other/model", metrics={"training_s": 10.0, "tokens_seen": 100.0})
    far = find_pace(session, wanted("lora", tiny_model))
    assert far.off_by == SIMILAR and "job 1" in far.source and "other/model" in far.source
    finished(session, tiny_model)
    finished(session, tiny_model, model="third/model")
    near = find_pace(session, wanted("lora", tiny_model))
    info, params = read_model_info(tiny_model), get_recipe("lora").params().model_dump()
    assert near.off_by == SAME and "job 2" in near.source
    assert near.flops == pytest.approx(TOKENS_PER_S * flop_per_token(get_recipe("lora"), params, info))
    other = find_pace(session, wanted("qlora", tiny_model))
    assert other.off_by == SIMILAR and "job 2" in other.source, "the same model with another method comes next"


@pytest.mark.parametrize(
    "changes",
    [{"metrics": {}}, {"metrics": {"training_s": 0.1, "tokens_seen": 50.0}}, {"status": "failed"}, {"resources": {"num_gpus": 1}},
     {"method": "gone"}],
)  # fmt: skip
def test_what_tells_nothing_of_this_device_does_not_count(
    session: Session, tiny_model: Path, changes: dict[str, Any]
) -> None:
    finished(session, tiny_model, **changes)
    assert find_pace(session, wanted("lora", tiny_model)).off_by == GUESSED


def test_a_model_that_is_gone_tells_nothing(session: Session, tiny_model: Path, tmp_path: Path) -> None:
    finished(session, tmp_path / "gone")
    assert find_pace(session, wanted("lora", tiny_model)).off_by == GUESSED
