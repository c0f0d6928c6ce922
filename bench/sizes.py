"""Tokens a second and MFU of the engine by model size: made-up weights of well-known shapes, LoRA, rows filling the context.

    python bench/sizes.py [--sizes 135m,1b,8b] [--length 4096] [--rows 2] [--steps 12] [--variants eager,compiled,fp8]

Meant for GPUs; a CPU shows with `--sizes 135m --length 256` that it runs. Variants take turns, one step each. A step is forward,
backward, clipping and AdamW, as `recipes/blocks/trainer.py` does it; time is read once a step, after the device is done. MFU counts
four operations a weight and token, and two more for weights that are learnt, against the device's dense bf16 rate.
"""

from __future__ import annotations

import argparse
import gc
import statistics
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM, LlamaConfig

from tunesmith.engine import compiling, fp8
from tunesmith.engine.attention import rows_of
from tunesmith.engine.forward import Forward
from tunesmith.engine.fusing import fuse
from tunesmith.engine.lora import add_lora, linear_names, lora_layers
from tunesmith.engine.packing import IGNORE, PackedBatch, pack
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks.speed import Speed

SIZES: dict[str, dict[str, Any]] = {
    "135m": {"hidden_size": 576, "num_hidden_layers": 30, "intermediate_size": 1536, "num_attention_heads": 9,
             "num_key_value_heads": 3, "vocab_size": 49152, "tie_word_embeddings": True},
    "1b": {"hidden_size": 2048, "num_hidden_layers": 16, "intermediate_size": 8192, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": True},
    "8b": {"hidden_size": 4096, "num_hidden_layers": 32, "intermediate_size": 14336, "num_attention_heads": 32,
           "num_key_value_heads": 8, "vocab_size": 128256, "tie_word_embeddings": False},
}  # fmt: skip
"""The shapes of SmolLM2-135M, Llama-3.2-1B and Llama-3.1-8B."""
LORA_R = 16
WARM_UP_STEPS = 3
Step = Callable[[PackedBatch], float]


def make_step(size: str, variant: str, device: torch.device, dtype: torch.dtype) -> tuple[Step, Speed]:
    """One optimizer step over a batch, and what a token costs."""
    config = LlamaConfig(**SIZES[size], max_position_embeddings=131072)
    torch.manual_seed(0)
    with torch.device(device):
        model: Any = AutoModelForCausalLM.from_config(config, dtype=dtype)
    add_lora(model, linear_names(model), LORA_R, 2 * LORA_R, 0.0)
    speed = Speed(model, device)
    if variant == "fp8":
        fp8.to_fp8(model)
    fuse(model)
    model.train()
    forward = Forward(model, packing=True)
    if not forward.packed:
        raise SystemExit(f"{size}: rows are not laid end to end: {forward.why}")
    if variant != "eager":
        compiling.compile_layers(model)
    params = [p for _, layer in lora_layers(model) for p in (layer.lora_a, layer.lora_b)]
    optimizer = torch.optim.AdamW(params, lr=1e-4, fused=True)

    def step(batch: PackedBatch) -> float:
        """Seconds."""
        began_s = time.perf_counter()
        with rows_of(batch):
            (forward.loss_sum(batch) / len(batch.targets)).backward()
        torch.nn.utils.clip_grad_norm_(params, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        if device.type == "cuda":
            torch.cuda.synchronize()
        return time.perf_counter() - began_s

    return step, speed


def make_batch(size: str, length: int, rows: int, device: torch.device) -> PackedBatch:
    """Rows of `length` random tokens; the second half of each is learnt."""
    rng = np.random.default_rng(0)
    made = [rng.integers(0, SIZES[size]["vocab_size"], length) for _ in range(rows)]
    return pack([(ids, np.where(np.arange(length) < length // 2, IGNORE, ids)) for ids in made]).to(device)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="135m,1b,8b")
    parser.add_argument("--variants", default="eager,compiled,fp8")
    parser.add_argument("--length", type=int, default=4096, help="tokens a row")
    parser.add_argument("--rows", type=int, default=2, help="rows a step")
    parser.add_argument("--steps", type=int, default=12, help="measured steps")
    options = parser.parse_args()
    set_threads(None)
    device = pick_device()
    dtype = pick_dtype(device, None, fp16=False)
    variants = [name for name in options.variants.split(",") if name != "fp8" or not fp8.why_not(device)]
    name = torch.cuda.get_device_name(device) if device.type == "cuda" else f"CPU, {torch.get_num_threads()} threads"
    print(
        f"{name}, {dtype}, LoRA r={LORA_R}, {options.rows} rows of {options.length} tokens, {options.steps} steps by turns"
    )
    for size in options.sizes.split(","):
        show(size, variants, options, device, dtype)


def show(size: str, variants: list[str], options: argparse.Namespace, device: torch.device, dtype: torch.dtype) -> None:
    made = {variant: make_step(size, variant, device, dtype) for variant in variants}
    batch = make_batch(size, options.length, options.rows, device)
    seconds: dict[str, list[float]] = {variant: [] for variant in variants}
    for number in range(WARM_UP_STEPS + options.steps):
        for turn in range(len(variants)):
            variant = variants[(number + turn) % len(variants)]
            found = made[variant][0](batch)
            if number >= WARM_UP_STEPS:
                seconds[variant].append(found)
    tokens = options.rows * options.length
    first = statistics.median(seconds[variants[0]])
    for variant in variants:
        speed, median_s = made[variant][1], statistics.median(seconds[variant])
        rate = tokens / median_s * speed.flop_per_token
        used = f"MFU {rate / speed.peak_flops:.1%}" if speed.peak_flops else "MFU unknown"
        print(
            f"{size:5} {variant:9} {tokens / median_s:10,.0f} tokens/s  {first / median_s:5.2f} x  {rate / 1e12:8.2f} TFLOP/s  {used}",
            flush=True,
        )
    if device.type == "cuda":
        print(f"{size:5} all variants together held {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most")
        torch.cuda.reset_peak_memory_stats()
    made.clear()
    gc.collect()


if __name__ == "__main__":
    main()
