"""What fails again and again is written once, and then counted."""

from __future__ import annotations

import errno

import pytest

from tunesmith.core import rounds
from tunesmith.core.rounds import COUNT_FOR_S, carried_on


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now_s = [1000.0]
    monkeypatch.setattr(rounds, "_failures", rounds._Failures())
    monkeypatch.setattr(rounds, "monotonic_s", lambda: now_s[0])
    return now_s


def fail(job: int, error: Exception) -> None:
    with carried_on(f"watching job {job}"):
        raise error


def test_a_disk_that_stays_full_writes_a_line_a_minute(clock: list[float], caplog: pytest.LogCaptureFixture) -> None:
    """Four rounds a second over three jobs for two minutes: three lines instead of 1,452, and no failure uncounted."""
    for _ in range(4 * 121):
        for job in (1, 2, 3):
            fail(job, OSError(errno.ENOSPC, "No space left on device", f"jobs/{job}/control.json"))
        clock[0] += 0.25
    said = [record.getMessage() for record in caplog.records]
    assert len(said) == 3 and "No space left on device" in said[0] and not any(r.exc_info for r in caplog.records)
    assert "repeated 720 times in the last minute" in said[1]


def test_a_defect_shows_its_traceback_once_and_another_one_its_own(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    for job in range(50):
        fail(job, ValueError("this"))
    fail(1, ValueError("that"))
    fail(1, KeyError("this"))
    assert len(caplog.records) == 3 and all(record.exc_info for record in caplog.records)
    clock[0] += COUNT_FOR_S + 1
    fail(7, ValueError("this"))
    assert "repeated 50 times" in caplog.records[-1].getMessage() and not caplog.records[-1].exc_info


def test_one_that_was_gone_for_long_and_comes_back_is_written_in_full(
    clock: list[float], caplog: pytest.LogCaptureFixture
) -> None:
    fail(1, ValueError("this"))
    clock[0] += 3600
    fail(1, ValueError("this"))
    assert [bool(record.exc_info) for record in caplog.records] == [True, True]


def test_what_is_remembered_is_bounded(clock: list[float]) -> None:
    for number in range(1000):
        fail(1, ValueError("x" * number))
    assert len(rounds._failures._kinds) <= rounds.MAX_KINDS
