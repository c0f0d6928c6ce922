"""Every kind of process that a server starts, started as the server starts it, tries to read what is the server's alone: the
signing key, the database, and the environment of the server itself.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import lay_database
from tunesmith.core import confinement
from tunesmith.core.errors import BadData, TunesmithError
from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.serving_spec import ServingSpec
from tunesmith.executors.base import Order
from tunesmith.executors.engines import EnginePool
from tunesmith.executors.local import LocalExecutor, places_hidden_from
from tunesmith.executors.serving_process import ServingProcess
from tunesmith.executors.warm import WarmExecutor
from tunesmith.features.accounts.tokens import load_secret
from tunesmith.features.catalog.downloads import Downloads
from tunesmith.features.datasets.child import Child
from tunesmith.live.bus import Bus
from tunesmith.recipes.blocks.ollama_template import template_of
from tunesmith.recipes.blocks.to_gguf import convert_in_child
from tunesmith.recipes.catalog import RECIPES
from tunesmith.settings import Settings

pytestmark = pytest.mark.skipif(bool(confinement.why_not()), reason="this kernel has no Landlock")

PROBE = """
import json, os, sys
places = json.loads(os.environ.get("PROBE") or open("probe.json").read())
found = {}
for place in places:
    try:
        open(place, "rb").read(1)
        found[place] = "read"
    except OSError as error:
        found[place] = type(error).__name__
open("found.json", "w").write(json.dumps(found))
"""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """Of a server that has started, in this process."""
    before = confinement.places()
    found = Settings(home=tmp_path / "home", hub_offline=False)
    found.make_dirs()
    load_secret(found.home, None)
    lay_database(found.home)
    found.saved_path.write_text("{}")
    confinement.protect(found.home)
    yield found
    confinement._places = before


def secrets(settings: Settings) -> list[str]:
    names = ("secret.key", "tunesmith.db", "settings.json")
    return [*(str(settings.home / name) for name in names), f"/proc/{os.getpid()}/environ", f"/proc/{os.getpid()}/mem"]


def until(check: Callable[[], Any], timeout_s: float = 90) -> Any:
    deadline_s = time.monotonic() + timeout_s
    while not (found := check()):
        assert time.monotonic() < deadline_s, "it takes too long"
        time.sleep(0.02)
    return found


def job(settings: Settings, number: int, recipe: str, rows: str) -> JobDir:
    """A job of a recipe, on a file of rows."""
    job_dir = JobDir(settings.jobs_dir / str(number))
    job_dir.path.mkdir()
    spec = {
        "job_id": number, "name": "probe", "recipe": recipe, "params": {}, "cache_dir": str(settings.cache_dir), "offline": True,
        "dataset": {"name": "rows", "path": rows, "digest": "0" * 64, "shape": "text"},
    }  # fmt: skip
    write_atomic(job_dir.spec, spec)
    (job_dir.path / "probe.json").write_text(json.dumps([*secrets(settings), rows, str(job_dir.spec)]))
    return job_dir


def run(executor: LocalExecutor, job_dir: JobDir) -> dict[str, str]:
    """What the worker could read."""
    prepared = executor.prepare(job_dir, Order(attempt=1, cpu_threads=1))
    write_atomic(job_dir.launch, prepared.launch)
    prepared.go()
    until(lambda: executor.observe(job_dir, prepared.launch).state == "ended")
    return dict(json.loads((job_dir.path / "found.json").read_text()))


def check(settings: Settings, found: dict[str, str], *own: Path) -> None:
    assert {place: found[place] for place in secrets(settings)} == dict.fromkeys(secrets(settings), "PermissionError")
    assert all(found[str(place)] == "read" for place in own)


@pytest.mark.parametrize("recipe", ["lora", "evaluate", "compress"])
def test_a_worker_that_starts_cold(settings: Settings, recipe: str) -> None:
    rows = settings.datasets_dir / "rows"
    rows.write_text("x")
    job_dir = job(settings, 1, recipe, str(rows))
    check(settings, run(LocalExecutor([sys.executable, "-c", PROBE]), job_dir), rows, job_dir.spec)


def test_a_worker_that_is_forked(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The zygote forks it as always; only the last thing it does, the worker's own `main`, is the probe's."""
    (tmp_path / "library").mkdir()
    (tmp_path / "library" / "probe.py").write_text(f"def main():\n    exec({PROBE!r})\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path / "library"))
    monkeypatch.setattr(confinement, "PASSED_ON", (*confinement.PASSED_ON, "PYTHONPATH"))
    monkeypatch.setattr("tunesmith.executors.warm.PRELOAD", "json")
    monkeypatch.setattr("tunesmith.executors.warm.WORKER", "probe")
    executor = WarmExecutor(offline=True)
    executor.warm_up()
    until(executor._is_ready)
    job_dir = job(settings, 1, "lora", str(settings.datasets_dir))
    try:
        check(settings, run(executor, job_dir), job_dir.spec)
    finally:
        executor.close()


def test_all_workers_are_kept_from_them_but_those_that_keep_apart_what_they_run(settings: Settings) -> None:
    for number, recipe in enumerate(RECIPES):
        hidden = places_hidden_from(job(settings, number, recipe.name, "/x"))
        assert hidden == ("" if recipe.confines_itself else confinement.places())
    assert [recipe.name for recipe in RECIPES if recipe.confines_itself] == ["custom"]


@pytest.mark.parametrize("of_deployment", [False, True])
def test_a_serving_process(settings: Settings, of_deployment: bool) -> None:
    """Told to load a model whose file leads to the secret, it is refused as nobody else is."""
    pool = EnginePool(settings.home / "deployments" / "engines")
    said = {}
    for name, place in {"key": secrets(settings)[0], "environ": secrets(settings)[3], "own": ""}.items():
        model = settings.models_dir / f"{name}.gguf"
        model.write_text("not a model") if not place else model.symlink_to(place)
        spec = ServingSpec(base_path=str(model), engine="llama.cpp")
        process = pool.process(spec.key) if of_deployment else ServingProcess(settings.home / "serving" / name)
        with process.locked():
            process.start(spec)
        until(lambda p=process: p.pid() is None)
        said[name] = (process.folder / "log.txt").read_text()
    assert "PermissionError" in said["key"] and "PermissionError" in said["environ"], said
    assert "PermissionError" not in said["own"] and said["own"]


def test_what_reads_datasets(settings: Settings, tmp_path: Path) -> None:
    work = settings.uploads_dir / "1"
    work.mkdir()
    (tmp_path / "outside.csv").write_text("a,b\n1,2\n")
    for source in (*secrets(settings)[:4], str(tmp_path / "outside.csv")):
        request = {
            "action": "ingest",
            "source": source,
            "file_name": "x.csv",
            "out_dir": str(work / "out"),
        }
        child = Child(settings, request, work)
        list(child.progress())
        failed = child.end()
        assert ("PermissionError" in (work / "log.txt").read_text()) == (source in secrets(settings)), (source, failed)
    assert failed is None


def test_a_download(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its process, started as ever but to read a file and print its tokens."""
    monkeypatch.setattr("tunesmith.features.catalog.hub.why_not_asked", lambda _settings: None)
    command, sought = confinement.command, {}
    monkeypatch.setattr(confinement, "command", lambda _module, folder: command("tokenize", str(sought[folder])))
    downloads = Downloads(settings, Bus())
    said = {}
    for number, place in enumerate((secrets(settings)[0], secrets(settings)[3], "own"), start=1):
        folder = settings.home / "downloads" / str(number)
        folder.mkdir(parents=True)
        (folder / "own.txt").write_text("own")
        sought[str(folder)] = folder / "own.txt" if place == "own" else place

        class One:
            id = number

        downloads._go_on(One)  # type: ignore[arg-type]
        until(lambda n=number: downloads._children[n].poll() is not None)
        said[place] = (folder / "log.txt").read_text()
    assert [("PermissionError" in text or "Errno 13" in text) for text in said.values()] == [True, True, False], said


def test_what_writes_models_for_other_programs(
    settings: Settings, tiny_model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A folder of a model, one of whose files leads to the secret; and the variables of the server stay its own."""
    monkeypatch.setenv("TUNESMITH_SECRET", "canary-91c2")
    monkeypatch.setenv("TUNESMITH_DATABASE_URL", "postgresql://me:canary-91c2@db/x")
    assert "canary-91c2" not in json.dumps(confinement.environment())
    model = settings.models_dir / "model"
    model.mkdir()
    for file in tiny_model.iterdir():
        (model / file.name).symlink_to(file if file.name != "config.json" else secrets(settings)[0])
    with pytest.raises(TunesmithError):
        convert_in_child(model, settings.models_dir / "x.gguf", "f16")
    (model / "config.json").unlink()
    (model / "config.json").symlink_to(tiny_model / "config.json")
    convert_in_child(model, settings.models_dir / "x.gguf", "f16")
    assert template_of(settings.models_dir / "x.gguf").text
    with pytest.raises(BadData):
        template_of(settings.home / "secret.key")


def test_no_other_way_of_starting_processes_is_in_the_server() -> None:
    """Whoever adds one decides here how it is kept from the secrets."""
    root = Path(confinement.__file__).parents[1]
    found = {
        path.relative_to(root).as_posix()
        for path in root.rglob("*.py")
        if any(word in path.read_text() for word in ("subprocess.Popen(", "subprocess.run(", "os.fork()", "os.exec"))
    }
    of_server = {
        "core/confinement.py", "executors/local.py", "executors/warm.py", "executors/zygote.py", "executors/shim.py",
        "executors/serving_process.py", "features/catalog/downloads.py", "features/datasets/child.py",
        "recipes/blocks/to_gguf.py", "recipes/blocks/ollama_template.py", "recipes/custom/isolation.py",
    }  # fmt: skip
    tools_of_the_system = {"executors/identity.py", "features/deployments/targets/cloud_files.py"}
    of_commands = {"cli/demo.py", "cli/local.py", "features/catalog/starter.py"}
    below_a_confined_one = {
        "worker/ranks.py", "serving/vllm.py", "engine/kernels/__init__.py", "recipes/blocks/llama_cpp.py",
        "recipes/blocks/templates.py", "recipes/custom/train.py", "recipes/custom/namespaces.py",
    }  # fmt: skip
    assert found <= of_server | tools_of_the_system | of_commands | below_a_confined_one, found


def test_the_server_names_the_places_when_it_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from tunesmith.app import create_app

    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "config"))
    before = confinement.places()
    create_app(Settings(home=tmp_path / "home", hub_offline=True))
    told, confinement._places = confinement.places(), before
    assert json.loads(told) == [str(tmp_path / name) for name in ("home", "config/tunesmith", ".pgpass")]


def test_a_module_runs_in_the_domain_with_its_own_arguments(settings: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "probe.json").write_text(json.dumps(secrets(settings)))
    (folder / "told.py").write_text(
        f"import sys\nassert __name__ == '__main__' and sys.argv[1:] == ['a', 'b']\n{PROBE}"
    )
    command = confinement.command("told", "a", "b")
    command.remove("-P")
    subprocess.run(command, cwd=folder, check=True)
    check(settings, json.loads((folder / "found.json").read_text()))
