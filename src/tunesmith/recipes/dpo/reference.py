"""What the answers' log-probabilities are under the reference, computed once and kept beside the tokens. The reference is the
model before its first step; of an adapter, the base without it (docs/decisions/0029-dpo.md)."""

from __future__ import annotations

import hashlib
import io
import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import ModelRef
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine import compiling, sharding
from tunesmith.engine.forward import Forward
from tunesmith.engine.lora import adapter_off
from tunesmith.engine.packing import pack
from tunesmith.recipes.blocks.trainer import Trainer
from tunesmith.recipes.dpo.pairs import PairRows

CODE_VERSION = 1
"""Raised whenever other numbers would come out."""
WEIGHTS = ("*.safetensors", "config.json")


def reference_of(run: RunContext, trainer: Trainer, forward: Forward, rows: PairRows) -> np.ndarray | str:
    """(pairs, 2) fp64, memory-mapped: log-probabilities of the better and of the worse answer, nats; or an `Outcome` where the
    job is asked to stop meanwhile. To be called before the first step."""
    path = Path(run.spec.cache_dir) / "tokens" / f"{_key(run, forward, rows)}.reference.npy"
    (is_kept,) = trainer.ranks.least(float(path.is_file()))
    if not is_kept:
        run.phase("tokenizing", "reference")
        found = np.full((len(rows), 2), np.nan)
        outcome = trainer.within_memory(lambda: _compute(run, trainer, forward, rows, found))
        if outcome:
            return outcome
        if trainer.ranks.count > 1:
            sums = trainer.ranks.sum(*np.nan_to_num(found).ravel().tolist())
            found = np.array(sums).reshape(found.shape)
        if run.is_main:
            content = io.BytesIO()
            np.save(content, found)
            path.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(path, content.getvalue())
        return found
    kept: np.ndarray = np.load(path, mmap_mode="r", allow_pickle=False)
    return kept


def _compute(run: RunContext, trainer: Trainer, forward: Forward, rows: PairRows, found: np.ndarray) -> str:
    """Fill in this rank's part of `found`; what is there already stays. Returns an `Outcome` when asked to stop, else nothing."""
    model = trainer.model
    model.eval()
    with adapter_off(model), compiling.eager():
        for part, counts in trainer.share.split(np.flatnonzero(np.isnan(found[:, 0])), rows.lengths):
            if trainer.ranks.count == 1 and (outcome := _asked(run)):
                return outcome
            losses, _ = forward.score_rows(pack(rows.rows(part)).to(trainer.device))
            if counts:
                found[part] = -losses.cpu().numpy().reshape(2, -1).T
            run.progress(int((~np.isnan(found[:, 0])).sum()), len(found))
    sharding.reset(model)
    model.train()
    return ""


def _asked(run: RunContext) -> str:
    control = run.control()
    return Outcome.CANCELLED if control.stop else Outcome.PAUSED if control.pause else ""


def _key(run: RunContext, forward: Forward, rows: PairRows) -> str:
    """Of all that the numbers come from: the tokens, the model's files, and the format it computes in."""
    assert run.spec.model is not None  # the service refuses a job without one
    tokens = hashlib.sha256()
    for column in ("row", "input_ids", "labels"):
        for chunk in rows.texts.table.column(column).chunks:
            for buffer in chunk.buffers():
                tokens.update(buffer or b"")
    weight = next(forward.model.parameters())
    parts = [
        CODE_VERSION, tokens.hexdigest(), *_identity(run.spec.model, forward.model), str(weight.dtype), weight.device.type,
        version("torch"), version("transformers"),
    ]  # fmt: skip
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def _identity(ref: ModelRef, model: Any) -> list[Any]:
    """Which weights these are: a commit of the hub, or the files of a folder as they are now."""
    folders = [Path(folder) for folder in (ref.path, ref.adapter_path) if folder and Path(folder).is_dir()]
    files = sorted(path for folder in folders for pattern in WEIGHTS for path in folder.glob(pattern))
    told = [(str(path.resolve()), path.stat().st_size, path.stat().st_mtime_ns) for path in files]
    return [ref.path, ref.revision, ref.adapter_path, getattr(model.config, "_commit_hash", None), told]
