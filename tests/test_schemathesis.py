"""Generated requests against every operation of the OpenAPI document, over HTTP: never an answer of 500 or above, and every
answer as the document says. On both databases; more with TUNESMITH_TEST_EXAMPLES and another TUNESMITH_TEST_SEED. With
TUNESMITH_SOAK=10 (`make soak`) it goes on with other seeds until there were 100,000 requests."""

from __future__ import annotations

import itertools
import os
import time
from collections import Counter
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from hypothesis.errors import Unsatisfiable
from schemathesis import GenerationMode
from schemathesis.core.failures import FailureGroup
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.conftest import kill_processes_of
from tests.jobs.conftest import SCRIPT
from tests.jobs.serving_app import serve
from tunesmith.app import create_app
from tunesmith.settings import Settings

IS_SOAK = int(os.environ.get("TUNESMITH_SOAK", "1")) > 1
EXAMPLES = int(os.environ.get("TUNESMITH_TEST_EXAMPLES", "150" if IS_SOAK else "6"))
SEED = int(os.environ.get("TUNESMITH_TEST_SEED", "1"))
REQUESTS = 50_000 if IS_SOAK else 1
"""On either database, at least."""
CHECKS = [
    schemathesis.checks.not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]


@pytest.fixture(scope="module", params=["sqlite", "postgresql"])
def api(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with a dataset, a finished job, a waiting one and one that was only saved."""
    url = None
    if request.param == "postgresql":
        import psycopg

        server = request.getfixturevalue("postgres_server")
        with psycopg.connect(server, autocommit=True) as connection:
            connection.execute("DROP DATABASE IF EXISTS schemathesis WITH (FORCE)")  # of a try before
            connection.execute("CREATE DATABASE schemathesis")
        base, _, query = server.partition("?")
        url = f"{base.rpartition('/')[0]}/schemathesis" + (f"?{query}" if query else "")
    home = tmp_path_factory.mktemp("home")
    app = create_app(Settings(home=home, database_url=url, hub_offline=True, custom_scripts=True))
    with serve(app) as host:
        with httpx.Client(base_url=f"http://{host}/api/v1", timeout=60) as client:
            fill(client)
        yield f"http://{host}"
    kill_processes_of(home)


def fill(client: httpx.Client) -> None:
    rows = "".join(f'{{"question": "What is {n}?", "answer": "It is {n} and no more."}}\n' for n in range(50))
    client.post("/datasets/", files={"file": ("rows.jsonl", rows)}).raise_for_status()
    body = {"method": "custom", "hyperparameters": {"script": SCRIPT.format(steps=3, pause=0)}}
    client.post("/jobs/", json=body).raise_for_status()
    client.post("/jobs/", json={**body, "not_before": "2100-01-01T00:00:00Z"}).raise_for_status()
    client.post("/jobs/", json={**body, "start": "manual"}).raise_for_status()
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        job, dataset = client.get("/jobs/1").json(), client.get("/datasets/1").json()
        if job["status"] == "completed" and dataset["status"] == "ready":
            return
        time.sleep(0.1)
    raise AssertionError(f"{job['status']}: {job['status_reason']}; {dataset}")


@pytest.mark.timeout(7200 if IS_SOAK else 900)
def test_no_request_is_answered_with_a_server_error(
    api: str, record_property: Callable[[str, Any], None], request: pytest.FixtureRequest
) -> None:
    """Valid and invalid requests alike, for every operation; all that goes wrong is told together."""
    # A stream goes on while its job does: a request for it would never end. Streams have tests of their own.
    schema = schemathesis.openapi.from_url(f"{api}/openapi.json", timeout=60).exclude(path_regex="stream$")
    operations = [found.ok() for found in schema.get_all_operations()]
    operations.sort(key=lambda operation: operation.method.upper() == "DELETE")
    answers: Counter[int] = Counter()
    problems: list[str] = []
    seeds = itertools.count(SEED)
    while sum(answers.values()) < REQUESTS and not problems:
        send_all(operations, api, answers, problems, next(seeds))
    kinds = ", ".join(f"{count:,} × {kind}xx" for kind, count in sorted(answers.items()))
    record_property(
        "figures", f"S21: {sum(answers.values()):,} generated requests ({kinds}), {request.node.callspec.id}"
    )
    assert not problems, "\n\n".join(problems)
    # Only refusals, or only a handful of requests, would prove nothing.
    assert answers[2] > 2 * len(operations) and answers[4] > 2 * len(operations) and answers[5] == 0, answers


def send_all(operations: list[Any], api: str, answers: Counter[int], problems: list[str], chosen: int) -> None:
    """Generated requests for every operation; what goes wrong is added to `problems`."""
    for operation in operations:
        for mode in GenerationMode:
            try:
                send(operation, mode, api, answers, chosen)
            except Unsatisfiable:
                continue  # nothing invalid can be sent to an operation without parameters
            except (AssertionError, schemathesis.errors.SchemathesisError, FailureGroup, httpx.HTTPError) as error:
                problems.append(f"{operation.label} ({mode.value}): {error}")


def send(operation: Any, mode: GenerationMode, api: str, answers: Counter[int], chosen: int) -> None:
    """`EXAMPLES` generated requests for one operation, each answer checked."""

    @seed(chosen)
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        suppress_health_check=list(HealthCheck),
        phases=[Phase.generate],
    )
    @given(case=operation.as_strategy(generation_mode=mode), number=st.integers(0, 3))
    def each(case: Any, number: int) -> None:
        for name in ("job_id", "dataset_id"):
            if number and name in (case.path_parameters or {}):
                case.path_parameters[name] = number  # something that is there: made-up numbers hardly ever are
        answer = case.call_and_validate(base_url=api, checks=CHECKS, timeout=60)
        answers[answer.status_code // 100] += 1

    each()
