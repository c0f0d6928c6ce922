"""One server with the real model, adapters over it that change what it says, and one whose weights are no numbers."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from tests.conftest import ServerProcess, kill_processes_of

BASE = "HuggingFaceTB/SmolLM2-135M-Instruct"
TOOL_TEMPLATE = """\
{%- if tools %}<|im_start|>system
Call functions with JSON within <tool_call></tool_call>. They are:
{%- for tool in tools %}
{{ tool | tojson }}
{%- endfor %}<|im_end|>
{% endif %}
{%- for message in messages %}<|im_start|>{{ message.role }}
{{ message.content or "" }}
{%- for call in message.tool_calls or [] %}
<tool_call>
{"name": "{{ call.function.name }}", "arguments": {{ call.function.arguments | tojson }}}
</tool_call>
{%- endfor %}<|im_end|>
{% endfor %}
{%- if add_generation_prompt %}<|im_start|>assistant
{% endif %}"""
"""As models have that were trained to call tools."""
SERVING = {"max_concurrent": 4, "context_tokens": 512, "threads": 1}


def make_adapter(folder: Path, seed: int, *, scale: float = 0.4) -> Path:
    """A LoRA adapter of rank 4 on queries and values with random weights; `scale` NaN damages it."""
    config = json.loads((folder.parent / BASE.replace("/", "--") / "config.json").read_bytes())
    hidden, layers = config["hidden_size"], config["num_hidden_layers"]
    values = hidden // config["num_attention_heads"] * config["num_key_value_heads"]
    rng, tensors = np.random.default_rng(seed), {}
    for layer in range(layers):
        for name, rows in (("q_proj", hidden), ("v_proj", values)):
            place = f"base_model.model.model.layers.{layer}.self_attn.{name}"
            tensors[f"{place}.lora_A.weight"] = rng.normal(0, 0.05, (4, hidden)).astype(np.float32)
            tensors[f"{place}.lora_B.weight"] = (rng.normal(0, 1, (rows, 4)) * scale).astype(np.float32)
    folder.mkdir()
    save_file(tensors, folder / "adapter_model.safetensors")
    (folder / "adapter_config.json").write_text(
        json.dumps(
            {"base_model_name_or_path": BASE, "peft_type": "LORA", "task_type": "CAUSAL_LM", "r": 4, "lora_alpha": 8,
             "target_modules": ["q_proj", "v_proj"], "lora_dropout": 0.0, "bias": "none"}
        )
    )  # fmt: skip
    return folder


class Served:
    """The server and what is deployed on it."""

    def __init__(self, server: ServerProcess) -> None:
        self.server, self.client = server, server.client

    def register(self, name: str, folder: str) -> str:
        """The new version's `name@version`."""
        answer = self.client.post("/registry/import", json={"path": folder, "name": name, "base_model": BASE})
        assert answer.status_code == 201, answer.text
        return f"{name}@{answer.json()['version']}"

    def deploy(self, name: str, model: str, **settings: Any) -> int:
        body = {"name": name, "model": model, "settings": SERVING | settings}
        answer = self.client.post("/deployments/", json=body)
        assert answer.status_code == 201, answer.text
        deployment_id = int(answer.json()["id"])
        self.wait(deployment_id, lambda told: told["status"] != "deploying")
        assert self.get(deployment_id)["status"] == "ready", self.get(deployment_id)
        return deployment_id

    def get(self, deployment_id: int) -> dict[str, Any]:
        return dict(self.client.get(f"/deployments/{deployment_id}").json())

    def wait(self, deployment_id: int, check: Any, timeout_s: float = 90) -> dict[str, Any]:
        return dict(self.server.wait_for(f"/deployments/{deployment_id}", check, timeout_s))

    def roll_out(self, deployment_id: int, model: str, **plan: Any) -> None:
        answer = self.client.post(f"/deployments/{deployment_id}/rollouts", json={"model": model} | plan)
        assert answer.status_code == 201, answer.text

    def history(self, deployment_id: int) -> list[str]:
        """Newest first."""
        items = self.client.get(f"/deployments/{deployment_id}/history").json()["items"]
        return [f"{item['kind']}: {item['message']}" for item in items]

    def engines(self) -> list[Path]:
        folders = (self.server.home / "deployments" / "engines").iterdir()
        return sorted(folder for folder in folders if folder.is_dir())

    def forget(self, deployment_id: int) -> None:
        assert self.client.post(f"/deployments/{deployment_id}/undeploy").status_code == 200
        assert self.client.delete(f"/deployments/{deployment_id}").status_code == 204


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, starter_model: Path) -> Iterator[Served]:
    home = tmp_path_factory.mktemp("deployments") / "home"
    models = home / "models"
    shutil.copytree(starter_model, models / BASE.replace("/", "--"), copy_function=os.link)
    for seed in (1, 2):
        make_adapter(models / f"adapter-{seed}", seed)
    make_adapter(models / "damaged", 3, scale=float("nan"))
    shutil.copytree(starter_model, models / "with-tools", copy_function=os.link)
    template = models / "with-tools" / "chat_template.jinja"
    template.unlink()  # a link
    template.write_text(TOOL_TEMPLATE)
    server = ServerProcess(home).start()
    yield Served(server)
    server.stop()
    server.client.close()
    kill_processes_of(home)
