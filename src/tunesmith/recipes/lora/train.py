"""LoRA, told from the top."""

from __future__ import annotations

from typing import Any

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.recipe import RunContext
from tunesmith.engine import fp8
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.adapter import add_adapter, save_adapter
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer, loading_device
from tunesmith.recipes.blocks.sft import fit
from tunesmith.recipes.lora.spec import RECIPE, LoraParams


def train(params: LoraParams, run: RunContext) -> str:
    """Train an adapter beside the frozen model. Returns an `Outcome`."""
    # 1) Where and in which number format
    set_threads(run.spec.resources.cpu_threads)
    device = pick_device()
    dtype = pick_dtype(device, params.bf16, params.fp16)
    if params.fp8 and (trouble := fp8.why_not(device)):
        raise JobFailure(FailureCode.UNSUPPORTED, f"fp8 is not available here: {trouble}.", hint="Set fp8: false.")
    base = run.spec.model
    assert base is not None  # the service refuses a job without one
    # 2) What we train: the adapter only
    tokenizer = load_tokenizer(base.path, revision=base.revision, offline=run.spec.offline, adapter=base.adapter_path)

    def load() -> Any:
        home = loading_device(device, params.sharding)
        model = load_causal_lm(base, dtype=dtype, device=home, offline=run.spec.offline)
        add_adapter(model, params, params.seed, in_fp8=params.fp8)
        return model

    # 3) Train, then leave behind what others can use
    return fit(
        run,
        params,
        load,
        tokenizer,
        device,
        RECIPE.produces,
        lambda m, folder: save_adapter(m, folder, run.spec, params),
    )
