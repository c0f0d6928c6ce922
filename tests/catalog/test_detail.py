"""All that is known of one model: lineage, files with checksums, card, commands; and lists with filters."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import time
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest
from fastapi.testclient import TestClient

from tests.catalog.ground import make_base, make_job
from tunesmith.app import create_app
from tunesmith.core.job_spec import DatasetRef, ModelRef
from tunesmith.features.catalog.cards import card_html, front_matter
from tunesmith.features.catalog.service import list_models
from tunesmith.settings import Settings

DIGEST = "d" * 64


@pytest.fixture
def client(settings: Settings) -> Iterator[TestClient]:
    """A base; job 1 tuned from it; job 2 tuned from job 1; job 3 all weights."""
    base = ModelRef(name="org/bot", path=str(make_base(settings.models_dir / "org--bot")))
    rows = DatasetRef(
        name="Letters",
        path=f"/home/x/datasets/5/versions/{DIGEST}/rows.parquet",
        digest=DIGEST,
        shape="chat",
        num_rows=9,
    )
    make_job(settings, 1, model=base, name="First", dataset=rows, eval_loss=2.0)
    make_job(settings, 2, model=ModelRef(name="job:1", path=base.path), name="Second", dataset=rows, eval_loss=1.0)
    make_job(settings, 3, "standard", model=base, name="Whole", eval_loss=3.0)
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        yield client


def detail(client: TestClient, name: str) -> dict[str, Any]:
    answer = client.get("/models/detail", params={"name": name})
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


def test_lineage_goes_back_to_the_first_base_and_on_to_what_was_made_of_it(client: TestClient) -> None:
    found = detail(client, "job:2")
    assert found["lineage"]["root"] == "org/bot" and found["lineage"]["used_by"] == []
    assert [(s["job_id"], s["job_name"], s["dataset_id"]) for s in found["lineage"]["steps"]] == [
        (1, "First", 5), (2, "Second", 5),
    ]  # fmt: skip
    assert found["lineage"]["steps"][0]["dataset_version"] == DIGEST
    assert detail(client, "job:1")["lineage"]["used_by"] == ["job:2"]
    base = detail(client, "org/bot")
    assert base["lineage"] == {"root": "org/bot", "steps": [], "used_by": ["job:3", "job:1"]}
    assert [model["name"] for model in base["versions"]] == ["job:3", "job:2", "job:1"]
    for name, status in (("org/none", 404), ("job:9", 404), ("../x", 422)):
        assert client.get("/models/detail", params={"name": name}).status_code == status


def test_checksums_are_those_of_the_files_and_follow_changes(client: TestClient, settings: Settings) -> None:
    assert {file["sha256"] for file in detail(client, "job:1")["files"]} == {None}, "not computed unasked"
    folder = settings.jobs_dir / "1" / "artifacts" / "lora_model"
    for round_number in range(2):
        (folder / "adapter_config.json").write_text(json.dumps({"round": round_number}))
        os.utime(folder / "adapter_config.json", ns=(time.time_ns(), time.time_ns() + round_number))
        told = client.get("/models/checksums", params={"name": "job:1"}).json()
        real = {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in folder.iterdir()}
        assert {file["path"]: file["sha256"] for file in told} == real
    assert all(file["sha256"] for file in detail(client, "job:1")["files"]), "remembered"


def test_the_hub_caches_own_checksums_are_used(settings: Settings, tmp_path: Path) -> None:
    repo = tmp_path / "hub" / "models--acme--tiny"
    folder = make_base(repo / "snapshots" / ("a" * 40))
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("a" * 40)
    blob = repo / "blobs" / ("e" * 64)
    blob.parent.mkdir()
    (folder / "model.safetensors").rename(blob)
    (folder / "model.safetensors").symlink_to(blob)
    with TestClient(create_app(settings), client=("127.0.0.1", 1), base_url="http://localhost/api/v1") as client:
        files = {file["path"]: file for file in detail(client, "acme/tiny")["files"]}
    assert files["model.safetensors"]["sha256"] == "e" * 64 and files["config.json"]["sha256"] is None


def test_lists_are_filtered_sorted_and_paged(client: TestClient) -> None:
    def names(**query: Any) -> list[str]:
        return [model["name"] for model in client.get("/models/", params=query).json()["items"]]

    assert names() == ["org/bot", "job:3", "job:2", "job:1"]
    assert names(sort="score") == ["job:2", "job:1", "job:3", "org/bot"]
    assert names(kind="tuned", method="lora") == ["job:2", "job:1"] and names(q="LETTERS") == ["job:2", "job:1"]
    assert names(base="org/bot") == ["job:3", "job:1"] and names(kind="base") == ["org/bot"]
    first = client.get("/models/", params={"limit": 3}).json()
    assert first["total"] == 4 and first["next_cursor"] == 3
    assert [m["name"] for m in client.get("/models/", params={"limit": 3, "cursor": 3}).json()["items"]] == ["job:1"]


def test_what_is_remembered_is_forgotten_when_files_change(settings: Settings) -> None:
    base = ModelRef(name="org/bot", path=str(make_base(settings.models_dir / "org--bot")))
    job = make_job(settings, 4, model=base)
    assert [model.name for model in list_models(settings)] == ["org/bot", "job:4"]
    job.exit.unlink()
    (settings.models_dir / "org--bot" / "config.json").write_text("[]")
    assert [(model.name, model.num_parameters) for model in list_models(settings)] == [("org/bot", None)]


def test_a_thousand_models_are_listed_in_a_moment(settings: Settings) -> None:
    base = ModelRef(name="org/bot", path=str(make_base(settings.models_dir / "org--bot")))
    for job_id in range(1, 1001):
        make_job(settings, job_id, model=base)
    list_models(settings)
    began = time.process_time()
    assert len(list_models(settings)) == 1001
    assert time.process_time() - began < 0.5


EVIL = """---
license: mit
tags: [a, b]
nested: {x: 1}
---
# Title <script>alert(1)</script>

<img src=x onerror=alert(1)> [bad](javascript:alert(1)) [data](data:text/html,x) [rel](../../settings) [ok](https://example.org/a)
![picture](https://example.org/track.png) <https://example.org/auto>

| a | b |
|:--|--:|
| 1 | <b onclick=alert(1)>2</b> |

```html
<script>alert(2)</script>
```
"""


class Tags(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.found: list[tuple[str, dict[str, str | None]]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.found.append((tag, dict(attrs)))


def test_a_card_can_do_nothing() -> None:
    tags = Tags()
    tags.feed(card_html(EVIL))
    names = {tag for tag, _ in tags.found}
    assert names <= {"h3", "p", "a", "div", "table", "thead", "tbody", "tr", "th", "td", "pre", "code"}
    links = [attributes.get("href") for tag, attributes in tags.found if tag == "a" and attributes]
    assert links == ["https://example.org/a", "https://example.org/auto"] and "picture" in card_html(EVIL)
    assert {key for _, attributes in tags.found for key in attributes} <= {"href", "rel", "target", "class"}
    assert "license" not in card_html(EVIL), "the front matter is shown apart"
    assert front_matter(EVIL) == {"license": "mit", "tags": ["a", "b"], "nested": ""}
    for odd in ("", "---\n- a\n---\n", "---\nx: [1\n---\n", "---\nx: &a [*a]\n---\n", "---"):
        front_matter(odd)
        card_html(odd)


def test_the_commands_are_filled_in_and_can_be_run(client: TestClient) -> None:
    use = {snippet["key"]: snippet["text"] for snippet in detail(client, "job:1")["use"]}
    assert set(use) == {"ollama", "lm-studio", "transformers", "curl", "php", "python"}
    assert "ollama create out-1 -f Modelfile" in use["ollama"] and "hf download org/bot" in use["ollama"]
    assert 'PeftModel.from_pretrained(base, "lora_model")' in use["transformers"]
    whole = {snippet["key"]: snippet["text"] for snippet in detail(client, "job:3")["use"]}
    assert "peft" not in whole["transformers"] and "hf download" not in whole["ollama"]
    for snippets in (use, whole, {s["key"]: s["text"] for s in detail(client, "org/bot")["use"]}):
        compile(snippets["python"], "python", "exec")
        compile(snippets["transformers"], "transformers", "exec")
        for key in ("ollama", "lm-studio", "curl"):
            subprocess.run(["bash", "-n"], input=snippets[key], text=True, check=True)
        body = re.search(r"-d '(.*)'", snippets["curl"])
        assert body and json.loads(body[1])["stream"] is False
