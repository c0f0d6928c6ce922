"""The domain of a server's processes: what is closed stays closed in every way, all else works, and entering it costs nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tunesmith.core import confinement

pytestmark = pytest.mark.skipif(bool(confinement.why_not()), reason="this kernel has no Landlock")

TRY = """
import json, os, sys
from tunesmith.core import confinement
told, attempts = sys.argv[1], json.loads(sys.argv[2])
confinement.enter(told)
found = {}
for name, code in attempts.items():
    try:
        exec(code)
        found[name] = "done"
    except OSError as error:
        found[name] = type(error).__name__
print(json.dumps(found))
"""


@pytest.fixture
def home(tmp_path: Path) -> Iterator[Path]:
    """As a server leaves it, with somebody's passwords beside it."""
    made = tmp_path / "home"
    for name in ("jobs/1/tmp", "jobs/2", "datasets", "models"):
        (made / name).mkdir(parents=True)
    for name in ("secret.key", "tunesmith.db", "tunesmith.db-wal", "settings.json", "jobs/1/spec.json"):
        (made / name).write_text("x")
    (tmp_path / "passwords").write_text("x")
    before = confinement.places()
    confinement.protect(made, [tmp_path / "passwords"])
    yield made
    confinement._places = before


def tried(attempts: dict[str, str], prefix: tuple[str, ...] = ()) -> dict[str, str]:
    command = [*prefix, sys.executable, "-c", TRY, confinement.places(), json.dumps(attempts)]
    done = subprocess.run(command, capture_output=True, text=True, env=dict(os.environ), check=False)
    assert done.returncode == 0, done.stderr
    return dict(json.loads(done.stdout))


def refused(home: Path) -> dict[str, str]:
    key, me = home / "secret.key", os.getpid()
    return {
        "read the key": f"open({str(key)!r})",
        "read the database": f"open({str(home / 'tunesmith.db')!r})",
        "read what it has not written yet": f"open({str(home / 'tunesmith.db-wal')!r})",
        "read the settings": f"open({str(home / 'settings.json')!r})",
        "read the passwords": f"open({str(home.parent / 'passwords')!r})",
        "write the key": f"open({str(key)!r}, 'w')",
        "truncate the database": f"os.truncate({str(home / 'tunesmith.db')!r}, 0)",
        "delete the key": f"os.unlink({str(key)!r})",
        "put another in its place": f"os.rename({str(home / 'jobs/1/spec.json')!r}, {str(key)!r})",
        "move it where it may be read": f"os.rename({str(key)!r}, {str(home / 'jobs/1/key')!r})",
        "link it there": f"os.link({str(key)!r}, {str(home / 'jobs/1/key')!r})",
        "read it through a link": f"os.symlink({str(key)!r}, {str(home / 'jobs/1/link')!r}); open({str(home / 'jobs/1/link')!r})",
        "move the home": f"os.rename({str(home)!r}, {str(home) + '-2'!r})",
        "lay a journal beside the database": f"open({str(home / 'tunesmith.db-journal')!r}, 'w')",
        "read the server's environment": f"open('/proc/{me}/environ')",
        "read its memory": f"open('/proc/{me}/mem')",
        "go through its root": f"open('/proc/{me}/root{key}')",
        "read it by a program": f"import subprocess; subprocess.run(['cat', {str(key)!r}], stdout=-3, stderr=-3).returncode and open('/gone')",
    }


ALLOWED = {
    "read": "open({home!r} + '/jobs/1/spec.json')",
    "write": "open({home!r} + '/jobs/1/new', 'w').write('x')",
    "move": "os.mkdir({home!r} + '/jobs/1/d'); os.rename({home!r} + '/jobs/1/new', {home!r} + '/jobs/1/d/new')",
    "link": "os.link({home!r} + '/jobs/1/d/new', {home!r} + '/datasets/new')",
    "delete": "import shutil; shutil.rmtree({home!r} + '/jobs/1/d')",
    "list": "os.listdir({home!r}); os.listdir('/')",
    "look at itself": "open('/proc/self/environ')",
    "use devices": "open('/dev/null', 'w'); open('/dev/urandom', 'rb').read(1)",
    "make a temporary file": "import tempfile; os.environ['TMPDIR'] = {home!r} + '/jobs/1/tmp'; tempfile.TemporaryFile()",
    "share memory": "from multiprocessing import shared_memory as s; m = s.SharedMemory(create=True, size=9); m.unlink()",
    "start a program": "import subprocess; subprocess.run(['true'], check=True)",
}


def test_what_is_closed_stays_closed_and_all_else_works(home: Path) -> None:
    closed = refused(home)
    found = tried({**closed, **{name: code.format(home=str(home)) for name, code in ALLOWED.items()}})
    assert {name for name in closed if found[name] == "done"} == set()
    assert {name: found[name] for name in ALLOWED if found[name] != "done"} == {}
    assert (home / "secret.key").read_text() == "x" and (home / "tunesmith.db").read_text() == "x"


def test_without_the_domain_nothing_of_it_is_refused(home: Path) -> None:
    """So the test above can fail."""
    before, confinement._places = confinement.places(), ""
    try:
        found = tried({name: code for name, code in refused(home).items() if name.startswith("read")})
    finally:
        confinement._places = before
    assert set(found.values()) == {"done"}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_it_needs_no_privileges() -> None:
    """As a server that is not root, and its own processes under the same number."""
    before = confinement.places()
    with tempfile.TemporaryDirectory(dir="/var/tmp") as folder:
        key, own = Path(folder) / "secret.key", Path(folder) / "jobs"
        key.write_text("x")
        own.mkdir()
        for place in (Path(folder), key, own):
            os.chown(place, 65534, 65534)
        confinement.protect(Path(folder))
        nobody = ("setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups")
        if subprocess.run(
            [*nobody, sys.executable, "-c", f"import tunesmith; open({str(key)!r})"], check=False
        ).returncode:
            pytest.skip("nobody else may use this interpreter")
        attempts = {
            "read": f"open({str(key)!r})",
            "write": f"open({str(key)!r}, 'w')",
            "own": f"open({str(own / 'x')!r}, 'w')",
        }
        found = tried(attempts, nobody)
    confinement._places = before
    assert found == {"read": "PermissionError", "write": "PermissionError", "own": "done"}


def test_root_gives_up_what_gets_around_files(home: Path) -> None:
    code = "status = open('/proc/self/status').read(); held = int(status.split('CapEff:')[1].split()[0], 16)\n"
    code += f"for number in {confinement.GIVEN_UP}:\n    if held >> number & 1: raise OSError(number)"
    assert tried({"held": code}) == {"held": "done"}


def test_a_program_without_a_server_hides_nothing() -> None:
    before, confinement._places = confinement.places(), ""
    try:
        assert confinement.command("tunesmith.dataprep", "x") == [sys.executable, "-P", "-m", "tunesmith.dataprep", "x"]
    finally:
        confinement._places = before


def test_entering_takes_milliseconds(home: Path) -> None:
    code = f"import time; from tunesmith.core import confinement; began = time.perf_counter(); confinement.enter({confinement.places()!r}); print(time.perf_counter() - began)"
    took = [float(subprocess.check_output([sys.executable, "-c", code])) for _ in range(3)]
    assert min(took) < 0.1, took  # some 3 ms; the limit leaves room for a machine that does much else
