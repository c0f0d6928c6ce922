"""The plan of supervised fine-tuning: chooses the settings that a user left out, and says why. Pure; imports no torch.

The rules: smaller models bear larger learning rates, small data sets need more passes, and the batch must fit the memory
that is there.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from tunesmith.core.recipe import Recipe
from tunesmith.core.words import plural
from tunesmith.recipes.cadence import Work, cadence
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.model_info import ModelInfo
from tunesmith.recipes.plans import GIB, USABLE, Facts, Plan, guessed_flops

LEARNING_RATES = ((7e9, 1e-5, 5e-5), (1e9, 5e-5, 2e-4), (0.0, 1e-4, 5e-4))
"""From so many weights on: lowest and highest rate for adapters. All-weight training takes a tenth."""
SIZE_SPANS = ((7e9, 70e9), (1e9, 7e9), (0.1e9, 1e9))
"""Number of weights at which each band's highest and lowest rate is reached."""
OPTIMIZER_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0, "paged_adamw_8bit": 2.0, "adafactor": 0.5, "sgd": 4.0, "lion": 4.0}
"""State per trained weight."""
FOUR_BIT_BYTES = 0.57
"""A weight in NF4 with doubly quantised scales (arXiv:2305.14314, 4.127 bits), and its share of buffers."""
PROCESS_BYTES = 700 * 1024**2
"""Python, torch and its libraries before any weight is loaded."""
HEAD_CHUNK_TOKENS = 512
"""Positions whose logits exist at the same time (`engine/loss.py`)."""
MAX_EVAL_ROWS = 2000
MOST_HELD_OUT = 0.999999
"""Share of the rows that a file may hold out itself."""
LEAST_EVAL_ROWS = 20
"""Held out of a long data set, however few steps learn from it."""
LAYER_S = 0.002
"""What a layer takes with one micro-batch, forward and backward, however small it is."""


def choose(
    recipe: Recipe, given: Mapping[str, Any], facts: Facts, auto: bool = True, picker_class: type[Picker] | None = None
) -> Plan:
    """Fill in what `given` leaves out. Raises `InvalidInput` naming every bad value of `given` at once."""
    given = dict(given)
    checked = check_params(recipe, given)
    if not facts.num_rows:
        return Plan(checked.model_dump(mode="json"), {}, {})
    picker = (picker_class or Picker)(recipe, given, checked.model_dump(), facts)
    picker.own_split()
    if auto:
        picker.pick_all()
    params = check_params(recipe, {**given, **picker.picked}).model_dump(mode="json")
    return Plan(params, picker.reasons, estimate(recipe, params, picker.facts, picker.texts_a_row))


class Picker:
    """Settles one setting after another; each may build on those before it. A family of methods may have its own."""

    texts_a_row = 1
    """How many texts of up to `max_length` tokens each row of a batch holds."""

    def __init__(self, recipe: Recipe, given: Mapping[str, Any], params: dict[str, Any], facts: Facts) -> None:
        self.recipe, self.given, self.params, self.facts = recipe, given, params, facts
        self.picked: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def set(self, name: str, value: Any, reason: str) -> None:
        if name not in self.given and name in self.recipe.params.model_fields:
            self.picked[name] = self.params[name] = value
            self.reasons[name] = reason

    def own_split(self) -> None:
        """What the data itself holds out is held out, whatever share is asked for, unless `split_by` is another."""
        facts, rows = self.facts, self.facts.num_file_rows or self.facts.num_rows
        if not facts.num_held_out or self.params.get("split_by") != "file":
            return
        told = f"The data itself holds out {facts.num_held_out:,} of {rows:,} rows"
        share = float(f"{facts.num_held_out / rows:.6g}")
        if facts.has_eval_dataset:
            self.facts = replace(facts, num_rows=max(1, round(facts.num_rows * (1 - share))))
            self.picked["validation_split"] = self.params["validation_split"] = 0.0
            self.reasons["validation_split"] = f"{told}; they are left out, as a separate held-out dataset is given."
            return
        self.picked["validation_split"] = self.params["validation_split"] = min(share, MOST_HELD_OUT)
        self.reasons["validation_split"] = f"{told}; split_by: content draws others."

    def pick_all(self) -> None:
        self.held_out()
        if self.params["max_steps"] is None:
            self.set("epochs", *self.passes())
        self.set("learning_rate", *self.rate())
        self.max_length()
        self.batch()
        self.steps()

    def passes(self) -> tuple[float, str]:
        """Passes over the rows, and why."""
        return epochs_for(self.facts.num_rows)

    def rate(self) -> tuple[float, str]:
        """The learning rate, and why."""
        return learning_rate_for(self.facts.model, adapter=is_adapter(self.recipe, self.params))

    def held_out(self) -> None:
        rows = self.facts.num_rows
        if "validation_split" in self.picked:
            return
        if self.facts.has_eval_dataset:
            self.set("validation_split", 0.0, "A separate held-out dataset is given, so all rows are trained on.")
        elif rows < 10:
            self.set("validation_split", 0.0, f"{rows} rows are too few to hold any out.")
        elif (reads := self._rows_read()) < rows:
            count = min(MAX_EVAL_ROWS, max(reads // 10, min(rows // 10, LEAST_EVAL_ROWS)))
            why = f"{count:,} rows are held out: the run's steps learn from {reads:,} of {rows:,} rows only."
            self.set("validation_split", float(f"{count / rows:.6g}"), why)
        elif rows * 0.1 > MAX_EVAL_ROWS:
            share = round(MAX_EVAL_ROWS / rows, 6)
            self.set("validation_split", share, f"{MAX_EVAL_ROWS:,} held-out rows of {rows:,} measure well enough.")
        else:
            self.set("validation_split", 0.1, f"A tenth of {rows:,} rows is held out.")

    def _rows_read(self) -> int:
        """Rows that the run learns from: all, unless its steps are too few for them."""
        rows, steps = self.facts.num_rows, self.params["max_steps"]
        if steps is None:
            return rows
        a_step = usual_rows_a_step(rows)
        if "batch_size" in self.given:
            accumulated = max(1, a_step // self.params["batch_size"])
            if "gradient_accumulation_steps" in self.given:
                accumulated = self.params["gradient_accumulation_steps"]
            a_step = self.params["batch_size"] * accumulated
        return min(rows, steps * a_step)

    def max_length(self) -> None:
        lengths, model = self.facts.lengths, self.facts.model
        context = model.context_length if model else None
        if lengths is None:
            wanted = min(1024, context or 1024)
            self.set("max_length", max(16, wanted), "The rows' lengths are not known yet; longer rows are cut.")
            return
        # One very long row should not set the memory for all of them.
        wanted, which = lengths.longest, f"the longest of {lengths.whose} has"
        if lengths.longest > 2 * lengths.p99:
            wanted, which = lengths.p99, f"99 % of {lengths.whose} have at most"
        about = f"{which} {wanted:,} tokens"
        if not lengths.is_counted:
            wanted, about = 2 * wanted, f"{which} about {wanted:,} tokens, an estimate from characters that is doubled"
        rounded = max(64, math.ceil(wanted / 64) * 64)
        if context and rounded > context:
            self.set("max_length", max(16, context), f"{about}, but the model's context is {context:,}.")
        else:
            self.set("max_length", rounded, f"{about}; rounded up to a multiple of 64.")

    def batch(self) -> None:
        rows, machine = self.facts.num_rows, self.facts.machine
        effective = usual_rows_a_step(rows)
        if "gradient_accumulation_steps" in self.given:
            effective = max(1, effective // self.params["gradient_accumulation_steps"])
        room = int(machine.memory_bytes * USABLE)
        micro = effective
        if "batch_size" in self.given:
            micro = self.params["batch_size"]
        else:
            while micro > 1 and self._memory(micro) > room:
                micro //= 2
        tight = self._memory(micro) > room
        if tight:
            self.set("gradient_checkpointing", True, "Activations are recomputed: otherwise the memory would not do.")
            while "batch_size" not in self.given and micro * 2 <= effective and self._memory(micro * 2) <= room:
                micro *= 2
        accumulation = max(1, effective // micro)
        sums = f"{_gib(self._memory(micro))} of {_gib(machine.memory_bytes)} on the {machine.device}"
        self.set(
            "batch_size",
            micro,
            f"About {sums} for {plural(micro, 'row')} of up to {self.params['max_length']:,} tokens.",
        )
        if "batch_size" in self.given and micro > effective:
            self.set("gradient_accumulation_steps", 1, "The batch is large enough without.")
        else:
            why = f"{micro} x {accumulation} = {micro * accumulation} rows a step, the usual for {rows:,} rows."
            self.set("gradient_accumulation_steps", accumulation, why)

    def _memory(self, micro: int) -> int:
        return memory_parts(self.recipe, {**self.params, "batch_size": micro * self.texts_a_row}, self.facts)["total"]

    def steps(self) -> None:
        total = total_steps(self.params, self.facts)
        ratio = 0.03 if total >= 200 else 0.1
        if self.params["warmup_steps"] is None:
            self.set("warmup_ratio", ratio, f"{max(1, round(total * ratio))} of {total:,} steps to warm up.")
        often = cadence(self._work(total))
        if self.params["validation_split"] or self.facts.has_eval_dataset:
            self.set("eval_steps", often.eval_steps, often.eval_reason)
        self.set("save_steps", often.save_steps, often.save_reason)

    def _work(self, total: int) -> Work:
        params, facts = self.params, self.facts
        batches = params["gradient_accumulation_steps"]
        held_out = facts.num_eval_rows or round(facts.num_rows * params["validation_split"])
        model = facts.model
        trained = trained_weights(self.recipe, params, model) if model else 0
        step_s = 0.0
        if model:
            length = min(facts.lengths.mean or facts.lengths.median, params["max_length"]) if facts.lengths else 0
            flop = (
                params["batch_size"] * self.texts_a_row * batches * length * flop_per_token(self.recipe, params, model)
            )
            step_s = max(flop / guessed_flops(facts.machine.device), batches * model.num_layers * LAYER_S)
        return Work(
            total_steps=total, held_out_rows=held_out, batch_rows=params["batch_size"], batches=batches,
            forward_share=1 / 2 if is_adapter(self.recipe, params) else 1 / 3, step_s=step_s,
            checkpoint_bytes=int(trained * (4 + OPTIMIZER_BYTES[params["optimizer"]])), keeps_best=params["save_best_model"],
        )  # fmt: skip


def usual_rows_a_step(num_rows: int) -> int:
    return 8 if num_rows < 1000 else 16 if num_rows < 10_000 else 32


def is_adapter(recipe: Recipe, params: Mapping[str, Any]) -> bool:
    """Whether an adapter is trained; methods that leave it to the user have a setting `adapter`."""
    return "lora_r" in recipe.params.model_fields and bool(params.get("adapter", True))


def learning_rate_for(model: ModelInfo | None, *, adapter: bool) -> tuple[float, str]:
    """By model size: 7B and more 1e-5 to 5e-5, 1-7B 5e-5 to 2e-4, under 1B 1e-4 to 5e-4; a tenth for all weights."""
    scale = 1.0 if adapter else 0.1
    if model is None or not model.num_parameters:
        return 2e-4 * scale, "The model's size is not known before it is fetched; this is the usual rate."
    size = model.num_parameters
    band = next(i for i, (least, _, _) in enumerate(LEARNING_RATES) if size >= least)
    _, low, high = LEARNING_RATES[band]
    small, large = SIZE_SPANS[band]
    place = min(1.0, max(0.0, math.log(size / small) / math.log(large / small)))
    rate = float(f"{high * (low / high) ** place * scale:.1e}")
    words = f"{_count(size)} weights: {low * scale:g} to {high * scale:g} is usual"
    return rate, f"{words}{'' if adapter else ' when all weights move'}; smaller models bear more."


def epochs_for(num_rows: int) -> tuple[float, str]:
    """By row count: over 10k 1 to 3, 1k to 10k 3 to 5, under 1k 5 to 10."""
    if num_rows > 10_000:
        low, high, small, large, words = 1, 3, 10_000, 100_000, "over 10,000 rows: 1 to 3"
    elif num_rows >= 1000:
        low, high, small, large, words = 3, 5, 1000, 10_000, "1,000 to 10,000 rows: 3 to 5"
    else:
        low, high, small, large, words = 5, 10, 100, 1000, "under 1,000 rows: 5 to 10"
    place = min(1.0, max(0.0, math.log(max(num_rows, 1) / small) / math.log(large / small)))
    return float(round(high - (high - low) * place)), f"{num_rows:,} rows; {words} passes are usual."


def total_steps(params: Mapping[str, Any], facts: Facts) -> int:
    """Optimizer steps of the run."""
    if params["max_steps"] is not None:
        return int(params["max_steps"])
    rows = max(1, facts.num_rows - round(facts.num_rows * params["validation_split"]))
    effective = params["batch_size"] * params["gradient_accumulation_steps"]
    return max(1, math.ceil(math.ceil(rows / effective) * params["epochs"]))


def trained_weights(recipe: Recipe, params: Mapping[str, Any], model: ModelInfo) -> int:
    """How many weights the run changes; for named `target_modules` an upper bound."""
    return params["lora_r"] * model.linear_width if is_adapter(recipe, params) else model.num_parameters


def flop_per_token(recipe: Recipe, params: Mapping[str, Any], model: ModelInfo) -> float:
    """Operations of one token, forward and backward: see `duration.py`."""
    return 4.0 * model.num_parameters + 2.0 * trained_weights(recipe, params, model)


def memory_parts(recipe: Recipe, params: Mapping[str, Any], facts: Facts) -> dict[str, int]:
    """Bytes by part, and their `total`. Activations as in Korthikanti et al. (arXiv:2205.05198), about 34 values a unit."""
    model = facts.model
    if model is None:
        return {"process": PROCESS_BYTES, "total": PROCESS_BYTES}
    half = bool(params["fp16"] or (facts.machine.fast_bf16 if params["bf16"] is None else params["bf16"]))
    item_bytes = 2 if half else 4
    four_bit = recipe.name == "qlora" or params.get("load_in_4bit", False)
    outer = 2 * model.vocab_size * model.hidden_size  # embedding and head stay as they are
    inner = max(0, model.num_parameters - outer)
    weights = inner * FOUR_BIT_BYTES + min(outer, model.num_parameters) * 2 if four_bit else (
        model.num_parameters * item_bytes
    )  # fmt: skip
    trained = trained_weights(recipe, params, model)
    length = min(params["max_length"], facts.lengths.longest if facts.lengths else params["max_length"])
    tokens = params["batch_size"] * length
    per_layer = tokens * 34 * model.hidden_size * item_bytes  # attention scores are never all in memory (SDPA)
    if params["gradient_checkpointing"]:
        activations = per_layer + model.num_layers * tokens * model.hidden_size * item_bytes
    else:
        activations = per_layer * max(1, model.num_layers)
    parts = {
        "process": PROCESS_BYTES,
        "weights": int(weights),
        "gradients": trained * 4,
        "optimizer": int(trained * OPTIMIZER_BYTES[params["optimizer"]]),
        "activations": int(activations),
        "logits": 3 * HEAD_CHUNK_TOKENS * model.vocab_size * 4,
    }
    return {**parts, "total": sum(parts.values())}


def estimate(recipe: Recipe, params: Mapping[str, Any], facts: Facts, texts_a_row: int = 1) -> dict[str, Any]:
    """What the run takes: steps, memory with its arithmetic, disk."""
    parts = memory_parts(recipe, {**params, "batch_size": params["batch_size"] * texts_a_row}, facts)
    trained = trained_weights(recipe, params, facts.model) if facts.model else None
    disk = 0
    if trained is not None:
        # A checkpoint holds weights and optimizer state; those kept, the best, and one being written.
        disk = (
            int(trained * (4 + OPTIMIZER_BYTES[params["optimizer"]])) * (params["save_total_limit"] + 2) + trained * 4
        )
    return {
        "total_steps": total_steps(params, facts),
        "trained_weights": trained,
        "memory_bytes": parts["total"],
        "memory_parts_bytes": {name: size for name, size in parts.items() if name != "total"},
        "memory_available_bytes": facts.machine.memory_bytes,
        "device": facts.machine.device,
        "fits": None if facts.model is None else parts["total"] <= facts.machine.memory_bytes,
        "disk_bytes": disk,
    }


def _gib(size_bytes: float) -> str:
    return f"{size_bytes / GIB:.1f} GiB"


def _count(number: float) -> str:
    return f"{number / 1e9:.1f}B" if number >= 1e9 else f"{number / 1e6:.0f}M"
