"""`make test` sees to what tests need, and a test that must do without is named, or fails."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests import services

REPO = Path(__file__).parent.parent
APT = """#!/bin/sh
echo "$@" >> {folder}/asked
case "$*" in
  *update) exit 0;;
  *install*bubblewrap) for p in bwrap; do printf '#!/bin/sh\\n' > {folder}/$p; /bin/chmod +x {folder}/$p; done;;
  *install*chromium*) printf '#!/bin/sh\\n' > {folder}/chromium; /bin/chmod +x {folder}/chromium;;
  *install*g++) exit 100;;
esac
"""


def program(folder: Path, name: str, text: str) -> None:
    (folder / name).write_text(text)
    (folder / name).chmod(0o755)


def see_to_it(folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "tests.services"], cwd=REPO, env={**os.environ, "PATH": str(folder)}, capture_output=True,
        text=True, check=True, timeout=60,
    )  # fmt: skip
    return done.stdout


def test_what_is_missing_is_installed_and_what_cannot_be_is_named(tmp_path: Path) -> None:
    program(tmp_path, "apt-get", APT.format(folder=tmp_path))
    program(tmp_path, "sudo", '#!/bin/sh\nshift\nexec "$@"\n')
    program(tmp_path, "openssl", "#!/bin/sh\n")
    for name in ("env", "true"):
        (tmp_path / name).symlink_to(f"/usr/bin/{name}")
    told = see_to_it(tmp_path)
    asked = (tmp_path / "asked").read_text().splitlines()
    assert asked[0].endswith("update") and "openssl" not in " ".join(asked)
    assert [line.rpartition("--no-install-recommends ")[2] for line in asked[1:]] == [
        "bubblewrap",
        "g++",
        "chromium fonts-liberation",
    ]
    assert told == "g++ could not be installed: tests that need it are skipped, and fail in CI.\n"


def test_nothing_is_asked_for_where_all_is_there(tmp_path: Path) -> None:
    program(tmp_path, "apt-get", f"#!/bin/sh\necho asked > {tmp_path}/asked\n")
    for name in services.PACKAGES:
        program(tmp_path, name, "#!/bin/sh\n")
    assert see_to_it(tmp_path) == "" and not (tmp_path / "asked").exists()


def test_a_missing_service_skips_and_fails_in_ci(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "STRICT", False)
    with pytest.raises(pytest.skip.Exception, match="a browser is missing: nobody brought it"):
        services.missing("a browser", "nobody brought it.")
    monkeypatch.setattr(services, "STRICT", True)
    with pytest.raises(pytest.fail.Exception, match="a browser is missing"):
        services.missing("a browser", "nobody brought it.")


@pytest.mark.parametrize(("variables", "strict"), [
    ({}, False), ({"CI": "true"}, True), ({"CI": "false"}, False), ({"TUNESMITH_TEST_STRICT": "1"}, True),
])  # fmt: skip
def test_ci_is_strict(variables: dict[str, str], strict: bool) -> None:
    kept = {name: value for name, value in os.environ.items() if name not in ("CI", "TUNESMITH_TEST_STRICT")}
    code = "from tests.services import STRICT; print(STRICT)"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=REPO, env=kept | variables, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == str(strict)
    assert "CI=true" in (REPO / ".ci" / "run").read_text()
