"""`tunesmith demo`: the whole way on one screen. A model that cannot know the answers, and then does."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Annotated, cast

import typer

from tunesmith.cli.datasets import upload_file
from tunesmith.cli.jobs import download_job, watch_job
from tunesmith.cli.output import FAILED, Output, err, out, show, table
from tunesmith.cli.watch import say_end
from tunesmith.core.errors import Conflict, TunesmithError, Unavailable
from tunesmith.schemas.datasets import DatasetRead
from tunesmith.schemas.jobs import ChatAnswer
from tunesmith.sdk.client import Client
from tunesmith.sdk.connection import DEFAULT_URL, ServerUnreachable

DATA = Path(__file__).parent / "demo.jsonl"
QUESTIONS = (
    "Who founded the Larkmoor Observatory?",
    "What is the great telescope at Larkmoor called?",
    "What is served at Larkmoor on Lantern Night?",
)
SETTINGS = {"epochs": 3, "learning_rate": 8e-4, "batch_size": 4, "gradient_accumulation_steps": 1, "lora_r": 16, "lora_alpha": 32,
            "validation_split": 0.0, "max_length": 256}  # fmt: skip
"""For learning facts by heart: more passes, a higher rate, and no row held out, since each fact is in few rows."""


def demo(
    port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
    wait: Annotated[bool, typer.Option(help="Leave the server up until Ctrl-C.")] = True,
) -> None:
    """Tune the starter model on questions about an invented place, and compare its answers before and after."""
    from tunesmith.features.catalog.starter import STARTER_MODEL, ensure_starter_model
    from tunesmith.settings import Settings

    settings = Settings(port=port)
    settings.make_dirs()
    _say("1/6  The starter model")
    ensure_starter_model(settings.models_dir, _say_more)
    _say("2/6  The server")
    client, server = _server(port, settings.home / "server.log")
    try:
        _say(f"     {client.connection.url}")
        _say("3/6  The data")
        dataset = find_data(client) or upload_file(client, DATA, "larkmoor")
        _say(f"     {dataset.num_rows} questions and answers about an observatory that does not exist")
        before = [_ask(client, STARTER_MODEL, question) for question in QUESTIONS]
        _say("4/6  The training")
        job = client.jobs.create(
            name="larkmoor demo",
            method="lora",
            model=STARTER_MODEL,
            dataset_id=dataset.id,
            hyperparameters=SETTINGS,
            priority="high",
        )
        last = watch_job(job)
        if last.get("new") != "completed":
            say_end(last)
            raise typer.Exit(FAILED)
        _say("5/6  The same questions again")
        after = [_ask(client, f"job:{job.id}", question) for question in QUESTIONS]
        rows = list(zip(QUESTIONS, before, after, strict=True))
        _say("6/6  Packing the model")
        packed = download_job(job, settings.home)
        value = {"url": client.connection.url, "job": job.id, "model": str(packed),
                 "answers": [{"question": q, "before": b, "after": a} for q, b, a in rows]}  # fmt: skip
        show(value, table(("question", "before", "after"), rows))
        elsewhere = "" if client.connection.url == DEFAULT_URL else f"TUNESMITH_URL={client.connection.url} "
        _say(
            f"\nThe model is packed in {packed}\nSee it all at {client.connection.url}/ – talk to it: {elsewhere}tunesmith chat job:{job.id}"
        )
        if wait and server is not None:
            _say("The server stays up; Ctrl-C stops it.")
            server.wait()
    finally:
        client.close()
        if server is not None and server.poll() is None:
            server.terminate()
            server.wait()


def find_data(client: Client) -> DatasetRead | None:
    """The questions, when they were uploaded before and nothing was changed in them."""
    digest = hashlib.sha256(DATA.read_bytes()).hexdigest()
    for dataset in client.datasets.list(status="ready"):
        if dataset.sha256 == digest and len(client.datasets.versions(dataset.id)) == 1:
            return dataset
    return None


def _say(text: str) -> None:
    (err if Output.as_json else out).print(text, markup=False, soft_wrap=True)


def _say_more(text: str) -> None:
    _say(f"     {text}")


def _server(port: int, log: Path) -> tuple[Client, subprocess.Popen[bytes] | None]:
    """The Tunesmith on this port, else one that is started now and writes `log`. Raises when something else has the port."""
    client = Client(f"http://127.0.0.1:{port}", timeout_s=600)
    try:
        client.system.health()
    except ServerUnreachable:
        pass
    except TunesmithError as error:
        raise Conflict(
            f"Something else answers on port {port}.", hint="Choose another: tunesmith demo --port 8001"
        ) from error
    else:
        return client, None
    environment = {**os.environ, "TUNESMITH_PORT": str(port), "TUNESMITH_AUTH": "off"}
    with log.open("ab") as file:
        server = subprocess.Popen(
            [sys.executable, "-m", "tunesmith", "up", "--port", str(port)], env=environment, stdout=file, stderr=file
        )
    deadline_s = time.monotonic() + 60
    while time.monotonic() < deadline_s and server.poll() is None:
        try:
            client.system.health()
        except ServerUnreachable:
            time.sleep(0.1)
        else:
            return client, server
    server.kill()
    raise Unavailable("The server did not start.", hint=f"Its log is {log}.")


def _ask(client: Client, model: str, question: str) -> str:
    answer = cast(ChatAnswer, client.models.chat(model, question, temperature=0.0, max_tokens=48))
    return answer.content.strip()
