"""What a serving process is told: `serving.json` in its folder."""

from __future__ import annotations

import hashlib

from pydantic import BaseModel, ConfigDict

HEARTBEAT = "heartbeat"
"""File beside the folders of a deployment's processes; the server touches it in every round."""


class ServingSpec(BaseModel):
    """What a process serves and how; the same spec is the same process."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    engine: str = "transformers"
    """`llama.cpp`, `vllm`, `transformers` or `predict`."""
    kind: str = ""
    """Of engine `predict`: the name of the `ModelKind` that loads it."""
    task: str = ""
    """Of engine `predict`: what the model does, a name of `core.tasks.TASKS`."""
    base_path: str
    """A folder with safetensors, a GGUF file, or a hub id; of engine `predict` what the kind `opens`."""
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    """Folders of LoRA adapters; a request names one by its place here."""
    merged_adapter: str | None = None
    """One that cannot lie over the base, and is merged into it."""
    chat_template: str = ""
    """Of adapters that were trained with another one than the base's, for vLLM; a process has one only."""
    quantization: str = "q8_0"
    """Of the GGUF that llama.cpp is given when the base is a folder."""
    context_tokens: int = 4096
    """Of one request, prompt and answer together."""
    parallel: int = 8
    """Requests computed at the same time."""
    threads: int | None = None
    """CPU threads; all cores but one when absent."""
    gpus: tuple[int, ...] = ()
    cache_dir: str = ""
    offline: bool = False
    idle_s: float | None = None
    """After how long without a request it ends; a deployment's process waits for requests as long as servers look after it."""

    @property
    def group(self) -> str:
        """Names all specs that differ in their adapters only."""
        return self.model_copy(update={"adapters": ()})._digest()

    @property
    def key(self) -> str:
        return f"{self.group}-{self._digest()}"

    def _digest(self) -> str:
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]
