"""What several targets need before they can put a model anywhere: its folder, a GGUF file of it, whole files in new places."""

from __future__ import annotations

import fcntl
import hashlib
import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel, ValidationError

from tunesmith.core.errors import InvalidInput, NotFound, UnsupportedFormat
from tunesmith.core.job_dir import durable_folder, fsync_dir
from tunesmith.core.validation import message_of
from tunesmith.core.words import plural
from tunesmith.features.deployments.targets.base import TargetWork
from tunesmith.recipes.gguf import check_gguf

GgufFormat = Literal[
    "f16", "bf16", "q8_0", "q6_k", "q5_k_m", "q5_k_s", "q5_0", "q4_k_m", "q4_k_s", "q4_0", "q3_k_m", "q2_k"
]
CHUNK_BYTES = 8 * 1024 * 1024
FICLONE = 0x40049409
"""Linux: the new file shares the old one's blocks until one of them is written to (btrfs, XFS)."""
MODEL_FILES = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt", "LICENSE*", "NOTICE*")
"""What of a model folder others need to load it."""


class GgufFiles(NamedTuple):
    """A model for programs of the llama.cpp family."""

    model: Path
    adapter: Path | None
    """A LoRA adapter to lie over it, unless it was merged."""


def checked(kind: type[BaseModel], given: dict[str, Any]) -> dict[str, Any]:
    """`given`, complete, as a target's `Settings`. Raises `InvalidInput` with one detail a problem."""
    try:
        return kind.model_validate(given).model_dump()
    except ValidationError as error:
        details = [
            {"loc": ".".join(["settings", *map(str, problem["loc"])]), "message": message_of(problem)}
            for problem in error.errors()
        ]  # fmt: skip
    where = ", ".join(detail["loc"] for detail in details[:5])
    raise InvalidInput(f"{plural(len(details), 'setting')} of the target cannot be used: {where}.", details=details)


def folder_of(work: TargetWork) -> Path:
    """The folder with the base weights. Raises `NotFound` when they are not on this machine."""
    path = Path(work.model.path)
    if path.is_dir():
        return path
    if path.is_file():
        raise UnsupportedFormat(
            f"{work.title} is a GGUF file, and this needs safetensors.", hint="Deploy the version it was made from."
        )
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import LocalEntryNotFoundError

    try:
        found = snapshot_download(work.model.path, revision=work.model.revision, local_files_only=True)
    except (LocalEntryNotFoundError, ValueError):
        raise NotFound(
            f"{work.model.name} is not on this machine.", hint="Download it on the Models page first."
        ) from None
    return Path(found)


def gguf_files(work: TargetWork, kind: str, *, keeps_adapter: bool = False) -> GgufFiles:
    """The model as GGUF of format `kind` in the deployment's folder, made once. A GGUF version's own file is taken as it is.

    Raises what `write_gguf` raises.
    """
    from tunesmith.recipes.blocks.to_gguf import convert_in_child  # brings NumPy, which few requests need

    path = Path(work.model.path)
    adapter = Path(work.model.adapter_path) if work.model.adapter_path else None
    if path.is_file():
        if adapter:
            raise UnsupportedFormat(
                "An adapter cannot be merged into a GGUF file.", hint="Choose the base model's safetensors version."
            )
        check_gguf(path)
        return GgufFiles(path, None)
    model = work.folder / f"{work.name}-{kind}.gguf"
    over = work.folder / f"{work.name}-adapter.gguf" if adapter and keeps_adapter else None
    if not model.is_file():
        work.report(f"Writing the model as GGUF ({kind})", None)
        merged = None if over else adapter
        convert_in_child(folder_of(work), model, kind, adapter=merged, timeout_s=work.timeout_s)
    if over and adapter and not over.is_file():
        work.report("Writing the adapter as GGUF", None)
        convert_in_child(folder_of(work), over, "f16", adapter=adapter, lora=True, timeout_s=work.timeout_s)
    return GgufFiles(model, over)


def digest_of(path: Path, report: Callable[[float], None] = lambda _share: None) -> str:
    """SHA-256, hex; `report` is told the share that is read."""
    found, done, total = hashlib.sha256(), 0, max(1, path.stat().st_size)
    with path.open("rb") as file:
        while chunk := file.read(CHUNK_BYTES):
            found.update(chunk)
            done += len(chunk)
            report(done / total)
    return found.hexdigest()


def place_file(source: Path, target: Path, *, may_link: bool = False) -> None:
    """`source` under another name, whole or not at all. `may_link`: as a hard link, for what nobody will write to; otherwise it
    is a file of its own, sharing its blocks where the disk can do that."""
    durable_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        if not (may_link and _link(source, temporary)):
            _copy(source, temporary)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    fsync_dir(target.parent)


def _link(source: Path, target: Path) -> bool:
    try:
        os.link(source.resolve(), target)
    except OSError:  # another disk, or one without links
        return False
    return True


def _copy(source: Path, target: Path) -> None:
    with source.open("rb") as old, target.open("wb") as new:
        try:
            fcntl.ioctl(new.fileno(), FICLONE, old.fileno())
        except OSError:  # not this disk
            shutil.copyfileobj(old, new, CHUNK_BYTES)
        new.flush()
        os.fsync(new.fileno())


def model_files(folder: Path) -> list[Path]:
    """What others need of a model folder; no pickles, no states of training."""
    found = {path for pattern in MODEL_FILES for path in folder.glob(pattern) if path.is_file()}
    return sorted(path for path in found if path.name != "validation.json")
