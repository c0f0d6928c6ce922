"""The job directory under writers that are killed at any moment."""

from __future__ import annotations

import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import pytest

from tunesmith.core.events import NoticeEvent, StepEvent
from tunesmith.core.job_dir import JobDir, end_half_line, new_folder, read_new_events, write_atomic
from tunesmith.core.job_spec import Control


def line(step: int) -> bytes:
    event = StepEvent(step=step, total_steps=9, epoch=0.1, loss=1.0, learning_rate=1e-4)
    return event.model_dump_json().encode() + b"\n"


def test_a_half_line_waits_for_its_end(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(line(1) + line(2)[:20])
    first = read_new_events(path, 0)
    assert [e.step for e in first.events] == [1] and first.next_offset == len(line(1))
    path.write_bytes(line(1) + line(2))
    second = read_new_events(path, first.next_offset)
    assert [e.step for e in second.events] == [2]


def test_bad_lines_are_counted_and_passed_over(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    path.write_bytes(b'{"type":"nonsense"}\nnot json\n' + line(3))
    found = read_new_events(path, 0)
    assert found.bad_lines == 2 and [e.step for e in found.events] == [3]


def test_a_line_longer_than_one_read_does_not_stop_the_reader(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tunesmith.core.job_dir.MAX_READ_BYTES", 1000)
    path = tmp_path / "events.jsonl"
    long_line = NoticeEvent(message="x" * 5000).model_dump_json().encode() + b"\n"
    path.write_bytes(long_line + line(1))
    offset, steps = 0, []
    for _ in range(20):
        found = read_new_events(path, offset)
        offset = found.next_offset
        steps += [e.step for e in found.events if e.type == "step"]
    assert steps == [1] and offset == path.stat().st_size


def test_a_missing_file_has_no_events(tmp_path: Path) -> None:
    assert read_new_events(tmp_path / "none", 5) == ([], 5, 0)


def test_a_killed_writers_half_line_is_cut(tmp_path: Path) -> None:
    path = tmp_path / "events.jsonl"
    whole = line(1)
    path.write_bytes(whole + b'{"type":"st')
    end_half_line(path)
    assert path.read_bytes() == whole
    path.write_bytes(b"no newline at all")
    end_half_line(path)
    assert path.read_bytes() == b""


def test_kill_while_writing_leaves_the_old_or_the_new_record(tmp_path: Path) -> None:
    code = """
        import sys
        from pathlib import Path
        from tunesmith.core.job_dir import write_atomic
        from tunesmith.core.job_spec import Control
        n = 0
        while True:
            n += 1
            write_atomic(Path(sys.argv[1]), Control(checkpoint_seq=n))
            print(n, flush=True)
    """
    job = JobDir(tmp_path)
    last = 0
    for round_number in range(5):
        process = subprocess.Popen(
            [sys.executable, "-c", textwrap.dedent(code), str(job.control)], stdout=subprocess.PIPE, text=True
        )
        assert process.stdout
        for _ in range(3 + round_number):
            process.stdout.readline()
        time.sleep(0.001 * round_number)
        process.send_signal(signal.SIGKILL)
        acknowledged = [int(n) for n in process.stdout.read().split("\n") if n.strip().isdigit()]
        process.wait()
        last = max(acknowledged, default=3)
        assert job.read_control().checkpoint_seq >= last
    assert job.read_control() != Control()


def test_a_folder_appears_whole_or_not_at_all(tmp_path: Path) -> None:
    final = tmp_path / "checkpoint"
    with pytest.raises(RuntimeError), new_folder(final) as folder:
        (folder / "a").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []
    with new_folder(final) as folder:
        (folder / "a").write_text("whole")
        assert not final.exists()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint"] and (final / "a").read_text() == "whole"
    with new_folder(final) as folder:
        (folder / "b").write_text("newer")
    assert [p.name for p in final.iterdir()] == ["b"]


def test_only_complete_checkpoints_count(tmp_path: Path) -> None:
    job = JobDir(tmp_path)
    for name, complete in (("step-000002", True), ("step-000010", True), ("step-000011", False), (".step-12.x", True)):
        (job.checkpoints / name).mkdir(parents=True)
        if complete:
            (job.checkpoints / name / "complete.json").write_text("{}")
    assert [p.name for p in job.complete_checkpoints()] == ["step-000002", "step-000010"]
    latest = job.latest_checkpoint()
    assert latest and latest.name == "step-000010"


def test_write_atomic_cleans_up_when_it_cannot_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(_fd: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        write_atomic(tmp_path / "x", "data")
    assert list(tmp_path.iterdir()) == []
