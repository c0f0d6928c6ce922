"""Processes for deployments: one for each base model and way of running it, with all its adapters; supervised, never idle.

A new adapter makes a new process beside the old one, which ends when the new one answers: nobody waits.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import shutil
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from tunesmith.executors.local import HUB_TOKEN, is_hub_id
from tunesmith.executors.serving_process import Endpoint, ServingProcess

HEARTBEAT = "heartbeat"
"""As `serving/process.py` knows it."""


@dataclass(frozen=True)
class EngineSpec:
    """What a process serves and how; the same spec is the same process."""

    engine: str
    """`llama.cpp`, `vllm` or `transformers`."""
    base_path: str
    """A folder with safetensors, a GGUF file, or a hub id."""
    revision: str | None = None
    adapters: tuple[str, ...] = ()
    """Folders of LoRA adapters; a request names one by its place here."""
    merged_adapter: str | None = None
    """One that cannot lie over the base, and is merged into it."""
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

    @property
    def group(self) -> str:
        """Names all specs that differ in their adapters only."""
        return _digest(replace(self, adapters=()))

    @property
    def key(self) -> str:
        return f"{self.group}-{_digest(self)}"


def _digest(spec: EngineSpec) -> str:
    return hashlib.sha256(json.dumps(asdict(spec), sort_keys=True).encode()).hexdigest()[:16]


@dataclass(frozen=True)
class Engine:
    """A live process of a group."""

    key: str
    endpoint: Endpoint
    adapters: tuple[str, ...]

    def serves(self, adapter: str | None) -> bool:
        return adapter is None or adapter in self.adapters


class EnginePool:
    """The engines under one folder. Holds no state of its own but when each was started: the folders say the rest."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def process(self, key: str) -> ServingProcess:
        return ServingProcess(self.folder / key)

    def ensure(self, spec: EngineSpec) -> bool:
        """Start the process unless it lives; whether it was started now. Does not wait."""
        process = self.process(spec.key)
        with process.locked():
            if process.pid() is not None:
                return False
            process.start(
                asdict(spec) | {"idle_s": None}, HUB_TOKEN if is_hub_id(spec.base_path) and not spec.offline else ()
            )
            return True

    def live(self, group: str) -> list[Engine]:
        """Those of a group that answer, the youngest first."""
        found = []
        for folder in sorted(self.folder.glob(f"{group}-*"), key=_started, reverse=True):
            if endpoint := ServingProcess(folder).endpoint():
                with contextlib.suppress(OSError, ValueError):
                    adapters = tuple(json.loads((folder / "serving.json").read_bytes())["adapters"])
                    found.append(Engine(folder.name, endpoint, adapters))
        return found

    def beat(self) -> None:
        """Tell the processes that somebody looks after them."""
        self.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        (self.folder / HEARTBEAT).touch()

    def keys(self) -> list[str]:
        """Every folder that is there, living or not."""
        return [folder.name for folder in self.folder.iterdir() if folder.is_dir()] if self.folder.is_dir() else []

    def end(self, key: str) -> None:
        """Kill the process and remove its folder."""
        process = self.process(key)
        with process.locked():
            process.end()
        shutil.rmtree(process.folder, ignore_errors=True)

    def end_all_but(self, keys: Iterable[str]) -> None:
        for key in set(self.keys()) - set(keys):
            self.end(key)


def _started(folder: Path) -> float:
    with contextlib.suppress(FileNotFoundError):
        return (folder / "process.json").stat().st_mtime
    return time.time()
