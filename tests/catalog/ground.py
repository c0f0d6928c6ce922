"""Models as they lie on the disk, and a stand-in for the hub that the real `huggingface_hub` asks."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import numpy as np
from safetensors.numpy import save_file

from tunesmith.core.job_dir import JobDir, write_atomic
from tunesmith.core.job_spec import DatasetRef, ExitRecord, JobSpec, ModelRef
from tunesmith.settings import Settings


def make_base(folder: Path, **config: Any) -> Path:
    """A folder as hub models have it; two layers' worth of real tensors."""
    folder.mkdir(parents=True)
    about = {"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "num_hidden_layers": 1,
             "num_attention_heads": 2, "vocab_size": 32, "max_position_embeddings": 128}  # fmt: skip
    (folder / "config.json").write_text(json.dumps(about | config))
    tensors = {"model.embed_tokens.weight": (32, 8), "model.layers.0.q_proj.weight": (8, 8), "model.norm.weight": (8,)}
    save_file({name: np.zeros(shape, np.float32) for name, shape in tensors.items()}, folder / "model.safetensors")
    return folder


def make_job(
    settings: Settings,
    job_id: int,
    recipe: str = "lora",
    *,
    model: ModelRef,
    outcome: str = "completed",
    name: str = "j",
    dataset: DatasetRef | None = None,
    eval_loss: float = 1.5,
) -> JobDir:
    """What a worker leaves of a job."""
    job = JobDir(settings.jobs_dir / str(job_id))
    produces = {"lora": "lora_model", "standard": "standard_model"}[recipe]
    folder = job.artifacts / produces
    folder.mkdir(parents=True)
    spec = JobSpec(
        job_id=job_id, name=name, output_name=f"out-{job_id}", recipe=recipe, params={}, model=model, dataset=dataset,
        cache_dir="/tmp",
    )  # fmt: skip
    write_atomic(job.spec, spec)
    write_atomic(job.exit, ExitRecord(attempt=1, outcome=outcome, metrics={"eval_loss": eval_loss}))
    (folder / ("adapter_config.json" if recipe == "lora" else "config.json")).write_text("{}")
    save_file({"w": np.zeros(3, np.float32)}, folder / "model.safetensors")
    return job


ON_THE_HUB = (
    ("acme/small-chat", 494_032_768, "apache-2.0", "text-generation", False),
    ("acme/large-chat", 70_553_706_496, "mit", "text-generation", "manual"),
    ("other/embedder", 33_360_512, "mit", "feature-extraction", False),
    ("other/pickled-chat", None, "mit", "text-generation", False),
    ("<img src=x onerror=alert(1)>/evil", 1000, "mit", "text-generation", False),
)
"""Name, weights, licence, category, gated."""


def on_the_wire(name: str, weights: int | None, licence: str, category: str, gated: Any) -> dict[str, Any]:
    """One model as the hub's list has it."""
    about = {"id": name, "author": name.partition("/")[0], "downloads": 1234, "likes": 5, "gated": gated,
             "lastModified": "2026-01-02T03:04:05.000Z", "pipeline_tag": category, "tags": ["x", f"license:{licence}"]}  # fmt: skip
    return about | ({"safetensors": {"parameters": {"BF16": weights}, "total": weights}} if weights else {})


@contextlib.contextmanager
def stand_in_hub() -> Iterator[ThreadingHTTPServer]:
    """Answers `/api/models` with those of `ON_THE_HUB` that fit; `asked` are the queries that came. One of them by its name has
    weights; every model is there."""

    class Hub(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            url = urlsplit(self.path)
            query = parse_qs(url.query)
            if url.path.startswith("/api/models/"):
                name = url.path.removeprefix("/api/models/")
                weights = {"rfilename": "model.safetensors", "size": 8, "blobId": "b" * 40}
                about = on_the_wire(name, 1000, "mit", "text-generation", False)
                self._say(about | {"sha": "c" * 40, "siblings": [weights]})
                return
            if url.path != "/api/models":
                self.send_error(404)
                return
            server.asked.append(query)  # type: ignore[attr-defined]
            self._say([
                on_the_wire(*model)
                for model in ON_THE_HUB
                if query.get("search", [""])[0].lower() in model[0]
                and query.get("pipeline_tag", [model[3]])[0] == model[3]
                and query.get("filter", [f"license:{model[2]}"])[0] == f"license:{model[2]}"
            ])  # fmt: skip

        def _say(self, value: Any) -> None:
            body = json.dumps(value).encode()
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Silent."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.asked = []  # type: ignore[attr-defined]
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
