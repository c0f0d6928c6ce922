"""Checkpoints that are either whole or not there: filled under a temporary name, listed in a manifest, flushed, renamed."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tunesmith.core.job_dir import JobDir, checkpoint_name, fsync_dir, new_folder, write_atomic

REPLACED = ".replaced."
"""Prefix of a checkpoint that makes way for a newer one of the same step."""
DAMAGED = "damaged-"
"""Prefix of a checkpoint whose files do not match its manifest; kept until a newer good one is pruned."""


def remove_leftovers(job_dir: JobDir) -> None:
    """Delete what a killed predecessor had begun; put back a checkpoint that was just making way for its successor."""
    for old in job_dir.checkpoints.glob(f"{REPLACED}*"):
        final = job_dir.checkpoints / old.name.removeprefix(REPLACED)
        if not final.exists():
            os.rename(old, final)
    for folder in (job_dir.checkpoints, job_dir.artifacts):
        for path in folder.glob(".*") if not folder.is_symlink() else ():
            shutil.rmtree(path, ignore_errors=True)
    for path in job_dir.path.glob(".exit*.json.*"):
        path.unlink(missing_ok=True)


def write_manifest(folder: Path, step: int, attempt: int) -> None:
    """Write `complete.json`: `{step, attempt, files: {name: {sha256, size}}}`."""
    files = {}
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with path.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        files[path.relative_to(folder).as_posix()] = {"sha256": digest, "size": path.stat().st_size}
    write_atomic(folder / "complete.json", {"step": step, "attempt": attempt, "files": files})


def damage(folder: Path) -> str | None:
    """What is wrong with a checkpoint, or None when every file is there with the right size and SHA-256."""
    try:
        files = json.loads((folder / "complete.json").read_bytes())["files"]
        for name, known in files.items():
            path = folder / name
            if path.stat().st_size != known["size"]:
                return f"{name} has {path.stat().st_size} bytes instead of {known['size']}"
            with path.open("rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != known["sha256"]:
                    return f"the content of {name} has changed"
    except FileNotFoundError as error:
        return f"{Path(error.filename).name} is missing"
    except (ValueError, KeyError, TypeError, AttributeError):
        return "its manifest cannot be read"
    return None


def latest_good(job_dir: JobDir, on_damage: Callable[[Path, str], None]) -> Path | None:
    """The newest checkpoint that matches its manifest. Damaged ones are renamed, reported and passed over."""
    for folder in reversed(job_dir.complete_checkpoints()):
        problem = damage(folder)
        if problem is None:
            return folder
        aside = folder.with_name(DAMAGED + folder.name)
        shutil.rmtree(aside, ignore_errors=True)
        os.rename(folder, aside)
        on_damage(folder, problem)
    return None


@contextlib.contextmanager
def new_checkpoint(job_dir: JobDir, step: int, attempt: int, check: Callable[[], None]) -> Iterator[Path]:
    """A temporary folder that becomes `checkpoints/step-…` when the block ends. `check` is asked just before the rename.

    A good checkpoint of the same step is moved aside, not deleted, until the new one is in place.
    """
    final = job_dir.checkpoints / checkpoint_name(step)
    old = final.with_name(REPLACED + final.name)

    def complete(folder: Path) -> None:
        write_manifest(folder, step, attempt)
        check()
        if final.exists():
            os.rename(final, old)

    try:
        with new_folder(final, before_rename=complete) as folder:
            yield folder
    finally:
        if old.exists() and not final.exists():
            os.rename(old, final)
        else:
            shutil.rmtree(old, ignore_errors=True)


def prune(job_dir: JobDir, keep: int, also: tuple[Path, ...]) -> None:
    """Delete all complete checkpoints but the newest `keep` and those in `also`; damaged ones go too.

    Each is renamed first, so that no half-deleted folder ever looks complete.
    """
    complete = job_dir.complete_checkpoints()
    doomed = [p for p in complete[: max(0, len(complete) - keep)] if p not in also]
    doomed += job_dir.checkpoints.glob(f"{DAMAGED}*")
    for folder in doomed:
        hidden = folder.with_name(f".pruned.{folder.name}")
        os.rename(folder, hidden)
        shutil.rmtree(hidden, ignore_errors=True)
    if doomed:
        fsync_dir(job_dir.checkpoints)
