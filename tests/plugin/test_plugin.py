"""A method is one folder: a package outside of the tree, found by entry point, goes through every room of the house."""

from __future__ import annotations

import io
import json
import os
import signal
import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import CommandServer, ServerProcess
from tunesmith.core.job_dir import JobDir

PACKAGE = Path(__file__).parent / "package"
ROWS = "x,y\n" + "\n".join(f"{x},{2 * x + 1}" for x in range(1, 41))


@pytest.fixture
def house(start_server: Callable[..., ServerProcess]) -> ServerProcess:
    return start_server(
        kind=CommandServer, PYTHONPATH=os.pathsep.join([str(PACKAGE), os.environ.get("PYTHONPATH", "")])
    )


def test_a_package_of_somebody_else_goes_through_every_room(house: ServerProcess) -> None:
    ask = house.client
    # It is found, with its guide; those that are broken are named, and harm nobody.
    methods = {method["name"]: method for method in ask.get("/jobs/methods").json()}
    assert methods["line"]["tasks"] == ["tabular-regression"] and "straight line" in methods["line"]["guide"]
    assert methods["lora"]["title"] == "LoRA"
    checks = {check["name"]: check for check in ask.get("/system/doctor").json()}
    assert checks["recipe line"]["status"] == "ok"
    assert "the licence file is missing" in checks["recipe broken"]["message"]
    assert "there is a recipe lora already" in checks["recipe taken"]["message"] and checks["recipe taken"]["remedy"]
    form = ask.get(f"{house.url}/jobs/new").text
    assert "Straight line" in form and "Pause after each step" in form

    # Plan and submission.
    data = ask.put("/datasets/upload?file_name=line.csv", content=ROWS.encode()).json()
    house.wait_for(f"/datasets/{data['id']}", lambda d: d["status"] == "ready")
    body: dict[str, Any] = {"method": "line", "dataset_id": data["id"], "hyperparameters": {"step_s": 0.2}}
    planned = ask.post("/jobs/plan", json=body).json()
    assert planned["hyperparameters"]["steps"] == 20 and planned["reasons"]["steps"]
    assert planned["estimate"]["total_steps"] == 20
    wrong = ask.post("/jobs/", json={**body, "hyperparameters": {"step": 3}})
    assert wrong.status_code == 422 and wrong.json()["details"][0]["loc"] == "hyperparameters.step"
    job = ask.post("/jobs/", json=body).raise_for_status().json()["id"]

    # Pause and resume; a worker that is killed goes on from its checkpoint.
    house.wait_for(f"/jobs/{job}", lambda j: j["step"] >= 3)
    ask.post(f"/jobs/{job}/pause").raise_for_status()
    paused = house.wait_for(f"/jobs/{job}", lambda j: j["status"] == "paused")
    ask.post(f"/jobs/{job}/resume").raise_for_status()
    house.wait_for(f"/jobs/{job}", lambda j: j["step"] >= paused["step"] + 2)
    kill_worker(JobDir(house.home / "jobs" / str(job)))
    done = house.wait_for(f"/jobs/{job}", lambda j: j["status"] in ("completed", "failed"))
    assert done["status"] == "completed", done
    assert done["attempt"] == 3 and done["step"] == 20
    assert done["metric"]["name"] == "eval_r2" and done["metric"]["title"] == "Held-out R²"
    assert done["metric"]["better"] == "higher" and done["metric"]["best"] == pytest.approx(1, abs=0.01)
    curves = ask.get(f"/jobs/{job}/metrics").json()["curves"]
    assert curves["rmse"]["steps"] == curves["eval_r2"]["steps"] == list(range(1, 21))
    page = ask.get(f"{house.url}/jobs/{job}").text
    assert "Held-out R²" in page

    # Registered, compared, deployed, asked, measured, downloaded.
    version = house.wait_for("/registry/", lambda found: found["items"])["items"][0]
    (shown,) = ask.get(f"/registry/{version['name']}/versions").raise_for_status().json()["items"]
    assert (shown["kind"], shown["framework"]) == ("line", "json")
    assert shown["architecture"]["inputs"] == [{"name": "x", "type": "number"}]
    answer = ask.post(f"/jobs/{job}/predict", json={"inputs": [{"x": 3}, {"x": "5"}]}).raise_for_status().json()
    assert [round(one["value"], 1) for one in answer["outputs"]] == pytest.approx([7, 11], abs=0.2)
    refused = ask.post(f"/jobs/{job}/predict", json={"inputs": [{"x": "far"}]})
    assert refused.status_code == 422 and "inputs.0" in refused.text
    made = (
        ask.post("/deployments/", json={"name": "liner", "model": f"{version['name']}@latest"})
        .raise_for_status()
        .json()
    )
    up = house.wait_for(f"/deployments/{made['id']}", lambda d: d["status"] in ("ready", "failed"))
    assert up["status"] == "ready", up
    answer = ask.post(f"/deployments/{made['id']}/predict", json={"inputs": {"x": 10}}).raise_for_status().json()
    assert answer["task"] == "tabular-regression" and answer["outputs"][0]["value"] == pytest.approx(21, abs=0.2)
    body = {"method": "evaluate", "model": f"job:{job}", "dataset_id": data["id"], "hyperparameters": {"target": "y"}}
    answered = ask.post("/jobs/", json=body)
    assert answered.status_code == 201, answered.text
    measured = answered.json()["id"]
    ended = house.wait_for(f"/jobs/{measured}", lambda j: j["status"] in ("completed", "failed"))
    assert ended["status"] == "completed", (ended["status_reason"], ended["hint"])
    assert ended["metrics"]["r2"] == pytest.approx(1, abs=0.01) and ended["metrics"]["rmse"] < 1
    house.wait_for(f"/registry/{version['name']}/versions", lambda found: found["items"][0]["scores"])
    packed = ask.get(f"/jobs/{job}/download")
    with tarfile.open(fileobj=io.BytesIO(packed.content)) as archive:
        (line,) = [name for name in archive.getnames() if name.endswith("line_model/line.json")]
        kept = archive.extractfile(line)
        assert kept and json.load(kept)["slope"] == pytest.approx(2, abs=0.05)


def kill_worker(folder: JobDir) -> None:
    """kill -9 of whatever trains."""
    import psutil

    launch = folder.read_launch()
    assert launch and launch.pid
    for process in psutil.Process(launch.pid).children(recursive=True):
        process.send_signal(signal.SIGKILL)
