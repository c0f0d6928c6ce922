"""Whole servers, their workers and uploads killed at any moment: nothing lost, nothing twice, no success that was none.

Counts are a tenth of the bars'; TUNESMITH_SOAK=10 (`make soak`) runs them in full. Where a bar is counted on cheaper ground
(`test_schedulers.py`, `test_supervision.py`), its test here shows the same once with the real server and worker.
"""

from __future__ import annotations

import contextlib
import hashlib
import random
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import psutil

from tests.conftest import ServerProcess
from tests.reliability.ground import TIMES
from tunesmith.core.job_dir import JobDir

OVER = ("completed", "failed", "cancelled")

SCRIPT = """
import json, os, sys, time
config = json.load(open(sys.argv[1]))
mark = open(os.path.join(config["output_dir"], "marks"), "a")  # an isolated script may write nowhere else that stays
mark.write(f"begin {config['config']['number']} {os.getpid()}\\n"); mark.flush()
for step in range(config["config"]["steps"]):
    print(json.dumps({"step": step + 1, "total_steps": config["config"]["steps"], "loss": 1.0 / (step + 1)}), flush=True)
    time.sleep(config["config"]["pause_s"])
open(os.path.join(config["output_dir"], "model.json"), "w").write("{}")
mark.write(f"end {config['config']['number']} {os.getpid()}\\n"); mark.flush()
"""


def submit(server: ServerProcess, number: int, steps: int = 20, pause_s: float = 0.1) -> int:
    config = {"number": number, "steps": steps, "pause_s": pause_s}
    body = {"method": "custom", "hyperparameters": {"script": SCRIPT, "config": config}}
    answer = server.client.post("/jobs/", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def status(server: ServerProcess, job_id: int) -> dict[str, Any]:
    return dict(server.client.get(f"/jobs/{job_id}/status").json())


def end_of(server: ServerProcess, job_id: int, timeout_s: float = 90) -> dict[str, Any]:
    return dict(server.wait_for(f"/jobs/{job_id}/status", lambda s: s.get("status") in OVER, timeout_s))


def job_dir(server: ServerProcess, job_id: int) -> JobDir:
    return JobDir(server.home / "jobs" / str(job_id))


def marks(server: ServerProcess, job_id: int) -> list[str]:
    """When the job's script began and ended, in order, without its process number."""
    [found] = job_dir(server, job_id).path.rglob("marks")
    return [" ".join(line.split()[:2]) for line in found.read_text().splitlines()]


def payloads(server: ServerProcess, job_id: int) -> list[psutil.Process]:
    """Every process that works for the job."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if f"{job_dir(server, job_id).path}#" in process.environ().get("TUNESMITH_LAUNCH", ""):
                found.append(process)
    return found


def workers(server: ServerProcess, job_id: int) -> list[psutil.Process]:
    """The worker itself, not the shim above it or the script below it."""
    found = []
    for process in payloads(server, job_id):
        with contextlib.suppress(psutil.Error):
            words = process.cmdline()
            if "tunesmith.worker" in words and "tunesmith.executors.shim" not in words:
                found.append(process)
    return found


def check_events(server: ServerProcess, job_id: int) -> list[dict[str, Any]]:
    """Numbers without gaps, steps within one attempt without repeats or gaps."""
    items: list[dict[str, Any]] = []
    while page := server.client.get(f"/jobs/{job_id}/events", params={"after": len(items), "limit": 1000}).json():
        items += page
    assert [item["seq"] for item in items] == list(range(1, len(items) + 1))
    steps: dict[int, list[int]] = {}
    for item in items:
        if item["event"]["type"] == "step":
            steps.setdefault(item["event"]["attempt"], []).append(item["event"]["step"])
    for found in steps.values():
        assert found == list(range(found[0], found[0] + len(found)))
    return items


def test_jobs_outlive_the_server_and_are_found_again(start_server: Callable[..., ServerProcess]) -> None:
    """R2: all payloads live on, all are adopted, what ended meanwhile is told right, nothing runs twice."""
    server = start_server(TUNESMITH_CUSTOM_SCRIPTS="1", TUNESMITH_CPU_SLOTS="3")
    short, long, second = (submit(server, n, steps) for n, steps in ((1, 12), (2, 50), (3, 50)))
    for job_id in (short, long, second):
        server.wait_for(f"/jobs/{job_id}/status", lambda s: s["step"] >= 2)
    server.kill()
    time.sleep(3)
    server.start()
    began_s = time.monotonic()
    for job_id in (short, long, second):
        assert end_of(server, job_id)["status"] == "completed"
        check_events(server, job_id)
        assert server.client.get(f"/jobs/{job_id}").json()["attempt"] == 1, "it was adopted, not started again"
    assert time.monotonic() - began_s < 60
    for number, job_id in enumerate((short, long, second), 1):
        assert marks(server, job_id) == [f"begin {number}", f"end {number}"]


def test_a_killed_worker_starts_again_and_a_stubborn_one_fails_with_a_reason(
    start_server: Callable[..., ServerProcess],
) -> None:
    """R9: plain kills are told as such, never as the user's error."""
    server = start_server(TUNESMITH_CUSTOM_SCRIPTS="1", TUNESMITH_JOB_RESTARTS="1")
    job_id = submit(server, 1, 200)
    for attempt in (1, 2):
        server.wait_for(f"/jobs/{job_id}", lambda job, n=attempt: job["attempt"] == n and job["status"] == "running")
        until = time.monotonic() + 30
        while not (worker := workers(server, job_id)):
            assert time.monotonic() < until
            time.sleep(0.05)
        worker[0].kill()
        server.wait_for(f"/jobs/{job_id}", lambda job, n=attempt: job["attempt"] > n or job["status"] in OVER)
    told = end_of(server, job_id)
    assert (told["status"], told["failure_code"]) == ("failed", "lost_worker") and told["hint"]
    check_events(server, job_id)


def test_a_stopped_worker_is_dead_before_the_next_begins(start_server: Callable[..., ServerProcess]) -> None:
    """R4: SIGSTOP for longer than the lease; nothing of the old attempt is taken in once a new one has begun."""
    server = start_server(TUNESMITH_CUSTOM_SCRIPTS="1", TUNESMITH_LEASE_S="4")
    job_id = submit(server, 1, 60)
    server.wait_for(f"/jobs/{job_id}/status", lambda s: s["step"] >= 2)
    old = payloads(server, job_id)
    for process in old:
        with contextlib.suppress(psutil.Error):
            process.suspend()
    server.wait_for(f"/jobs/{job_id}", lambda job: job["attempt"] == 2, 60)
    for process in old:
        with contextlib.suppress(psutil.Error):
            assert not process.is_running() or process.status() == psutil.STATUS_ZOMBIE
            process.resume()
    assert end_of(server, job_id)["status"] == "completed"
    attempts = [item["event"]["attempt"] for item in check_events(server, job_id) if item["event"]["type"] == "step"]
    assert attempts == sorted(attempts)


def test_cancelling_leaves_no_process(start_server: Callable[..., ServerProcess]) -> None:
    """R13 with the real worker: 0 processes within 15 s."""
    server = start_server(TUNESMITH_CUSTOM_SCRIPTS="1")
    rng = random.Random(13)
    for number in range(2):
        job_id = submit(server, number, 500)
        server.wait_for(f"/jobs/{job_id}", lambda job: job["status"] == "running")
        time.sleep(rng.uniform(0, 2))
        began_s = time.monotonic()
        assert server.client.post(f"/jobs/{job_id}/stop").status_code == 200
        assert end_of(server, job_id, 20)["status"] == "cancelled"
        assert time.monotonic() - began_s < 15 and not payloads(server, job_id)


def test_the_queue_survives_its_servers(
    start_server: Callable[..., ServerProcess], postgres_url: str, tmp_path: Path
) -> None:
    """R3 with real servers: two on one database, killed at random; every job runs to its end, none twice at once."""
    home, rng = tmp_path / "home", random.Random(3)
    environment = {
        "TUNESMITH_CUSTOM_SCRIPTS": "1",
        "TUNESMITH_DATABASE_URL": postgres_url,
        "TUNESMITH_CPU_SLOTS": "2",
        "TUNESMITH_LEASE_S": "5",
    }
    servers = [start_server(home, **environment) for _ in range(2)]
    jobs = [submit(servers[n % 2], n, 15) for n in range(4)]
    for _ in range(4):
        time.sleep(rng.uniform(0.3, 1.5))
        victim = rng.choice(servers)
        victim.kill()
        time.sleep(rng.uniform(0, 0.5))
        victim.start()
    for job_id in jobs:
        assert end_of(servers[0], job_id, 120)["status"] == "completed"
        assert servers[0].client.get(f"/jobs/{job_id}").json()["attempt"] == 1
        check_events(servers[1], job_id)
    for number, job_id in enumerate(jobs):
        assert marks(servers[0], job_id) == [f"begin {number}", f"end {number}"], "a job ran twice"


def test_uploads_under_kills(start_server: Callable[..., ServerProcess], postgres_url: str, tmp_path: Path) -> None:
    """R5: 30 kills in a part, in a commit and in an upload in one piece, on two servers with SQLite and one with
    PostgreSQL: resumed from the last acknowledged part, whole or not there, on SQLite no byte without an owner."""
    urls = [{}, {}, {"TUNESMITH_DATABASE_URL": postgres_url}]
    servers = [start_server(tmp_path / f"home-{n}", **url) for n, url in enumerate(urls)]
    with ThreadPoolExecutor(len(servers)) as pool:
        list(pool.map(kill_in_uploads, servers))


def kill_in_uploads(server: ServerProcess) -> None:
    """Ten kills (times TIMES): four in parts, four in commits, two in uploads in one piece."""
    rng = random.Random(5)
    made: dict[int, bytes] = {}
    for number in range(2 * TIMES):
        cut_in_one_piece(server)
        for kill_in_part in (2, 5):
            rows = b"".join(
                b'{"input": "question %d of %d", "output": "answer"}\n' % (n, number * 10 + kill_in_part)
                for n in range(10_000)
            )
            dataset_id = upload_in_parts(server, rows, kill_in_part, rng)
            made[dataset_id] = rows
    server.kill()
    server.start()
    for dataset_id, rows in made.items():
        ready = server.wait_for(f"/datasets/{dataset_id}", lambda d: d["status"] != "processing")
        found = (ready["status"], ready["num_rows"], ready["sha256"])
        assert found == ("ready", 10_000, hashlib.sha256(rows).hexdigest())
        assert server.client.get(f"/datasets/{dataset_id}/download").content == rows
    items = server.client.get("/datasets/", params={"limit": 500}).json()["items"]
    assert {item["id"] for item in items} == set(made), "half a dataset, or one twice"
    if "TUNESMITH_DATABASE_URL" not in server.env:  # where several servers share a folder, none sweeps it at its start
        assert not list((server.home / "uploads").iterdir()), "bytes without an owner"
        assert {path.name for path in (server.home / "datasets").iterdir()} == {str(dataset_id) for dataset_id in made}


def cut_in_one_piece(server: ServerProcess) -> None:
    def rows() -> Iterator[bytes]:
        for n in range(20):
            yield b"input,output\n" + b"a,b\n" * 20_000
            if n == 5:
                server.kill()

    before = server.client.get("/datasets/").json()["items"]
    with contextlib.suppress(httpx.TransportError):
        server.client.put("/datasets/upload", params={"file_name": "x.csv"}, content=rows())
    server.start()
    assert [d["id"] for d in server.client.get("/datasets/").json()["items"]] == [d["id"] for d in before]


def upload_in_parts(server: ServerProcess, rows: bytes, kill_in_part: int, rng: random.Random) -> int:
    """One kill in that part and one in the commit; the id of the dataset that comes of it all the same."""
    upload = server.client.post("/datasets/uploads", json={"name": "x.jsonl", "size_bytes": len(rows)}).json()
    url = f"/datasets/uploads/{upload['id']}"
    offset = number = 0
    while offset < len(rows):
        part, number = rows[offset : offset + rng.randint(50_000, 100_000)], number + 1
        killed = number == kill_in_part

        def halves(part: bytes = part, killed: bool = killed) -> Iterator[bytes]:
            yield part[: len(part) // 2]
            if killed:
                server.kill()
            yield part[len(part) // 2 :]

        with contextlib.suppress(httpx.TransportError):
            server.client.patch(url, params={"offset": offset}, content=halves())
        if killed:
            server.start()
        acknowledged = offset if killed else offset + len(part)
        offset = server.client.get(url).json()["offset"]
        assert acknowledged <= offset <= acknowledged + len(part), "an acknowledged part is lost"
    assert number >= kill_in_part
    before = {d["id"] for d in server.client.get("/datasets/", params={"limit": 500}).json()["items"]}
    kill = threading.Timer(rng.uniform(0, 0.04), server.kill)
    kill.start()
    commit = {"sha256": hashlib.sha256(rows).hexdigest()}
    with contextlib.suppress(httpx.TransportError):
        server.client.post(f"{url}/commit", json=commit)
    kill.join()
    server.start()
    items = server.client.get("/datasets/", params={"limit": 500}).json()["items"]
    if new := [d["id"] for d in items if d["id"] not in before]:
        assert len(new) == 1 and server.client.get(url).status_code == 404, "the upload is there, and its dataset too"
        return int(new[0])
    assert server.client.get(url).json()["offset"] == len(rows)
    return int(server.client.post(f"{url}/commit", json=commit).json()["id"])


def test_a_low_disk_holds_back_starts_and_uploads(start_server: Callable[..., ServerProcess], tmp_path: Path) -> None:
    """R8: refused with 507, waiting with a reason; normal again once there is room, without losing anything."""
    server = start_server(TUNESMITH_CUSTOM_SCRIPTS="1", TUNESMITH_MIN_FREE_BYTES=str(2**60))
    answer = server.client.put("/datasets/upload", params={"file_name": "x.csv"}, content=b"input,output\na,b\n")
    assert answer.status_code == 507 and answer.json()["hint"]
    job_id = submit(server, 1, 2)
    told = server.wait_for(f"/jobs/{job_id}/status", lambda s: s["waiting_for"])
    assert told["status"] == "queued" and "disk" in told["waiting_for"]
    server.stop()
    server.env["TUNESMITH_MIN_FREE_BYTES"] = "0"
    server.start()
    assert end_of(server, job_id)["status"] == "completed"
