"""Full fine-tuning, told from the top."""

from __future__ import annotations

from typing import Any

from tunesmith.core.recipe import RunContext
from tunesmith.engine.fusing import fuse
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer, loading_device
from tunesmith.recipes.blocks.sft import fit
from tunesmith.recipes.standard.spec import RECIPE, StandardParams


def train(params: StandardParams, run: RunContext) -> str:
    """Train every weight; fp32 masters keep small updates. Returns an `Outcome`."""
    # 1) Where and in which number format
    set_threads(run.spec.resources.cpu_threads)
    device = pick_device()
    dtype = pick_dtype(device, params.bf16, params.fp16)
    base = run.spec.model
    assert base is not None  # the service refuses a job without one
    # 2) What we train: everything
    tokenizer = load_tokenizer(base.path, revision=base.revision, offline=run.spec.offline, adapter=base.adapter_path)

    def load() -> Any:
        home = loading_device(device, params.sharding)
        model = load_causal_lm(base, dtype=dtype, device=home, offline=run.spec.offline)
        fuse(model)
        return model.requires_grad_(True)

    # 3) Train, then leave behind what others can use
    return fit(run, params, load, tokenizer, device, RECIPE.produces, lambda m, folder: m.save_pretrained(folder))
