"""How long a worker has shown no progress: only time counts in which it could have worked."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tunesmith.core import progress
from tunesmith.core.job_dir import JobDir
from tunesmith.executors import stillness
from tunesmith.executors.stillness import BYTES_COUNT_AFTER_S, LONGEST_LOOK_S, StillnessMeter


@pytest.fixture
def job_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> JobDir:
    monkeypatch.setattr(progress, "_counter", None)
    progress.begin(JobDir(tmp_path).progress, 3)
    return JobDir(tmp_path)


def look(meter: StillnessMeter, seconds: float, *, is_stopped: bool = False) -> None:
    for _ in range(round(seconds / 2)):
        meter.look(2.0, is_stopped=is_stopped)


def test_a_counter_that_moves_ends_the_stillness_and_what_was_slow_is_known(job_dir: JobDir) -> None:
    meter = StillnessMeter(job_dir, 3)
    progress.moved("loading")
    look(meter, 100)
    progress.moved("training")
    look(meter, 2)
    assert (meter.told().phase, meter.told().still_s, meter.told().slowest_s) == ("training", 0.0, 0.0)
    look(meter, 40)
    progress.moved("training")
    look(meter, 6)
    assert (meter.told().still_s, meter.told().slowest_s) == (4.0, 42.0)


def test_what_another_attempt_wrote_proves_nothing(job_dir: JobDir) -> None:
    meter = StillnessMeter(job_dir, 4)
    for _ in range(5):
        progress.moved("training")
        meter.look(2.0, is_stopped=False)
    assert meter.told().still_s == 10.0


def test_a_worker_that_is_held_and_a_machine_that_slept_do_not_count(job_dir: JobDir) -> None:
    meter = StillnessMeter(job_dir, 3)
    meter.look(2.0, is_stopped=False)
    look(meter, 7200, is_stopped=True)
    assert meter.told().still_s == 0.0
    meter.look(8 * 3600.0, is_stopped=False)
    assert meter.told().still_s == LONGEST_LOOK_S


def test_bytes_that_are_written_are_progress(job_dir: JobDir, monkeypatch: pytest.MonkeyPatch) -> None:
    """A model that takes hours to come: no batch, no phase, and yet it gets on. A few bytes of a log are nothing."""
    meter, told = StillnessMeter(job_dir, 3), iter([10, 2_000, 4_000, 200_000])
    monkeypatch.setattr(stillness, "moved_bytes", lambda _: next(told))
    meter.look(2.0, is_stopped=False)
    look(meter, BYTES_COUNT_AFTER_S + 6)
    assert meter.told().still_s > BYTES_COUNT_AFTER_S
    look(meter, 2)
    assert meter.told().still_s == 0.0


def test_the_bytes_of_a_session_are_counted(tmp_path: Path) -> None:
    code = f"open({str(tmp_path / 'x')!r}, 'wb').write(bytes(3_000_000)); print(flush=True); input()"
    writer = subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True
    )
    assert writer.stdout and writer.stdout.readline()
    assert 3_000_000 <= stillness.moved_bytes(writer.pid) < 60_000_000
    writer.communicate(b"\n")
