"""The cloud: a ready container folder and the provider's scripts. Nothing is started from here, since that costs money."""

from __future__ import annotations

import math
import shlex
import shutil
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator, model_validator

from tunesmith.core.errors import Conflict
from tunesmith.core.job_dir import fsync_tree, new_folder
from tunesmith.features.deployments.targets.base import Health, TargetResult, TargetWork
from tunesmith.features.deployments.targets.building import (
    GgufFormat,
    checked,
    folder_of,
    gguf_files,
    model_files,
    place_file,
)
from tunesmith.features.deployments.targets.cloud_files import IMAGES, PORT, PROVIDERS, Plan, container_files, problems

GIB = 1024**3
IMAGE_CHARS = set("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789./:_@-")
STEPS = {
    "docker": ["./deploy.sh"],
    "kubernetes": ["./deploy.sh registry.example.com/{name}:1"],
    "sagemaker": [
        "./push.sh ACCOUNT REGION",
        "python deploy.py --image ACCOUNT.dkr.ecr.REGION.amazonaws.com/{name}:1 --role ARN",
    ],
    "vertex": ["./deploy.sh PROJECT REGION"],
    "azureml": ["./deploy.sh GROUP WORKSPACE REGISTRY"],
}


class CloudSettings(BaseModel):
    """Which provider, and what runs in the container."""

    model_config = ConfigDict(extra="forbid")

    provider: Literal["docker", "kubernetes", "sagemaker", "vertex", "azureml"] = "docker"
    engine: Literal["llama.cpp", "vllm"] = "llama.cpp"
    """llama.cpp runs anywhere; vLLM needs an NVIDIA GPU and answers many callers at once."""
    gpu: bool = False
    """Whether the container gets an NVIDIA GPU; always with vLLM."""
    format: GgufFormat = "q8_0"
    """Number format for llama.cpp; a GGUF version goes as it is."""
    context_tokens: int = Field(4096, ge=128, le=1_048_576)
    """Prompt and answer together."""
    image: str | None = Field(None, max_length=300)
    """The container image to build on; the engine's own when absent. Name a fixed version of it for production."""

    @field_validator("image")
    @classmethod
    def _is_image(cls, image: str | None) -> str | None:
        if image is not None and (not image or set(image) - IMAGE_CHARS or image[0] in "-./:@"):
            raise ValueError("this is no name of a container image")
        return image

    @model_validator(mode="after")
    def _vllm_needs_gpu(self) -> CloudSettings:
        if self.engine == "vllm":
            self.gpu = True
        return self


class Cloud:
    """The target."""

    name = "cloud"
    title = "Cloud or container"
    sentence = "Makes a container folder and scripts for SageMaker, Vertex AI, Azure ML, Kubernetes or Docker."
    Settings = CloudSettings

    def why_not(self) -> str | None:
        return None

    def check_settings(self, settings: dict[str, Any]) -> dict[str, Any]:
        return checked(CloudSettings, settings)

    def deploy(self, work: TargetWork) -> TargetResult:
        """Raises what writing GGUF raises, and `Conflict` when a file of the folder does not pass its check."""
        settings = CloudSettings.model_validate(work.settings)
        target = work.folder / f"{work.name}-{settings.provider}"
        gguf = gguf_files(work, settings.format).model if settings.engine == "llama.cpp" else None
        work.report("Writing the folder", None)
        with new_folder(target) as folder:
            plan = _place_model(work, settings, folder, gguf)
            texts = container_files(plan, sagemaker=settings.provider == "sagemaker") | PROVIDERS[settings.provider](
                plan
            )
            for name, text in texts.items():
                (folder / name).write_text(text)
                (folder / name).chmod(0o755 if name.endswith(".sh") else 0o644)
            (folder / "README.md").write_text(_readme(work, settings, plan))
            if found := problems(folder):
                raise Conflict("The container folder did not pass its check.", hint="; ".join(found)[:500])
        fsync_tree(target)
        told = _instructions(target, settings, work.name)
        return TargetResult(address=str(target), is_live=False, instructions=told, details={"folder": str(target)})

    def check(self, result: TargetResult) -> Health:
        """Whether the folder is whole; what runs in the cloud is watched there."""
        folder = Path(result.details["folder"])
        found = problems(folder) if folder.is_dir() else [f"{folder.name} is gone"]
        return Health(not found, "; ".join(found)[:300] or "The folder is complete.")

    def undeploy(self, result: TargetResult) -> None:
        shutil.rmtree(Path(result.details["folder"]), ignore_errors=True)


def _place_model(work: TargetWork, settings: CloudSettings, folder: Path, gguf: Path | None) -> Plan:
    model, adapter = "model/model.gguf", ""
    if gguf:
        place_file(gguf, folder / model)
    else:
        model = "model"
        base, over = folder_of(work), work.model.adapter_path
        if over:
            model, adapter = "model/base", "model/adapter"
            for path in model_files(Path(over)):
                place_file(path, folder / adapter / path.name)
        for path in model_files(base):
            place_file(path, folder / model / path.name)
    size = sum(path.stat().st_size for path in (folder / "model").rglob("*") if path.is_file())
    return Plan(
        name=work.name, title=" ".join(work.title.split()), engine=settings.engine, gpu=settings.gpu,
        image=settings.image or IMAGES[settings.engine, settings.gpu], model=model, adapter=adapter,
        context_tokens=settings.context_tokens, sampling=work.sampling, memory_gib=max(2, math.ceil(1.3 * size / GIB) + 2),
    )  # fmt: skip


def _commands(settings: CloudSettings, name: str) -> str:
    return "\n".join(step.replace("{name}", name) for step in STEPS[settings.provider])


def _instructions(target: Path, settings: CloudSettings, name: str) -> str:
    costs = "" if settings.provider == "docker" else "\n\nThe provider charges for as long as the endpoint stands."
    return (
        f"```\ncd {shlex.quote(str(target))}\n{_commands(settings, name)}\n```\n\n`README.md` in it says more.{costs}"
    )


def _readme(work: TargetWork, settings: CloudSettings, plan: Plan) -> str:
    asked = f'{{"model": "{work.name}", "messages": [{{"role": "user", "content": "Hello"}}]}}'
    prompt = (
        f"\n## System prompt\n\nSend it as the first message, `role: system`:\n\n> {' '.join(work.system_prompt.split())}\n"
        if work.system_prompt
        else ""
    )
    costs = "" if settings.provider == "docker" else (
        "\n## Costs\n\nAn endpoint with a machine of its own is charged by the hour whether it is asked or not"
        f"{', and GPUs are the dearest part of it' if plan.gpu else ''}. Look at the provider's prices first, and delete it when it is no longer used.\n"
    )  # fmt: skip
    return f"""# {plan.title} as a container

Engine: {plan.engine} ({plan.image}), OpenAI-compatible, port {PORT}, health at `/health`. About {plan.memory_gib} GiB of memory.
The model's files are in `model/`; the image holds them, so that a container needs nothing else to start.

## Start it

```
{_commands(settings, work.name)}
```

`./try.sh ADDRESS` asks a running one. Set `API_KEY` in the container's environment to ask a key of every caller, and put TLS in front
of it where it leaves the machine. Requests go to `/v1/chat/completions`: `{asked}`
{prompt}{costs}
## Checked

YAML, shell and Python here were parsed, and the manifests compared with the rules of their kinds, when the folder was written. They were not run against an account.
"""
