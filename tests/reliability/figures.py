"""What a soak counts, in one line a test, as `docs/reliability.md` keeps it: `pytest -p tests.reliability.figures`."""

from __future__ import annotations

import os
from datetime import UTC, datetime

import psutil
import pytest

from tests.reliability.ground import TIMES

COUNTED = {
    "test_workers_killed_at_any_moment_leave_the_result_of_an_undisturbed_run": ("R1", 100, "kills of workers"),
    "test_jobs_outlive_a_killed_server_and_are_adopted": ("R2", 50, "kills of a server with 8 live jobs"),
    "test_the_queue_survives_kills_at_random": ("R3", 150, "kills of workers, shims and schedulers"),
    "test_a_sleeping_worker_is_dead_before_the_next_begins": ("R4", 10, "workers put to sleep"),
    "test_uploads_under_kills": ("R5", 30, "kills in uploads"),
    "test_random_fills_lose_nothing": ("R8", 5, "fills of the disk"),
    "test_want_of_memory_and_a_plain_kill_are_told_apart": ("R9", 10, "ends for want of memory and by plain kills"),
    "test_memory_that_is_refused_is_told_by_the_worker_itself": ("R9", 5, "refusals of memory"),
    "test_duplicates_at_once_make_one_job": ("R12", 5_000, "submits of which 50 each are one"),
    "test_a_server_killed_between_commit_and_answer_has_made_one_job": ("R12", 10, "kills between commit and answer"),
    "test_pause_resume_and_cancel_at_random_of_jobs_that_resist": ("R13", 30, "jobs paused, resumed or cancelled"),
    "test_ten_thousand_at_once_are_one_chain": ("audit", 1_000, "lines of the audit log, written by 16 at once"),
    "test_changed_safetensors_are_bad_data_or_sound": ("S25", 334, "changed safetensors files"),
    "test_changed_ggufs_that_pass_do_not_crash_the_native_reader": ("S25", 333, "changed GGUF files"),
    "test_changed_parquet_files_are_bad_data_in_the_child": ("S25", 333, "changed Parquet files"),
    "test_a_link_that_changes_while_it_is_read": ("S23", 100, "races for a link"),
}
"""Test → bar, a tenth of its count, and what is counted. Tests that learn their count as they go tell it themselves."""


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter) -> None:
    told = [report for outcome in ("passed", "failed") for report in terminalreporter.getreports(outcome)]
    lines = [line for report in told if report.when == "call" for line in row(report)]
    if lines:
        terminalreporter.write_sep("=", "figures for docs/reliability.md")
        terminalreporter.write_line("\n".join(lines))


def row(report: pytest.TestReport) -> list[str]:
    """A line of the table, when the test counts something or has failed."""
    figures = [str(value) for name, value in report.user_properties if name == "figures"]
    name = report.nodeid.rpartition("::")[2]
    if counted := COUNTED.get(name.partition("[")[0]):
        bar, count, what = counted
        case = f" ({name.partition('[')[2]}".replace("]", ")") if "[" in name else ""
        figures.append(f"{bar}: {count * TIMES:,} {what}{case}")
    if not figures and report.passed:
        return []
    machine = f"{len(os.sched_getaffinity(0))} cores, {psutil.virtual_memory().total / 1024**3:.0f} GiB"
    result = "passed" if report.passed else "failed"
    return [
        f"| {datetime.now(UTC):%Y-%m-%d} | {'; '.join(figures) or name} | {result} | {report.duration:,.0f} s | {machine} |"
    ]
