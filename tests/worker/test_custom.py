"""The worker as a real process, with users' scripts as its work."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tests.worker.job import Job, wait_until
from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import Control

GOOD = """
import json, os, sys
told = json.load(open(sys.argv[1]))
for step in range(1, 4):
    print(json.dumps({"step": step, "total_steps": 3, "loss": 3.0 / step, "learning_rate": 1e-3}))
print(json.dumps({"step": 3, "eval_loss": 0.5}))
print(json.dumps({"accuracy": told["config"]["accuracy"]}))
print("a plain line")
print("{not json")
print(json.dumps(sorted(os.environ)))
os.makedirs(os.path.join(told["output_dir"], "deep"))
open(os.path.join(told["output_dir"], "deep", "result.json"), "w").write("{}")
"""
SLOW = "import time\nprint('up')\ntime.sleep(60)\n"


def run_script(tmp_path: Path, script: str, **params: object) -> Job:
    job = Job(tmp_path / "job", script, params=params)
    job.run()
    return job


def test_a_script_reports_and_leaves_its_result(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", GOOD, params={"config": {"accuracy": 0.75}})
    assert job.run(SECRET_TOKEN="s3cret-value") == 0, job.log()
    assert job.exit().outcome == "completed"
    assert [(e.step, e.loss) for e in job.events("step")] == [(1, 3.0), (2, 1.5), (3, 1.0)]
    assert job.events("evaluation")[0].loss == 0.5
    assert job.exit().metrics["accuracy"] == 0.75
    assert (job.dir.artifacts / "custom_model" / "deep" / "result.json").read_text() == "{}"
    assert "a plain line" in job.log() and "{not json" in job.log()
    assert "SECRET_TOKEN" not in job.log()
    assert {e.attempt for e in job.events()} == {1}
    assert not (job.dir.path / "script").exists()
    assert not list(job.dir.path.glob(".*"))


@pytest.mark.parametrize(
    ("script", "params", "code", "word"),
    [
        ("raise ValueError('the moon is wrong')", {}, "script_failed", "the moon is wrong"),
        ("import sys; sys.exit(3)", {}, "script_failed", "exit code 3"),
        ("x = bytearray(4 << 30)", {"memory_mb": 512}, "out_of_memory", "512"),
        ("while True: pass", {"cpu_seconds": 1}, "timeout", "CPU"),
        ("import time; time.sleep(30)", {"timeout_s": 1}, "timeout", "1 s"),
        ("print('nothing saved')", {}, "script_failed", "empty"),
        ("import os, sys, json; os.symlink('/etc/passwd', json.load(open(sys.argv[1]))['output_dir'] + '/x')", {}, "script_failed", "link"),
        ("import os, sys, json; os.symlink('/etc', json.load(open(sys.argv[1]))['output_dir'] + '/d')", {}, "script_failed", "link"),
        ("import os, sys, json; os.mkfifo(json.load(open(sys.argv[1]))['output_dir'] + '/p')", {}, "script_failed", "device"),
        ("import sys, json; open(json.load(open(sys.argv[1]))['output_dir'] + '/m.PKL', 'w')", {}, "script_failed", "run code"),
    ],
)  # fmt: skip
def test_how_a_script_failed_is_told(tmp_path: Path, script: str, params: dict, code: str, word: str) -> None:
    job = run_script(tmp_path, script, **params)
    failure = job.exit().failure
    assert job.exit().outcome == "failed"
    assert failure.code == code, failure
    assert word in failure.message
    assert failure.hint
    assert not (job.dir.artifacts / "custom_model").exists()


def test_floods_are_bounded(tmp_path: Path) -> None:
    script = (
        "import sys, json\n"
        "print('x' * 5_000_000)\n"
        "for i in range(30): print('y' * 1_000_000)\n"
        "print('{' * 100_000)\n"
        "print(json.dumps({'step': 1e400, 'loss': float('nan'), 'total_steps': -5, 'big': 10**400}))\n"
        "print(json.dumps({'step': 2, 'loss': float('nan')}))\n"
        "print(json.dumps({'step': -1, 'loss': [1], 'k' * 1000: 1}))\n"
        "print(json.dumps({str(i): i for i in range(1000)}))\n"
        "open(json.load(open(sys.argv[1]))['output_dir'] + '/r.txt', 'w').write('ok')\n"
    )
    job = run_script(tmp_path, script)
    assert job.exit().outcome == "completed", job.exit()
    assert job.dir.log.stat().st_size < 17 * 1024 * 1024
    assert all(len(e.values) <= 64 for e in job.events("metrics"))
    (step,) = job.events("step")
    assert step.step == 2 and step.loss != step.loss


def test_stop_and_pause_end_the_script_and_its_children(tmp_path: Path) -> None:
    stubborn = (
        "import os, signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n"
        "os.fork()\nprint('up', os.getpid())\ntime.sleep(60)\n"
    )
    for number, (control, outcome) in enumerate(((Control(stop=True), "cancelled"), (Control(pause=True), "paused"))):
        job = Job(tmp_path / f"job{number}", stubborn if control.stop else SLOW)
        process = job.start()
        wait_until(lambda job=job, least=2 if control.stop else 1: job.log().count("up") >= least)
        pids = [p.pid for p in psutil.Process(process.pid).children(recursive=True)]
        write_atomic(job.dir.control, control)
        assert process.wait(30) == 0
        assert job.exit().outcome == outcome
        wait_until(lambda pids=pids: not any(psutil.pid_exists(pid) for pid in pids), 10)


def test_sigterm_is_a_pause_also_when_it_is_passed_on_twice(tmp_path: Path) -> None:
    job = Job(tmp_path / "a", SLOW)
    process = job.start()
    wait_until(lambda: "up" in job.log())
    process.send_signal(signal.SIGTERM)
    process.send_signal(signal.SIGTERM)  # the same request, passed on twice
    assert process.wait(30) == 0
    assert job.exit().outcome == "paused"


def test_kill_9_of_the_worker_takes_the_script_along(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", SLOW)
    process = job.start()
    wait_until(lambda: "up" in job.log())
    (script,) = psutil.Process(process.pid).children()
    process.kill()
    process.wait()
    wait_until(lambda: not psutil.pid_exists(script.pid) or script.status() == psutil.STATUS_ZOMBIE, 10)


def test_a_newer_attempt_fences_the_worker_out(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", "import json, time\nfor i in range(10**6):\n    print(json.dumps({'step': i, 'loss': 1.0}))\n    time.sleep(0.002)\n")  # fmt: skip
    process = job.start()
    wait_until(lambda: len(job.events("step")) > 20)
    os.kill(process.pid, signal.SIGSTOP)
    job.launch(2)
    size_bytes = job.dir.events.stat().st_size
    os.kill(process.pid, signal.SIGCONT)
    assert process.wait(30) == 78
    # At most the one line whose check was already past when it was stopped; the server refuses it by its attempt.
    assert len(job.dir.events.read_bytes()[size_bytes:].splitlines()) <= 1
    assert job.dir.read_exit() is None
    assert job.run(attempt=1) == 78


def test_the_time_limit_of_a_job_is_a_failure_with_its_own_code(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", SLOW, timeout_s=1.0)
    assert job.run() == 1
    assert job.exit().failure.code == "timeout"


def test_a_broken_spec_still_gets_a_last_word(tmp_path: Path) -> None:
    job = Job(tmp_path / "job", SLOW)
    job.dir.spec.write_text('{"job_id": "x"}')
    assert job.run() == 1
    assert job.exit().failure.code == "invalid_settings"


def test_killed_at_random_instants_the_events_stay_whole(tmp_path: Path) -> None:
    """Bar R1's first half: no half line is ever left standing, no event is lost that the server had read."""
    import random

    rng = random.Random(4)
    script = (
        "import json, time\nfor i in range(10**6): print(json.dumps({'step': i, 'loss': 1.0})); time.sleep(0.002)\n"
    )
    job = Job(tmp_path / "job", script)
    read = 0
    for attempt in range(1, 6):
        job.launch(attempt)
        process = job.start(attempt)
        wait_until(lambda attempt=attempt: any(e.attempt == attempt for e in job.events("step")))
        with job.dir.events.open("rb") as file:
            before = file.read()

        time.sleep(rng.random() * 0.05)
        process.kill()
        process.wait()
        with job.dir.events.open("ab") as file:
            file.write(b'{"type":"step","st')  # what a kill inside write() leaves, made certain
        after = job.dir.events.read_bytes()
        assert after.startswith(before[: before.rfind(b"\n") + 1])
        read = len(job.events())
    job.launch(9)
    write_atomic(job.dir.control, Control(stop=True))
    assert job.run(9) == 0
    assert len(job.events()) > read
    assert all(json.loads(line) for line in job.dir.events.read_bytes().splitlines())


def test_a_second_sigterm_ends_at_once(tmp_path: Path) -> None:
    """The script ignores SIGTERM, so the orderly end takes its five seconds of grace; the second signal does not wait."""
    script = "import signal, time\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('up')\ntime.sleep(60)\n"
    job = Job(tmp_path / "job", script)
    process = job.start()
    wait_until(lambda: "up" in job.log())
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    process.send_signal(signal.SIGTERM)
    assert process.wait(2) == 128 + signal.SIGTERM
    assert job.dir.read_exit() is None


def test_on_a_disk_that_is_really_full_the_worker_still_says_so(tmp_path: Path) -> None:
    """In a mount namespace of its own: a job directory on a disk of 2 MB, which the script fills to the last byte."""
    disk, out = tmp_path / "disk", tmp_path / "out"
    disk.mkdir()
    out.mkdir()
    can = subprocess.run(
        ["unshare", "-Urm", "mount", "-t", "tmpfs", "none", str(disk)], check=False, capture_output=True
    )
    if can.returncode:
        pytest.skip("this machine does not let a test mount a small disk")
    script = (
        "import json, sys\nprint(json.dumps({'step': 1, 'loss': 1.0}))\n"
        "file = open(json.load(open(sys.argv[1]))['output_dir'] + '/x', 'wb', buffering=0)\n"
        "try:\n    while True: file.write(b'x' * 4096)\nexcept OSError: pass\n"
        "while True: print(json.dumps({'step': 2, 'loss': 1.0}))\n"
    )
    job = Job(tmp_path / "job", script)
    command = (
        f"mount -t tmpfs -o size=2m none {disk} && cp -r {job.dir.path}/. {disk}/ && "
        f"{sys.executable} -m tunesmith.worker {disk} --attempt 1; echo $? > {out}/code; cp -r {disk}/. {out}/; true"
    )
    subprocess.run(["unshare", "-Urm", "sh", "-c", command], check=True, timeout=100)
    job.dir = JobDir(out)
    assert (out / "code").read_text().strip() == "1"
    assert job.exit().failure.code == "disk_full", job.exit()
    assert job.events("step")[0].step == 1  # and `events` refuses half lines
    assert job.dir.events.read_bytes().endswith(b"\n")
