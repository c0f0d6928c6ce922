"""`tunesmith compress` against a real server."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

from tests.cli.command import tunesmith
from tests.conftest import ServerProcess


def test_the_command_makes_a_job_that_leaves_the_formats(
    tmp_path: Path, start_server: Callable[..., ServerProcess], tiny_model: Path
) -> None:
    shutil.copytree(tiny_model, tmp_path / "home" / "models" / "tiny")
    server = start_server(OMP_NUM_THREADS="1")
    where = {"TUNESMITH_URL": server.url}
    words = ("compress", "tiny", "--formats", "q8_0, f16", "--set", "num_eval_tokens=200", "--watch")
    result = tunesmith(tmp_path, *words, **where)
    assert result.returncode == 0, result.stdout + result.stderr
    job = server.client.get("/jobs/").json()["items"][0]
    assert job["method"] == "compress" and job["status"] == "completed"
    folder = server.home / "jobs" / str(job["id"]) / "artifacts" / "compressed"
    told = json.loads((folder / "report.json").read_bytes())
    assert [entry["format"] for entry in told["formats"]] == ["q8_0", "f16"]
    assert (folder / "q8_0" / told["formats"][0]["file"]).is_file()
    methods = server.client.get("/jobs/methods").json()
    assert next(m for m in methods if m["name"] == "compress")["kind"] == "compression"
    refused = tunesmith(tmp_path, "--json", "compress", "tiny", "--formats", "q9,awq", **where)
    assert refused.returncode != 0
    details = json.loads(refused.stderr)["details"]
    assert any("q9" in str(d) or "formats" in d["loc"] for d in details), details
