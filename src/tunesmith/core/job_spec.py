"""What a worker is told: `spec.json`, written once before the first launch and never changed."""

from __future__ import annotations

import signal
from typing import Any

from pydantic import BaseModel, ConfigDict, Field

DUMP_SIGNAL = signal.SIGUSR1
"""On which a worker writes to its log where each of its threads stands."""


class _Frozen(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class ModelRef(_Frozen):
    """The base model."""

    name: str
    """As the user knows it: a hub id or a local folder's name."""
    path: str
    """A folder with safetensors and tokenizer files, or a hub id for the worker to resolve through the hub cache."""
    revision: str | None = None
    kind: str = ""
    """The name of its `ModelKind`, where that is known."""
    adapter_path: str | None = None
    """A LoRA adapter to merge into the model before training starts: continuing from a tuned model."""


class DatasetRef(_Frozen):
    """The rows to train on: one immutable version."""

    name: str
    path: str
    """A Parquet file in the stored form of `tunesmith.dataprep`."""
    digest: str
    """SHA-256 of the content, hex."""
    shape: str
    """Row shape: one of `tunesmith.dataprep.shapes.SHAPES`."""
    mapping: dict[str, str] = Field(default_factory=dict)
    """Role → column, e.g. `{"input": "question", "output": "answer"}`. Roles are those of the shape."""
    num_rows: int = 0
    split_column: str | None = None
    """The column that says which rows the file itself holds out; None where it does not say."""
    num_held_out: int = 0
    """How many rows those are."""


class ResourceRequest(_Frozen):
    """What the job needs of the machine."""

    num_gpus: int = Field(0, ge=0, description="GPUs, all or none of them.")
    cpu_threads: int | None = Field(None, ge=1, description="CPU threads; all cores when absent.")
    memory_bytes: int | None = Field(None, ge=1, description="Address-space limit for custom scripts.")


class JobSpec(_Frozen):
    """Everything a recipe needs. Paths are absolute, on the machine where the worker runs."""

    job_id: int
    name: str
    output_name: str = ""
    """Folder-safe, unique: the name of the model it makes."""
    recipe: str
    params: dict[str, Any]
    """The recipe's own parameters, already checked and complete (no `auto` left)."""
    model: ModelRef | None = None
    dataset: DatasetRef | None = None
    eval_dataset: DatasetRef | None = None
    """A separate held-out dataset; otherwise `validation_split` of `dataset` is held out."""
    resources: ResourceRequest = Field(default_factory=ResourceRequest)
    timeout_s: float | None = None
    cache_dir: str
    """Where tokenised data and compiled code are kept between jobs."""
    offline: bool = False
    """Never ask a hub."""
    worker_memory_bytes: int | None = None
    """Most memory that the worker and all it starts may use, where the kernel can be told; absent means no limit."""
    custom_network: bool = False
    """Whether a custom script may use the network."""


class Launch(_Frozen):
    """`launch.json`: the current attempt. Rewritten at every launch, before the worker starts."""

    attempt: int
    devices: list[int] = Field(default_factory=list)
    """GPU indices this attempt may use."""
    boot_id: str = ""
    pid: int = 0
    """The shim's process id; 0 until it is known."""
    pid_started: float = 0.0
    """The shim's start time, seconds since boot, to tell it from a later process of the same pid."""


class Control(_Frozen):
    """`control.json`: what the server asks of a running worker. Each `…_seq` rises with every new request."""

    stop: bool = False
    """Stop after this step without keeping anything beyond existing checkpoints; the job is cancelled."""
    pause: bool = False
    """Write a checkpoint after this step, then exit with outcome `paused`."""
    checkpoint_seq: int = 0
    """Write a checkpoint after this step and go on."""
    learning_rate: float | None = None
    """Use this peak learning rate from the next step on; the schedule's shape stays."""
    learning_rate_seq: int = 0


class Failure(_Frozen):
    """Why it failed, for a person."""

    code: str
    """A `FailureCode`."""
    message: str
    hint: str = ""
    details: list[dict[str, Any]] = Field(default_factory=list)
    traceback: str = ""


class ExitRecord(_Frozen):
    """`exit.json`: the last word of an attempt."""

    attempt: int
    outcome: str
    """`completed`, `paused`, `cancelled` or `failed`."""
    failure: Failure | None = None
    metrics: dict[str, float] = Field(default_factory=dict)


class ShimRecord(_Frozen):
    """`shim.json`: how the worker's process ended, as the shim that waited for it saw it."""

    attempt: int
    exit_code: int | None = None
    signal: int | None = None
    out_of_memory: bool = False
    """The kernel killed it for memory."""
    timed_out: bool = False
