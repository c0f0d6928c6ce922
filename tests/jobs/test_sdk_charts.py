"""Curves, comparisons and logs through the SDK and the command line."""

from __future__ import annotations

import json
from pathlib import Path

from tests.cli.command import tunesmith
from tests.jobs.conftest import custom
from tests.jobs.serving_app import serve
from tests.jobs.test_live import write_events
from tunesmith import Client
from tunesmith.app import create_app
from tunesmith.settings import Settings


def test_curves_comparison_and_log_search(home: Path, tmp_path: Path) -> None:
    app = create_app(Settings(home=home, hub_offline=True, custom_scripts=True, cpu_slots=0))
    with serve(app) as host:
        client = Client(f"http://{host}")
        ids = [client.jobs.create(**custom(steps=steps, name=f"job {steps}")).id for steps in (5, 6)]
        write_events(app.state.tunesmith.database, app.state.tunesmith.bus, ids[0], count=20, pause_s=0)
        job = client.jobs.get(ids[0])
        curves = job.metrics(only=["loss"], from_step=5, to_step=8).curves
        assert {name: curve.steps for name, curve in curves.items()} == {"loss": [5, 6, 7, 8]}
        differing = [item.name for item in client.jobs.compare(ids).settings if item.differs]
        assert differing == ["script"]
        (home / "jobs" / str(ids[0])).mkdir(parents=True, exist_ok=True)
        (home / "jobs" / str(ids[0]) / "output.log").write_text("".join(f"line {n}\n" for n in range(2000)))
        assert [match.line for match in job.search_log("line 199")][:2] == ["line 199", "line 1990"]
        asked = {"TUNESMITH_URL": f"http://{host}"}
        said = tunesmith(tmp_path, "jobs", "compare", *map(str, ids), **asked).stdout
        assert "script" in said and "job 5" in said and "method" not in said
        assert "method" in tunesmith(tmp_path, "jobs", "compare", *map(str, ids), "--all", **asked).stdout
        found = tunesmith(tmp_path, "--json", "jobs", "logs", str(ids[0]), "--search", "LINE 77", **asked)
        assert json.loads(found.stdout)["text"].splitlines()[0] == "line 77"
