"""R7: the machine loses power, and the disk forgets every byte and every name that nobody flushed.

Each test records one run of the product and then takes away the power after every single flush of it: what had been told by
then is there, the rest is there whole or not at all, and the product goes on from it. In `make test` the product is started
at a few of these moments, drawn by chance; with TUNESMITH_SOAK=10 (`make soak`) at each.
"""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import REPO, lay_database
from tests.reliability import real_worker
from tests.reliability.ground import TIMES, Ground
from tests.reliability.payload import expected
from tests.reliability.power import Moment, Power
from tests.reliability.recorded import STEPS
from tunesmith.worker.checkpoints import damage


@pytest.fixture
def disk(tmp_path: Path) -> Path:
    path = tmp_path / "disk"
    path.mkdir()
    return path


def some(moments: list[Moment], count: int) -> list[Moment]:
    """So many of them with the last, or all in full counts."""
    if TIMES > 1 or len(moments) <= count:
        return moments
    return [*sorted(random.Random(7).sample(moments[:-1], count - 1), key=lambda one: one.number), moments[-1]]


def last_words(moment: Moment, name: str) -> dict[Any, dict[str, Any]]:
    """What was told last of each thing of that kind."""
    return {words[name]: words for words in moment.told if name in words}


def test_no_step_checkpoint_or_end_that_was_told_is_forgotten(
    make_ground: Callable[..., Ground], disk: Path, tmp_path: Path, record_property: Callable[[str, Any], None]
) -> None:
    """Checkpoints, events, specs, launches and exit records of two jobs with the real worker."""
    lay_database(disk / "home")
    power = Power(disk, tmp_path / "record")
    command = [sys.executable, "-m", "tests.reliability.recorded", "jobs", str(disk / "home")]
    subprocess.run(command, cwd=REPO, env=power.with_environment(), check=True, timeout=120)
    moments = power.moments()
    assert len(moments) > 100 and {words["status"] for words in moments[-1].told} >= {"queued", "running", "completed"}
    for moment in some(moments, 60):
        power.lay(moment, tmp_path / "laid")
        check_jobs(make_ground, tmp_path / "laid" / "home", moment)
    going_on = some(moments, 5)
    for moment in going_on:
        power.lay(moment, tmp_path / "laid")
        ground = make_ground(home=tmp_path / "laid" / "home", worker=real_worker.COMMAND)
        for job_id in last_words(moment, "job"):
            ground.until_ended(job_id, 60)
            ground.check_completed(job_id, STEPS)
        ground.close()
    record_property("figures", f"R7, jobs: {len(some(moments, 60))} losses of power, {len(going_on)} gone on from")


def check_jobs(make_ground: Callable[..., Ground], home: Path, moment: Moment) -> None:
    ground = make_ground(home=home, worker=real_worker.COMMAND)
    for job_id, words in last_words(moment, "job").items():
        job, where = ground.job(job_id), f"record {moment.number}, {words}"
        assert job.last_seq >= words["seq"], f"an event is forgotten: {where}"
        whole = [path for path in ground.dir(job_id).complete_checkpoints() if damage(path) is None]
        steps = [int(path.name.removeprefix("step-")) for path in whole]
        assert max(steps, default=0) >= words["checkpoint"], f"a checkpoint is forgotten: {where}"
        if words["status"] == "completed":
            assert job.status == "completed", where
            assert (ground.dir(job_id).artifacts / "model" / "sum").read_text() == expected(STEPS), where
    ground.close()
