"""Health, the machine, the doctor, and settings without secrets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
from fastapi.testclient import TestClient

from tests.conftest import lay_database
from tunesmith.app import create_app
from tunesmith.features.monitoring.service import doctor, without_password
from tunesmith.settings import Settings


@pytest.fixture
def client(tmp_path: Path, database_url: str | None) -> TestClient:
    if database_url is None:
        lay_database(tmp_path / "home")
    return TestClient(
        create_app(Settings(home=tmp_path / "home", database_url=database_url)),
        client=("127.0.0.1", 1),
        base_url="http://localhost/api/v1",
    )


def test_health_asks_the_database(client: TestClient, database_url: str | None) -> None:
    with client:
        health = client.get("/system/health").json()
        assert health["status"] == "ok" and health["database"] == ("postgresql" if database_url else "sqlite")
        assert (health["journal_mode"] is None) == bool(database_url)
        assert client.get("http://localhost/api/docs", follow_redirects=True).status_code == 200
        assert client.get("http://localhost/openapi.json").json()["info"]["title"] == "Tunesmith"


def test_the_machine_is_described(client: TestClient) -> None:
    with client:
        info, use = client.get("/system/info").json(), client.get("/system/resources").json()
    assert info["cpu_cores"] >= 1 and info["libraries"]["polars"] and info["methods"]["lora"] == ""
    assert "TUNESMITH_CUSTOM_SCRIPTS" in info["methods"]["custom"]
    assert 0 < use["memory_used_bytes"] <= use["memory_total_bytes"] == info["memory_bytes"]
    assert use["disk_free_bytes"] > 0 and len(use["load_average"]) == 3


def test_settings_are_shown_without_secrets(tmp_path: Path) -> None:
    assert (
        without_password("postgresql://me:s3cret@db:5432/x?sslmode=require&password=p")
        == "postgresql://me:***@db:5432/x?***"
    )
    assert without_password("postgresql://me@db/x") == "postgresql://me@db/x"
    assert without_password("postgresql://me:s3cret@[bad/x") == "***"
    assert "s3cret" not in without_password("postgresql://:s3cret@db/x")
    lay_database(tmp_path / "h")
    with TestClient(
        create_app(Settings(home=tmp_path / "h")), client=("127.0.0.1", 1), base_url="http://localhost/api/v1"
    ) as client:
        shown = client.get("/system/settings").json()
    assert set(shown) == set(Settings.model_fields) and shown["database_url"] is None


def test_the_doctor_names_what_is_wrong_and_the_remedy(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TUNESMITH_PROT", "1")
    home = tmp_path / "home"
    home.mkdir(mode=0o755)
    home.chmod(0o755)
    checks = {c.name: c for c in doctor(Settings(home=home, min_free_bytes=2**60))}
    assert checks["disk"].status == "error" and checks["disk"].remedy
    assert checks["settings"].status == "warning" and "TUNESMITH_PROT" in checks["settings"].message
    assert checks["home is private"].status == "warning" and "chmod 700" in checks["home is private"].remedy
    assert checks["python"].status == "ok" and checks["python"].remedy == "" and checks["models"].status == "info"
    assert all(c.remedy for c in checks.values() if c.status != "ok")
    absent = {c.name: c.status for c in doctor(Settings(home=tmp_path / "not" / "yet"))}
    assert absent["home"] == "ok"


def test_the_server_never_loads_a_training_library(tmp_path: Path) -> None:
    code = """
import sys
from fastapi.testclient import TestClient
from tests.conftest import lay_database
from tunesmith.app import create_app
from tunesmith.settings import Settings
with TestClient(create_app(Settings(home=sys.argv[1])), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
    for path in ("/system/health", "/system/info", "/system/resources", "/system/doctor", "/models/", "/jobs/", "/jobs/methods",
                 "/jobs/queue", "/datasets/"):
        assert client.get(path).status_code == 200, path
print([m for m in ("torch", "transformers", "peft", "datasets", "polars", "matplotlib") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path / "h")], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
