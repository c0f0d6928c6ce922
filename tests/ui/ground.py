"""A server with small real data, for tests and pictures of pages: datasets, a tiny model, jobs that have run."""

from __future__ import annotations

import json
import math
import random
import shutil
from pathlib import Path
from typing import Any

from tests.conftest import ServerProcess

TOPICS = ("the parcel", "a refund", "my invoice", "the app", "two-factor login", "a broken part", "delivery times")
ASKED = ("Where is {0}?", "I need help with {0}.", "Can you tell me more about {0}?", "There is a problem with {0}!")
TINY = "tests/tiny"

PAGES = ["/", "/datasets", "/datasets/new", "/datasets/1", "/datasets/1?tab=statistics", "/datasets/1?tab=validation",
         "/datasets/1?tab=columns", "/datasets/1?tab=versions", "/jobs", "/jobs/new", "/jobs/1", "/jobs/1?tab=logs",
         "/jobs/1?tab=checkpoints", "/jobs/1?tab=parameters", "/jobs/1?tab=artifacts", "/jobs/compare?ids=1,2", "/models",
         "/models/job:1", "/models/tests/tiny", "/playground", "/playground?with=job:1&with=tests/tiny", "/settings",
         "/settings?tab=limits", "/settings?tab=appearance", "/system", "/models?tab=hub", "/models?tab=collection", "/models/tests/tiny?tab=ratings",
         "/models/job:1?tab=files", "/models/job:1?tab=use", "/docs", "/nothing-there", "/deployments", "/deployments/new?model=job:1"]  # fmt: skip
"""Every page and tab of a server that `fill` has filled."""

DEPLOYED_PAGES = ["/deployments/1", "/deployments/1?tab=use", "/deployments/1?tab=requests", "/deployments/1?tab=history",
                  "/deployments/1?tab=settings", "/deployments/2"]  # fmt: skip
"""And those that `deploy` adds."""


def conversations(count: int, seed: int = 7) -> str:
    """Chat rows as JSONL."""
    chance, lines = random.Random(seed), []
    for n in range(count):
        topic = chance.choice(TOPICS)
        question = chance.choice(ASKED).format(topic)
        answer = f"Thank you for asking about {topic}. Ticket {1000 + n} is open; we answer within {1 + n % 5} hours."
        messages = [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]
        lines.append(json.dumps({"messages": messages}))
    return "\n".join(lines) + "\n"


def reviews(count: int) -> str:
    """Rows of a table as CSV, some of them twice and some without a label."""
    chance, lines = random.Random(3), ["text,label,stars"]
    for n in range(count):
        mood = chance.choice(("good", "good", "bad", "mixed"))
        label = "" if n % 40 == 7 else mood
        text = f"The {chance.choice(TOPICS)} was {mood}, number {n % max(1, count - 5)}"
        lines.append(f'"{text}",{label},{1 + int(math.fabs(hash_of(text))) % 5}')
    return "\n".join(lines) + "\n"


def hash_of(text: str) -> int:
    """The same in every process."""
    return sum(ord(letter) * (i + 1) for i, letter in enumerate(text))


def upload(server: ServerProcess, name: str, file_name: str, content: str | bytes, **more: Any) -> int:
    params = {"file_name": file_name, "name": name, **more}
    answer = server.client.put("/datasets/upload", params=params, content=content)
    assert answer.status_code == 201, answer.text
    dataset_id = int(answer.json()["id"])
    server.wait_for(f"/datasets/{dataset_id}", lambda found: found["status"] != "processing")
    return dataset_id


def add_tiny_model(home: Path, tiny_model: Path) -> None:
    shutil.copytree(tiny_model, home / "models" / TINY.replace("/", "--"), dirs_exist_ok=True)


def train(server: ServerProcess, dataset_id: int, name: str, **params: Any) -> int:
    """Start a few steps of the tiny model; its number."""
    body = {"name": name, "model": TINY, "dataset_id": dataset_id, "method": "lora",
            "hyperparameters": {"max_steps": 12, "learning_rate": 0.003, "max_length": 192, "eval_steps": 4, **params}}  # fmt: skip
    answer = server.client.post("/jobs/", json=body)
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def wait_until_over(server: ServerProcess, job_id: int, status: str = "completed") -> None:
    ended = server.wait_for(f"/jobs/{job_id}", lambda job: job["status"] in ("completed", "failed", "cancelled"), 600)
    assert ended["status"] == status, ended


def fill(server: ServerProcess, tiny_model: Path, trained: int = 1, steps: int = 12) -> None:
    """Datasets 1 (chat), 2 (a table with findings) and 3 (failed); jobs: first those `trained`, then one not started."""
    add_tiny_model(server.home, tiny_model)
    chat = upload(server, "Support answers", "support.jsonl", conversations(300))
    upload(server, "Product reviews", "reviews.csv", reviews(400))
    upload(server, "Broken export", "export.parquet", b"PAR1 and no more")
    jobs = [
        train(server, chat, f"support-bot-{n + 1}", learning_rate=0.003 / (n + 1), max_steps=steps)
        for n in range(trained)
    ]
    for job_id in jobs:
        wait_until_over(server, job_id)
    body = {"name": "support-bot-night", "model": TINY, "dataset_id": chat, "start": "manual"}
    answer = server.client.post("/jobs/", json=body)
    assert answer.status_code == 201, answer.text


def deploy(server: ServerProcess, before: str, after: str) -> None:
    """Deployment 1 on the server itself, with requests and a canary, and 2 as a folder for a container."""
    settings = {"threads": 1, "context_tokens": 512, "max_concurrent": 2, "record_conversations": True}
    body = {"name": "support-bot", "model": before, "settings": settings, "sampling": {"max_tokens": 24}}
    assert server.client.post("/deployments/", json=body).status_code == 201
    body = {"name": "support-box", "model": before, "target": "cloud"}
    assert server.client.post("/deployments/", json=body).status_code == 201
    server.wait_for("/deployments/1", lambda told: told["status"] == "ready")
    ask_for_help(server, 30)
    plan = {"model": after, "strategy": "canary", "steps": [30, 60], "min_requests": 200}
    assert server.client.post("/deployments/1/rollouts", json=plan).status_code == 201
    server.wait_for(
        "/deployments/1", lambda told: any(r["percent"] == 30 and r["status"] == "ready" for r in told["revisions"])
    )
    ask_for_help(server, 30)
    server.wait_for("/deployments/2", lambda told: told["status"] != "deploying")


def ask_for_help(server: ServerProcess, times: int) -> None:
    chance = random.Random(times)
    for _ in range(times):
        question = chance.choice(ASKED).format(chance.choice(TOPICS))
        body = {"model": "support-bot", "messages": [{"role": "user", "content": question}]}
        assert server.client.post(f"{server.url}/v1/chat/completions", json=body).status_code == 200
