"""What kills leave under temporary names is gone after the next start, and nothing that somebody still writes."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

from tests.conftest import ServerProcess, lay_database
from tests.reliability import real_worker
from tests.reliability.conftest import make_ground  # noqa: F401
from tests.reliability.ground import Ground
from tunesmith.core.job_dir import JobDir, new_folder, write_atomic
from tunesmith.features.accounts.tokens import load_secret
from tunesmith.features.datasets import files as dataset_files
from tunesmith.features.deployments.targets.building import place_file
from tunesmith.features.jobs import files as job_files
from tunesmith.features.monitoring.leftovers import sweep
from tunesmith.features.registry.store import Store
from tunesmith.recipes.blocks.token_rows import write_rows
from tunesmith.settings import Settings
from tunesmith.storage.database import Database


def die(*_: object, **__: object) -> None:
    os.kill(os.getpid(), 9)


def killed_in(work: Callable[[], object], *places: str) -> None:
    """Do it in a process of its own that is killed, for real, where it would come to one of `places`."""
    pid = os.fork()
    if pid == 0:
        for place in places:
            setattr(*{"replace": (os, "replace"), "rename": (os, "rename"), "link": (os, "link"),
                      "rmtree": (job_files.shutil, "rmtree"), "fsync": (os, "fsync")}[place], die)  # fmt: skip
        work()
        os._exit(0)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -9, "it was not killed in the middle"


def in_folder(final: Path) -> None:
    with new_folder(final) as folder:
        (folder / "a").write_text("a")


def incoming(settings: Settings) -> None:
    file = dataset_files.Incoming(settings)
    file.write(b"x" * 100_000)
    file.finish()


def kill_everywhere(settings: Settings) -> None:
    """Every place of the server and its workers that makes temporary names."""
    home = settings.home
    for folder in ("deployments/7/made", "downloads/3", "serving", "cache/checksums", "datasets/9/versions"):
        (home / folder).mkdir(parents=True, exist_ok=True)
    for path in (
        "settings.json",
        "cache/checksums/abc",
        "downloads/3/progress.json",
        "serving/told.json",
        "deployments/7/made/told.json",
    ):
        killed_in(lambda path=path: write_atomic(home / path, "{}"), "replace")  # type: ignore[misc]
    killed_in(lambda: load_secret(home, None), "link")
    killed_in(lambda: incoming(settings), "fsync")
    killed_in(lambda: in_folder(home / "deployments" / "7" / "folder"), "rename")
    killed_in(lambda: place_file(home / "tunesmith.db", home / "deployments" / "7" / "model.gguf"), "replace")
    killed_in(lambda: write_rows(home / "cache" / "tokens" / "x.arrow", []), "replace")
    killed_in(lambda: Store(settings).put(home / "tunesmith.db"), "replace")
    killed_in(lambda: in_folder(home / "registry" / "versions" / "5"), "rename")
    for job_id in (1, 2):
        folder = JobDir(settings.jobs_dir / str(job_id))
        folder.path.mkdir()
        for record in (folder.launch, folder.control, folder.spec, folder.exit, folder.shim):
            killed_in(lambda record=record: write_atomic(record, "{}"), "replace")  # type: ignore[misc]
        killed_in(lambda: in_folder(folder.artifacts / "model"), "rename")  # noqa: B023
        killed_in(lambda: in_folder(folder.checkpoints / "step-000001"), "rename")  # noqa: B023
        (folder.path / "tmp").mkdir()
        (folder.path / "tmp" / "scratch").write_text("x")
        (folder.path / ".reserve-0").write_bytes(b"\0")
    killed_in(lambda: job_files.discard(settings, 2), "rmtree")
    for folder in ("asked-1234abcd",):
        (settings.uploads_dir / folder).mkdir()


def strays(home: Path) -> list[str]:
    kept = {".hidden-of-a-user", ".starter.lock", ".lock"}
    found = [
        p
        for p in home.rglob("*")
        if p.name.startswith((".", "tmp", "asked-", "secret.", "processing-")) and p.name not in kept
    ]
    found += [*(home / "uploads").iterdir(), *(home / "registry" / "incoming").iterdir()]
    return sorted(str(path.relative_to(home)) for path in found if path.name != "secret.key")


def test_after_kills_in_the_middle_of_everything_the_next_server_leaves_no_stray_name(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    settings = Settings(home=tmp_path / "home", min_free_bytes=0)
    settings.make_dirs()
    lay_database(settings.home)
    kill_everywhere(settings)
    (settings.models_dir / "mine").mkdir()
    kept = settings.models_dir / "mine" / ".config.json.abcdefgh"
    kept.write_text("a user's own")
    assert len(strays(settings.home)) >= 30
    start_server(settings.home)
    deadline_s = time.monotonic() + 30
    while (left := strays(settings.home)) != ["models/mine/.config.json.abcdefgh"]:
        assert time.monotonic() < deadline_s, left
        time.sleep(0.1)
    assert (settings.jobs_dir / "1").is_dir() and kept.exists()


def test_what_a_living_process_writes_is_left_alone(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path / "home")
    settings.make_dirs()
    lay_database(settings.home)
    database = Database(settings.sqlalchemy_url)
    tokens = settings.cache_dir / "tokens"
    tokens.mkdir()
    open_name, closed_name, folder = (
        tokens / ".abcd1234",
        tokens / ".efgh5678",
        settings.home / "deployments" / ".x.abcdefgh",
    )
    closed_name.touch()
    folder.mkdir(parents=True)
    with open_name.open("w"), (folder / "part").open("w"):
        assert sweep(settings, database, time.time() + 1) == 1
        assert open_name.exists() and folder.exists() and not closed_name.exists()
        assert sweep(settings, database, time.time() - 3600) == 0
    assert sweep(settings, database, time.time() - 3600) == 0, "it is too young"
    assert sweep(settings, database, time.time() + 1) == 2
    database.close()


def test_a_worker_that_outlives_its_server_keeps_its_own_until_it_ends(make_ground: Callable[..., Ground]) -> None:  # noqa: F811
    ground = make_ground(worker=real_worker.COMMAND, lease_s=30.0)
    job_id = ground.submit(steps=30, pause_s=0.1, weights_bytes=10)
    ground.until_step(job_id, 2)
    reserve, scratch = ground.dir(job_id).path / ".reserve-0", ground.dir(job_id).path / "tmp"
    ground.scheduler = ground.new_scheduler()
    sweep(ground.settings, ground.database, time.time() + 1)
    assert reserve.exists() and scratch.is_dir()
    ground.until_ended(job_id)
    ground.check_completed(job_id, 30)
    assert not reserve.exists() and not scratch.exists()
    assert not [path.name for path in ground.dir(job_id).path.rglob(".*")]


def test_a_job_begins_in_a_folder_that_is_swept(make_ground: Callable[..., Ground]) -> None:  # noqa: F811
    ground = make_ground(worker=real_worker.COMMAND)
    job_id = ground.submit(start=False, steps=1, pause_s=0.0, weights_bytes=10)
    folder = ground.dir(job_id)
    folder.path.mkdir()
    killed_in(lambda: write_atomic(folder.launch, "{}"), "replace")
    (folder.path / "tmp").mkdir()
    (folder.path / "tmp" / "old").touch()
    ground.ask(job_id, lambda life, job: life.enqueue(job))
    ground.until(job_id, lambda job: job.status == "running")
    assert not list(folder.path.glob(".launch.json.*")) and not (folder.path / "tmp" / "old").exists()
