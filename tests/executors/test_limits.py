"""What the kernel keeps for us: limits of a worker's process, its control group, and which tokens it learns. With real
workers, started cold and forked.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.recipes.ground import Ground
from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import JobSpec, ModelRef, ShimRecord
from tunesmith.executors.base import Order
from tunesmith.executors.limits import (
    MAX_OPEN_FILES,
    MAX_PROCESSES,
    PREFIX,
    WorkerGroup,
    find_places,
    isolation_available,
    sweep,
)
from tunesmith.executors.local import LocalExecutor, credentials
from tunesmith.executors.warm import WarmExecutor

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="control groups are there on Linux only")
MIB = 1024**2


def spec(folder: Path, **more: Any) -> JobSpec:
    told = {"job_id": 1, "name": "x", "recipe": "lora", "params": {}, "cache_dir": str(folder / "cache"), **more}
    return JobSpec.model_validate(told)


def run(folder: Path, code: str, **more: Any) -> tuple[JobDir, ShimRecord]:
    """A worker that is `code`, to its end."""
    job_dir = JobDir(folder / f"job-{len(list(folder.glob('job-*')))}")
    job_dir.path.mkdir()
    write_atomic(job_dir.spec, spec(folder, **more))
    executor = LocalExecutor([sys.executable, "-c", code])
    prepared = executor.prepare(job_dir, Order(attempt=1))
    write_atomic(job_dir.launch, prepared.launch)
    prepared.go()
    try:
        observed = until(lambda: (o := executor.observe(job_dir, prepared.launch)).state != "alive" and o)
        assert observed.shim, job_dir.log.read_text()
        return job_dir, observed.shim
    finally:
        executor.kill(job_dir, prepared.launch)


def until(check: Callable[[], Any], timeout_s: float = 60) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline_s, "it takes too long"
        time.sleep(0.02)
    return found


@pytest.fixture
def groups(tmp_path: Path) -> Iterator[Path]:
    """Where groups are made here; none of the test's own shims may leave one there."""
    places = find_places()
    if places is None:
        pytest.skip("this machine lets us make no control group")
    yield places.memory
    shims = [json.loads(launch.read_text())["pid"] for launch in tmp_path.rglob("launch.json")]
    until(lambda: not [pid for pid in shims if (places.memory / f"{PREFIX}{pid}").exists()], 10)


LOOK = (
    "import json, resource\n"
    "json.dump({'core': resource.getrlimit(resource.RLIMIT_CORE), 'files': resource.getrlimit(resource.RLIMIT_NOFILE),\n"
    "           'space': resource.getrlimit(resource.RLIMIT_AS), 'groups': open('/proc/self/cgroup').read()}, open('seen.json', 'w'))\n"
)


def test_a_worker_has_its_limits(tmp_path: Path) -> None:
    job_dir, _ = run(tmp_path, LOOK)
    seen = json.loads((job_dir.path / "seen.json").read_text())
    assert seen["core"] == [0, 0]
    assert 0 < seen["files"][0] <= MAX_OPEN_FILES and seen["files"][0] == seen["files"][1]
    assert seen["space"] == [-1, -1], "CUDA reserves far more address space than it uses"


def test_a_worker_is_in_a_group_of_its_own(tmp_path: Path, groups: Path) -> None:
    job_dir, ended = run(tmp_path, LOOK)
    assert ended.exit_code == 0
    assert f"/{PREFIX}" in json.loads((job_dir.path / "seen.json").read_text())["groups"], job_dir.log.read_text()


GREEDY = "import time; held = [bytearray(8 * 1024**2) for _ in range(100)]; time.sleep(60)"


def test_memory_beyond_the_setting_ends_the_worker_and_is_told(tmp_path: Path, groups: Path) -> None:
    _, ended = run(tmp_path, GREEDY, worker_memory_bytes=150 * MIB)
    assert ended.out_of_memory and ended.signal == 9, ended
    _, ended = run(tmp_path, GREEDY.replace("sleep(60)", "sleep(0)"))
    assert ended.exit_code == 0, "without the setting there is no limit"
    _, ended = run(tmp_path, "import os; os.kill(os.getpid(), 9)", worker_memory_bytes=150 * MIB)
    assert ended.signal == 9 and not ended.out_of_memory, "a plain kill is not taken for one"


def test_what_a_worker_starts_counts_too(tmp_path: Path, groups: Path) -> None:
    """Three processes that are small enough each, and too large together."""
    code = (
        "import os, sys, time\n"
        "pids = []\n"
        "for _ in range(3):\n"
        "    pid = os.fork()\n"
        "    if not pid:\n"
        "        held = bytearray(90 * 1024**2); time.sleep(3); os._exit(0)\n"
        "    pids.append(pid)\n"
        "ended = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]\n"
        "sys.exit(42 if -9 in ended else 0)\n"
    )
    _, ended = run(tmp_path, code, worker_memory_bytes=150 * MIB)
    assert ended.exit_code == 42 or ended.out_of_memory, ended


def test_a_custom_script_that_fills_the_memory_of_its_group_is_told_so(tmp_path: Path, groups: Path) -> None:
    """Below its own limit of address space, in processes of its own."""
    script = "import time\nheld = [bytearray(8 << 20) for _ in range(200)]\ntime.sleep(60)\n"
    job_dir = JobDir(tmp_path / "job")
    job_dir.path.mkdir()
    params = {"script": script, "memory_mb": 16_384, "timeout_s": 60}
    write_atomic(job_dir.spec, spec(tmp_path, recipe="custom", params=params, worker_memory_bytes=400 * MIB))
    executor = LocalExecutor()
    prepared = executor.prepare(job_dir, Order(attempt=1))
    write_atomic(job_dir.launch, prepared.launch)
    prepared.go()
    observed = until(lambda: (o := executor.observe(job_dir, prepared.launch)).state != "alive" and o)
    told = job_dir.read_exit()
    assert observed.shim, job_dir.log.read_text()
    assert observed.shim.out_of_memory or (told and told.failure and told.failure.code == "out_of_memory"), told


def test_a_group_of_a_shim_that_was_killed_is_swept(groups: Path) -> None:
    places = find_places()
    assert places
    child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    stale, living = [places.memory / f"{PREFIX}{pid}" for pid in (2**22 + 5, child.pid)]
    try:
        for folder in (stale, living):
            folder.mkdir()
        sweep(places)
        assert not stale.exists() and living.exists()
    finally:
        child.kill()
        child.wait()
        with contextlib.suppress(FileNotFoundError):
            stale.rmdir()
        living.rmdir()


def test_a_forked_worker_has_the_same_limits(groups: Path, tmp_path: Path, tiny_model: Path) -> None:
    executor = WarmExecutor(offline=True)
    with pytest.MonkeyPatch.context() as patched:
        for name in ("HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"):
            patched.setenv(name, "canary")
        executor.warm_up()
    until(executor._is_ready)
    ground = Ground(tmp_path, tiny_model)
    job_dir = ground.run(max_steps=100_000).dir
    prepared = executor.prepare(job_dir, Order(attempt=1, cpu_threads=1))
    write_atomic(job_dir.launch, prepared.launch)
    prepared.go()
    try:
        until(lambda: job_dir.events.exists() and '"step"' in job_dir.events.read_text())
        pid = _worker_of(prepared.launch.pid)
        limits = Path(f"/proc/{pid}/limits").read_text()
        assert [line.split()[4:6] for line in limits.splitlines() if "core file" in line] == [["0", "0"]]
        assert f"/{PREFIX}{prepared.launch.pid}" in Path(f"/proc/{pid}/cgroup").read_text()
        for process in (pid, prepared.launch.pid):
            assert b"canary" not in Path(f"/proc/{process}/environ").read_bytes()
    finally:
        executor.kill(job_dir, prepared.launch)
        executor.close()
        places = find_places()
        assert places
        sweep(places)  # killed from outside, so its shim may have had no time to


def _worker_of(shim_pid: int) -> int:
    import psutil

    return psutil.Process(shim_pid).children()[0].pid


# -- where groups can be made: decided on what the kernel shows -----------------------------------------------------------


def cgroup_tree(root: Path, *groups: str, **files: str) -> Path:
    for group in groups:
        (root / group).mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (root / group / name.replace("__", ".")).write_text(text)
    return root


def own(tmp_path: Path, text: str) -> Path:
    (tmp_path / "own").write_text(text)
    return tmp_path / "own"


def test_version_2_needs_a_group_that_passes_memory_on(tmp_path: Path) -> None:
    root = tmp_path / "v2"
    cgroup_tree(root, ".", "a.service", cgroup__controllers="memory pids", cgroup__procs="", cgroup__subtree_control="")
    told = own(tmp_path, "0::/a.service\n")
    places = find_places(root, told)
    assert places and places.is_v2 and places.folders() == [root / "a.service"]
    assert set((root / "a.service" / "cgroup.subtree_control").read_text().split()) == {"+memory", "+pids"}
    assert find_places(root, own(tmp_path, "0::/../elsewhere\n")) is None
    assert find_places(root, tmp_path / "absent") is None


def test_beside_the_server_only_where_the_group_around_is_delegated(tmp_path: Path) -> None:
    root = tmp_path / "v2"
    cgroup_tree(root, ".", "a.service", "a.service/server", cgroup__controllers="memory pids", cgroup__procs="")
    (root / "a.service" / "cgroup.subtree_control").write_text("memory pids")
    told = own(tmp_path, "0::/a.service/server\n")
    assert find_places(root, told) is None, "what is not ours is left alone"
    try:
        os.setxattr(root / "a.service", "user.delegate", b"1")
    except OSError:
        pytest.skip("this file system keeps no such marks")
    places = find_places(root, told)
    assert places and places.folders() == [root / "a.service"]


def test_version_1_counts_memory_in_a_tree_of_its_own(tmp_path: Path) -> None:
    root = tmp_path / "v1"
    cgroup_tree(root, "memory/x", "pids/y", cgroup__procs="", memory__limit_in_bytes="")
    places = find_places(root, own(tmp_path, "3:pids:/y\n2:cpu,memory:/x\n0::/\n"))
    assert places and places.folders() == [root / "memory" / "x", root / "pids" / "y"] and not places.is_v2
    group = WorkerGroup.make(5 * MIB, places)
    assert group
    (made,) = (root / "memory" / "x").glob(f"{PREFIX}*")
    assert (made / "memory.limit_in_bytes").read_text() == str(5 * MIB) and MAX_PROCESSES > 1000
    assert find_places(root, own(tmp_path, "3:pids:/y\n0::/\n")) is None


def test_what_can_be_had_is_told() -> None:
    found, places = isolation_available(), find_places()
    assert found.limits_memory == bool(places) and ("not available" in found.memory) == (places is None)
    assert found.scripts


# -- tokens ---------------------------------------------------------------------------------------------------------------

TOKENS = {"HF_TOKEN", "WANDB_API_KEY", "MLFLOW_TRACKING_TOKEN"}
HUB, HERE = ModelRef(name="a/b", path="a/b"), ModelRef(name="a/b", path="/models/a--b")


@pytest.mark.parametrize(
    ("more", "tokens"),
    [
        ({"model": HERE}, set()),
        ({"model": HUB}, {"HF_TOKEN"}),
        ({"model": HUB, "offline": True}, set()),
        ({"model": HERE, "params": {"report_to": ["wandb"]}}, {"WANDB_API_KEY"}),
        ({"model": HERE, "params": {"report_to": ["mlflow"]}}, {"MLFLOW_TRACKING_TOKEN"}),
        ({"model": HUB, "params": {"report_to": ["mlflow", "wandb"]}}, TOKENS),
        ({"model": HERE, "params": {"report_to": ["tensorboard", "unknown"]}}, set()),
        ({"model": HERE, "params": {"report_to": ["trackio"]}}, {"HF_TOKEN"}),
        ({"model": HUB, "recipe": "custom", "params": {"report_to": ["wandb", "mlflow"]}}, set()),
    ],
)
def test_a_token_goes_only_to_the_worker_that_needs_it(
    tmp_path: Path, more: dict[str, Any], tokens: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert credentials(spec(tmp_path, **more)) & TOKENS == tokens
    for name in TOKENS:
        monkeypatch.setenv(name, f"canary-{name}")
    job_dir, _ = run(tmp_path, "import os; open('env', 'w').write(repr(dict(os.environ)))", **more)
    seen = (job_dir.path / "env").read_text()
    assert {name for name in TOKENS if f"canary-{name}" in seen} == tokens
