"""Following a job through the SDK: from any point, over pauses of long ago, to its end."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import lay_database
from tests.jobs.conftest import custom
from tests.jobs.serving_app import serve
from tests.jobs.test_live import write_events
from tunesmith import Client
from tunesmith.app import create_app
from tunesmith.core.job_status import JobStatus
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.settings import Settings


@pytest.fixture
def job(home: Path) -> Iterator[tuple[object, int]]:
    """A job that was paused, failed, was resumed, and completed."""
    lay_database(home)
    app = create_app(Settings(home=home, hub_offline=True, custom_scripts=True, cpu_slots=0))
    with serve(app) as host:
        client = Client(f"http://{host}")
        job_id = client.jobs.create(**custom()).id
        state = app.state.tunesmith
        for status in (JobStatus.PAUSED, JobStatus.QUEUED, JobStatus.RUNNING, JobStatus.FAILED, JobStatus.QUEUED):
            with state.database.unit_of_work() as session:
                life = Lifecycle(session, state.bus)
                life.transition(life.jobs.get(job_id), status)
        write_events(state.database, state.bus, job_id, count=20, pause_s=0)
        yield client, job_id


def test_old_pauses_and_failures_do_not_end_it(job: tuple[Client, int]) -> None:
    client, job_id = job
    seen = [event.seq for event in client.jobs.get(job_id).follow()]
    assert seen == list(range(1, 29))
    assert [event.seq for event in client.jobs.get(job_id).follow(after=27)] == [28]
    assert list(client.jobs.get(job_id).follow(after=28)) == []
