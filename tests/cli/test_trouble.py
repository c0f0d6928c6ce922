"""What goes wrong on the command line is one sentence, a hint and an exit code, never a traceback."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.cli.command import tunesmith as run
from tests.conftest import ServerProcess


@pytest.mark.parametrize(("words", "env", "code", "said"), [
    (("chat", "some/model", "-m", "hi"), {}, 3, "tunesmith up"),
    (("jobs", "list"), {"TUNESMITH_URL": "not a url"}, 2, "no address of a server"),
    (("train", "--config", "."), {}, 2, "Is a directory"),
    (("jobs", "create"), {}, 2, "--model and --dataset"),
    (("jobs", "create", "--method", "lor"), {}, 2, "Choose one of: lora"),
    (("jobs", "create", "--dataset", "1", "--model", "m", "--set", "=1"), {}, 2, "not name=value"),
    (("jobs", "move", "1"), {}, 2, "--to first"),
    (("datasets", "upload", "none.csv"), {}, 2, "There is no file none.csv"),
    (("datasets", "upload", "a-file", "a-file", "--name", "x"), {}, 2, "one file"),
    (("datasets", "repair", "1"), {}, 2, "--drop-empty"),
    (("chat", "m", "-m", "\udcff"), {}, 2, "cannot be sent"),
    (("up",), {"TUNESMITH_PORT": "abc"}, 2, "TUNESMITH_PORT"),
    (("up",), {"TUNESMITH_HOME": "a-file"}, 2, "a-file"),
])  # fmt: skip
def test_trouble_is_one_sentence(
    tmp_path: Path, words: tuple[str, ...], env: dict[str, str], code: int, said: str
) -> None:
    (tmp_path / "a-file").touch()
    done = run(tmp_path, *words, **env)
    assert done.returncode == code, done.stderr
    assert said in done.stderr and "Traceback" not in done.stderr
    as_json = run(tmp_path, "--json", *words, **env)
    assert as_json.stdout == "" and as_json.returncode == code and said in json.dumps(json.loads(as_json.stderr))


def test_a_second_server_says_what_stands_in_its_way(
    start_server: Callable[..., ServerProcess], tmp_path: Path
) -> None:
    server = start_server(tmp_path / "home")
    same_port = run(tmp_path, "up", "--port", str(server.port), TUNESMITH_HOME=str(tmp_path / "other"))
    assert same_port.returncode == 5 and f"Port {server.port}" in same_port.stderr
    same_home = run(tmp_path, "up", "--port", str(server.port))
    assert same_home.returncode == 1 and "already uses" in same_home.stderr
    for done in (same_port, same_home):
        assert "Tunesmith is at" not in done.stdout and "Traceback" not in done.stderr
    assert server.client.get("/system/health").status_code == 200, "the first goes on"


@pytest.mark.parametrize(("words", "said"), [
    (("jobs", "set-lr", "1", "fast"), "learning_rate"),
    (("jobs",), "Missing command"),
    (("--nope",), "--nope"),
    (("train",), "--config"),
])  # fmt: skip
def test_wrong_usage_is_json_too(tmp_path: Path, words: tuple[str, ...], said: str) -> None:
    done = run(tmp_path, *words, "--json")
    assert (done.returncode, done.stdout) == (2, "")
    body = json.loads(done.stderr)
    assert set(body) == {"error", "message", "hint", "details"}
    assert said in body["message"] and "--help" in body["hint"]
