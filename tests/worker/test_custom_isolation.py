"""What a custom script cannot reach: the network, the server's secrets, other processes, and other files. In real workers, in
each of the ways in which a script can be kept apart here.
"""

from __future__ import annotations

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ServerProcess
from tests.services import missing
from tests.worker.job import Job, wait_until
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import Control
from tunesmith.recipes.custom import isolation

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="scripts are kept apart on Linux only")
CANARY = "canary-5f2c9d"
TELL = (
    "import json, os, sys\ntold = json.load(open(sys.argv[1]))\nout = told['output_dir']\n"
    "def tell(found): open(os.path.join(out, 'found.json'), 'w').write(json.dumps(found))\n"
)


@pytest.fixture(params=["bubblewrap", "namespace"])
def env(request: pytest.FixtureRequest, tmp_path: Path) -> dict[str, str]:
    """Variables under which the worker chooses that way; the second as on a machine without bubblewrap."""
    if request.param == "bubblewrap":
        need_bubblewrap()
        return {}
    if not isolation._has_namespaces():
        pytest.skip("this machine lets nobody make a user namespace")
    return without_bubblewrap(tmp_path)


def need_bubblewrap() -> None:
    if shutil.which("bwrap") is None:
        missing("bubblewrap", "bwrap is not installed.")
    if isolation.way() != "bubblewrap":
        pytest.skip("bubblewrap may not make namespaces on this machine")


def without_bubblewrap(tmp_path: Path) -> dict[str, str]:
    programs = tmp_path / "programs"
    programs.mkdir(exist_ok=True)
    return {"PATH": str(programs)}


@pytest.fixture
def listener() -> Iterator[tuple[int, list[Any]]]:
    """A port of this machine, and who has come."""
    came: list[Any] = []
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        over = threading.Event()

        def listen() -> None:
            while not over.is_set():
                try:
                    connection, peer = server.accept()
                except TimeoutError:
                    continue
                came.append(peer)
                connection.close()

        thread = threading.Thread(target=listen)
        thread.start()
        yield server.getsockname()[1], came
        over.set()
        thread.join()


def found_by(job: Job, env: dict[str, str]) -> Any:
    assert job.run(**env) == 0, job.log()
    return json.loads((job.dir.artifacts / "custom_model" / "found.json").read_text())


REACH = """
import socket
found = {}
for name, address in {"loopback": ("127.0.0.1", told["config"]["port"]), "outside": ("203.0.113.7", 80)}.items():
    try:
        socket.create_connection(address, timeout=2).close()
        found[name] = "reached"
    except OSError as error:
        found[name] = type(error).__name__
with socket.socket(socket.AF_UNIX) as abstract:
    try:
        abstract.connect("\\0" + told["config"]["abstract"])
        found["abstract"] = "reached"
    except OSError as error:
        found["abstract"] = type(error).__name__
tell(found)
"""


def test_a_script_has_no_network(tmp_path: Path, env: dict[str, str], listener: tuple[int, list[Any]]) -> None:
    port, came = listener
    name = f"tunesmith-test-{os.getpid()}"
    with socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind("\0" + name)
        abstract.listen()
        job = Job(tmp_path / "job", TELL + REACH, params={"config": {"port": port, "abstract": name}})
        found = found_by(job, env)
    assert "reached" not in found.values() and not came, found


def test_unless_the_server_allows_it(tmp_path: Path, env: dict[str, str], listener: tuple[int, list[Any]]) -> None:
    port, came = listener
    params = {"config": {"port": port, "abstract": "nobody"}}
    job = Job(tmp_path / "job", TELL + REACH, params=params, custom_network=True)
    assert found_by(job, env)["loopback"] == "reached"
    wait_until(lambda: came, 5)


SECRETS = """
import glob
found = {"own": dict(os.environ), "processes": 0, "leaks": []}
for path in glob.glob("/proc/*/environ") + ["/proc/%d/environ" % os.getppid()]:
    try:
        text = open(path, "rb").read().decode(errors="replace")
    except OSError:
        continue
    found["processes"] += 1
    if told["config"]["canary"] in text:
        found["leaks"].append(path)
tell(found)
"""


def test_no_secret_is_found_in_any_environment(tmp_path: Path, env: dict[str, str]) -> None:
    """Not in its own, and not in that of its worker, of the test that started it, or of anybody else's process."""
    holder = subprocess.Popen(["sleep", "60"], env={**os.environ, "HELD": CANARY})
    try:
        job = Job(tmp_path / "job", TELL + SECRETS, params={"config": {"canary": CANARY}})
        found = found_by(job, {**env, "TUNESMITH_DATABASE_URL": CANARY, "HF_TOKEN": CANARY, "WANDB_API_KEY": CANARY})
    finally:
        holder.kill()
        holder.wait()
    assert not found["leaks"] and CANARY not in json.dumps(found["own"]), found
    assert found["processes"] >= 1, "it can look at itself, so it did look"


FILES = """
found = {}
for name, path in told["config"].items():
    try:
        if name.startswith("write"):
            open(path, "a").write("mine")
        else:
            open(path).read()
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
tell(found)
"""


def test_it_sees_its_own_folder_only(tmp_path: Path, env: dict[str, str]) -> None:
    other = Job(tmp_path / "other", "print('the other job')")
    secret = tmp_path / "tunesmith.db"
    secret.write_text("rows of everybody")
    attempts = {
        "read other": str(other.dir.spec), "read own spec": str(tmp_path / "job" / "spec.json"), "read database": str(secret),
        "read passwd": "/etc/shadow", "read home": str(Path.home() / ".bashrc"),
        "write other": str(other.dir.log), "write own events": str(tmp_path / "job" / "events.jsonl"), "write root": "/left",
        "write system": "/usr/left", "write python": str(Path(sys.prefix) / "left"), "write outside": str(tmp_path / "left"),
    }  # fmt: skip
    job = Job(tmp_path / "job", TELL + FILES, params={"config": attempts})
    found = found_by(job, env)
    # Below /tmp it writes, as it may, into a /tmp of its own; nothing of that is anywhere afterwards.
    in_tmp = {name for name, path in attempts.items() if name.startswith("write") and path.startswith("/tmp/")}
    assert not {name for name, result in found.items() if result == "done"} - in_tmp, found
    assert not list(tmp_path.glob("left")) and not Path("/left").exists() and not Path("/usr/left").exists()
    assert not other.dir.log.exists() and all(event.type != "mine" for event in job.events())


def test_its_rows_can_be_read_and_not_changed(tmp_path: Path, env: dict[str, str]) -> None:
    rows, cache = tmp_path / "rows.parquet", tmp_path / "blobs"
    rows.write_text("some rows")
    (tmp_path / "model").mkdir()
    cache.mkdir()
    (cache / "abc").write_text("weights")
    weights = tmp_path / "model" / "model.safetensors"
    weights.symlink_to(cache / "abc")  # as the hub's cache has them
    attempts = {"read rows": str(rows), "read model": str(weights), "write rows": str(rows)}
    dataset = {"name": "rows", "path": str(rows), "digest": "0" * 64, "shape": "text"}
    model = {"name": "a/b", "path": str(tmp_path / "model")}
    job = Job(tmp_path / "job", TELL + FILES, params={"config": attempts}, dataset=dataset, model=model)
    found = found_by(job, env)
    assert (found["read rows"], found["read model"]) == ("done", "done") and found["write rows"] != "done", found
    assert rows.read_text() == "some rows"


WORKS = """
import multiprocessing, tempfile, threading
import numpy
with tempfile.TemporaryDirectory() as folder, multiprocessing.get_context("fork").Pool(2) as pool:
    total = sum(pool.map(abs, [-1, -2, -3]))
open("/tmp/scratch", "w").write("x")
open(os.path.join(told["state_dir"], "kept"), "w").write("x")
tell({"total": total, "mean": float(numpy.mean([1.0, 3.0]))})
"""


def test_what_scripts_need_is_there(tmp_path: Path, env: dict[str, str]) -> None:
    found = found_by(Job(tmp_path / "job", TELL + WORKS), env)
    assert found == {"total": 6, "mean": 2.0}
    Path("/tmp/scratch").unlink(missing_ok=True)


POLITE = """
import os, signal, sys, json, time
told = json.load(open(sys.argv[1]))
def end(*_):
    open(os.path.join(told["state_dir"], "kept"), "w").write("all of it")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
print("up")
time.sleep(60)
"""


def test_a_script_may_keep_what_it_has_before_it_is_ended(tmp_path: Path, env: dict[str, str]) -> None:
    job = Job(tmp_path / "job", POLITE)
    process = job.start(**env)
    wait_until(lambda: "up" in job.log())
    write_atomic(job.dir.control, Control(pause=True))
    assert process.wait(30) == 0 and job.exit().outcome == "paused"
    assert (job.dir.path / "script" / "state" / "kept").read_text() == "all of it"


def test_a_script_that_is_killed_for_memory_is_told_so(tmp_path: Path, env: dict[str, str]) -> None:
    """By the kernel or by somebody: the exit code comes through whatever stands between."""
    for script in ("import os; os.kill(os.getpid(), 9)", "x = [bytearray(1 << 26) for _ in range(100)]"):
        job = Job(tmp_path / f"job-{len(script)}", script, params={"memory_mb": 600})
        assert job.run(**env) == 1
        assert job.exit().failure.code == "out_of_memory", job.exit()


def test_nothing_of_a_script_outlives_its_worker(tmp_path: Path, env: dict[str, str]) -> None:
    mark = f"tunesmith-mark-{os.getpid()}-{tmp_path.name}"
    script = (
        "import os, subprocess, sys, time\n"
        f"subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(60)', '{mark}'])\nprint('up')\ntime.sleep(60)\n"
    )
    job = Job(tmp_path / "job", script)
    process = job.start(**env)
    wait_until(lambda: "up" in job.log())
    wait_until(lambda: processes_with(mark), 10)
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    wait_until(lambda: not processes_with(mark), 10)


def processes_with(mark: str) -> list[int]:
    import psutil

    return [
        p.pid
        for p in psutil.process_iter(["cmdline", "status"])
        if mark in (p.info["cmdline"] or []) and p.info["status"] != psutil.STATUS_ZOMBIE
    ]


NO_NAMESPACES = [
    shutil.which("unshare") or "unshare", "-Ur", "/bin/sh", "-c",
    'echo 0 > /proc/sys/user/max_user_namespaces && exec "$@"', "sh",
]  # fmt: skip
"""As on a machine that lets nobody make a namespace; bubblewrap must be out of sight, too."""


@pytest.fixture
def no_namespaces() -> list[str]:
    if subprocess.run([*NO_NAMESPACES, sys.executable, "-c", ""], check=False, capture_output=True).returncode:
        pytest.skip("this machine lets no test forbid namespaces")
    return NO_NAMESPACES


@pytest.mark.parametrize("network", [False, True])
def test_without_any_way_the_worker_refuses(tmp_path: Path, no_namespaces: list[str], network: bool) -> None:
    """Whether the network is allowed or not: the files are everybody's all the same."""
    job = Job(tmp_path / "job", "print('it ran')", custom_network=network)
    command = [*no_namespaces, sys.executable, "-m", "tunesmith.worker"]
    assert job.start(1, command, **without_bubblewrap(tmp_path)).wait(60) == 1
    failure = job.exit().failure
    assert failure.code == "unsupported" and "bubblewrap" in failure.message
    assert "it ran" not in job.log()


class Confined(ServerProcess):
    """A server that cannot make namespaces."""

    def launch(self) -> None:
        log = (self.home / "server.log").open("ab")
        command = [*NO_NAMESPACES, sys.executable, "-m", "tunesmith", "up", "--port", str(self.port)]
        self.process = subprocess.Popen(command, env=self.env, stdout=log, stderr=log, start_new_session=True)


def test_a_server_that_cannot_keep_scripts_apart_refuses_them(tmp_path: Path, no_namespaces: list[str]) -> None:
    body = {"method": "custom", "hyperparameters": {"script": "print(1)"}, "start": "manual"}
    env = {"TUNESMITH_CUSTOM_SCRIPTS": "true", "TUNESMITH_CUSTOM_NETWORK": "true", **without_bubblewrap(tmp_path)}
    server = Confined(tmp_path / "home", env)
    try:
        told = server.start().client.post("/jobs/", json=body)
        doctor = {item["name"]: item for item in server.client.get("/system/doctor").json()}
        listed = {item["name"]: item["why_not"] for item in server.client.get("/jobs/methods").json()}
    finally:
        server.stop()
        server.client.close()
    assert told.status_code == 422 and told.json()["details"][0]["loc"] == "method", told.text
    said = (told.json()["details"][0]["message"], doctor["isolation"]["remedy"], listed["custom"])
    assert all("bubblewrap" in text for text in said), said


HOME = """
found = {}
for root in told["config"]["places"]:
    for path in [root, *(os.path.join(folder, name) for folder, _, names in os.walk(root) for name in names)]:
        try:
            if told["config"]["canary"].encode() in open(path, "rb").read(1000):
                found[path] = "read"
        except OSError:
            pass
tell(found)
"""


def test_it_cannot_find_the_servers_home(tmp_path: Path, env: dict[str, str]) -> None:
    """Not even one that lies in a folder which it must see, as that of the libraries."""
    home = tmp_path / "libraries" / "home"
    (home / "jobs" / "2").mkdir(parents=True)
    for name in ("secret.key", "tunesmith.db", "jobs/2/spec.json"):
        (home / name).write_text(CANARY)
    Path("/tmp/tunesmith-canary").write_text(CANARY)
    config = {"places": [str(home), str(tmp_path), "/tmp", "/var/tmp", "/dev/shm"], "canary": CANARY}
    job = Job(home / "jobs" / "1", TELL + HOME, params={"config": config}, cache_dir=str(home / "cache"))
    found = found_by(job, {**env, "LD_LIBRARY_PATH": str(tmp_path / "libraries")})
    Path("/tmp/tunesmith-canary").unlink()
    own = str(job.dir.path / "script")
    assert found and not [path for path in found if not path.startswith(own)], (
        found
    )  # it did look: its config says it too


ESCAPE = """
import shutil
if not os.path.exists(os.path.join(told["state_dir"], "second")):
    open(os.path.join(told["state_dir"], "second"), "w").close()
    for name in ("script.py", "config.json"):
        os.unlink(name)
        os.symlink(told["config"]["target"], name)
    print("laid", flush=True)
    import time
    time.sleep(60)
os.rmdir(out)
os.symlink(told["config"]["home"], out)
"""


def test_links_that_it_leaves_lead_the_worker_nowhere(tmp_path: Path, env: dict[str, str]) -> None:
    """Neither to write into a file outside at the next attempt, nor to hand out a folder outside as its result."""
    home, target = tmp_path / "home", tmp_path / "target"
    home.mkdir()
    (home / "secret.key").write_text(CANARY)
    target.write_text("as it was")
    params = {"config": {"target": str(target), "home": str(home)}}
    job = Job(
        tmp_path / "job",
        "import json, os, sys\ntold = json.load(open(sys.argv[1]))\nout = told['output_dir']\n" + ESCAPE,
        params=params,
    )
    process = job.start(**env)
    wait_until(lambda: "laid" in job.log())
    process.send_signal(signal.SIGTERM)
    assert process.wait(30) == 0
    job.launch(2)
    assert job.run(2, **env) == 1
    assert target.read_text() == "as it was" and (home / "secret.key").read_text() == CANARY
    assert "output_dir" in job.exit().failure.message and not (job.dir.artifacts / "custom_model").exists()


CAPABLE = """
import ctypes
libc = ctypes.CDLL(None)
status = open("/proc/self/status").read()
seen = [int(name) for name in os.listdir("/proc") if name.isdigit()]
python = os.path.dirname(os.path.dirname(os.path.realpath(sys.executable)))
tell({
    "capabilities": int(status.split("CapEff:")[1].split()[0], 16),
    "remounted": libc.mount(None, python.encode(), None, ctypes.c_ulong(32 | 4096), None),
    "processes": len(seen),
})
"""


def test_it_has_no_way_to_change_what_it_sees(tmp_path: Path, env: dict[str, str]) -> None:
    found = found_by(Job(tmp_path / "job", TELL + CAPABLE), env)
    assert found["capabilities"] == 0 and found["remounted"] == -1 and found["processes"] < 6


def test_the_way_is_what_this_machine_has(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in without_bubblewrap(tmp_path).items():
        monkeypatch.setenv(name, value)
    assert isolation.way() == ("namespace" if isolation._has_namespaces() else "none")
    assert shutil.which("bwrap") is None
