"""QLoRA, told from the top."""

from __future__ import annotations

from typing import Any

from transformers import BitsAndBytesConfig

from tunesmith.core.recipe import RunContext
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.adapter import add_adapter, save_adapter
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.blocks.sft import fit
from tunesmith.recipes.qlora.spec import RECIPE, QloraParams


def train(params: QloraParams, run: RunContext) -> str:
    """Train an adapter beside a frozen model of 4-bit weights. Returns an `Outcome`."""
    # 1) Where and in which number format
    set_threads(run.spec.resources.cpu_threads)
    device = pick_device()
    dtype = pick_dtype(device, params.bf16, params.fp16)
    base = run.spec.model
    assert base is not None  # the service refuses a job without one
    # 2) What we train: the adapter; the base in NF4 with double quantisation
    nf4 = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=dtype
    )
    tokenizer = load_tokenizer(base.path, revision=base.revision, offline=run.spec.offline, adapter=base.adapter_path)

    def load() -> Any:
        model = load_causal_lm(base, dtype=dtype, device=device, offline=run.spec.offline, quantization=nf4)
        add_adapter(model, params, params.seed)
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
