"""The plan of a text classification: chooses the settings that a user left out, and says why. Imports no torch.

The rates are those usual for fine-tuning encoders (arXiv:1810.04805, arXiv:2006.04884), higher for small ones; a head alone bears
more.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping
from typing import Any

from tunesmith.core.recipe import Recipe
from tunesmith.core.words import plural
from tunesmith.recipes.cadence import Work, cadence
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.plans import GIB, USABLE, Facts, Plan, guessed_flops

RATES = ((1e9, 1e-5), (300e6, 2e-5), (60e6, 5e-5), (0.0, 2e-4))
"""From so many weights on: the rate at which all of them are trained. Adapters take ten times that."""
HEAD_RATE = 1e-3
STATE_BYTES = {"adamw": 8.0, "adamw_8bit": 2.0, "paged_adamw_8bit": 2.0, "adafactor": 0.5, "sgd": 4.0, "lion": 4.0}
PROCESS_BYTES = 700 * 1024**2
MOST_HELD_OUT_ROWS, LEAST_ROWS = 2000, 10
MOST_HELD_OUT = 0.999999
IMBALANCE = 10.0
"""Most frequent label to rarest: from here on labels are weighted."""
MOST_LABELS_WEIGHTED = 1000
LAYER_S = 0.002
"""What a layer takes with one micro-batch, forward and backward, however small it is."""


def choose(recipe: Recipe, given: Mapping[str, Any], facts: Facts, auto: bool = True) -> Plan:
    """Fill in what `given` leaves out. Raises `InvalidInput` naming every bad value of `given` at once."""
    checked = check_params(recipe, dict(given)).model_dump()
    if not facts.num_rows:
        return Plan(check_params(recipe, dict(given)).model_dump(mode="json"), {}, {})
    picker = _Picker(given, checked, facts)
    picker.own_split()
    if auto:
        picker.pick_all()
    params = check_params(recipe, {**given, **picker.picked}).model_dump(mode="json")
    return Plan(params, picker.reasons, estimate(params, facts))


class _Picker:
    """Settles one setting after another; each may build on those before it."""

    def __init__(self, given: Mapping[str, Any], params: dict[str, Any], facts: Facts) -> None:
        self.given, self.params, self.facts = given, params, facts
        self.picked: dict[str, Any] = {}
        self.reasons: dict[str, str] = {}

    def set(self, name: str, value: Any, reason: str) -> None:
        if name not in self.given:
            self.picked[name] = self.params[name] = value
            self.reasons[name] = reason

    def own_split(self) -> None:
        """What the data itself holds out is held out, whatever share is asked for, unless `split_by` is another."""
        facts, rows = self.facts, self.facts.num_file_rows or self.facts.num_rows
        if not facts.num_held_out or self.params["split_by"] != "file":
            return
        told = f"The data itself holds out {facts.num_held_out:,} of {rows:,} rows"
        share = 0.0 if facts.has_eval_dataset else min(float(f"{facts.num_held_out / rows:.6g}"), MOST_HELD_OUT)
        more = "; they are left out, as a separate held-out dataset is given." if facts.has_eval_dataset else "; split_by: content draws others."  # fmt: skip
        self.picked["validation_split"] = self.params["validation_split"] = share
        self.reasons["validation_split"] = told + more

    def pick_all(self) -> None:
        self.held_out()
        self.rate()
        self.epochs()
        self.max_length()
        self.balance()
        self.batch()
        self.steps()

    def held_out(self) -> None:
        rows = self.facts.num_rows
        if "validation_split" in self.picked:
            return
        if self.facts.has_eval_dataset:
            self.set("validation_split", 0.0, "A separate held-out dataset is given, so all rows are trained on.")
        elif rows < LEAST_ROWS:
            self.set("validation_split", 0.0, f"{rows} rows are too few to hold any out.")
        elif rows * 0.1 > MOST_HELD_OUT_ROWS:
            share = round(MOST_HELD_OUT_ROWS / rows, 6)
            self.set(
                "validation_split", share, f"{MOST_HELD_OUT_ROWS:,} held-out rows of {rows:,} measure well enough."
            )
        else:
            self.set("validation_split", 0.1, f"A tenth of {rows:,} rows is held out, some of each label.")

    def rate(self) -> None:
        model, weights = self.facts.model, self.params["weights"]
        if weights == "frozen":
            self.set("learning_rate", HEAD_RATE, "The head alone is trained, which bears a large rate.")
            return
        times, what = (10, "adapters take ten times that") if weights == "lora" else (1, "smaller models bear more")
        if model is None or not model.num_parameters:
            self.set(
                "learning_rate",
                5e-5 * times,
                "The model's size is not known before it is fetched; this is the usual rate.",
            )
            return
        size = model.num_parameters
        rate = next(rate for least, rate in RATES if size >= least)
        self.set(
            "learning_rate",
            min(1e-3, rate * times),
            f"{size / 1e6:,.0f}M weights: {rate:g} is usual for all of them; {what}.",
        )

    def epochs(self) -> None:
        if self.params["max_steps"] is not None:
            return
        rows = self.facts.num_rows
        if self.params["weights"] == "frozen":
            self.set("epochs", 20.0, "Passes cost little: the vectors of a frozen model are computed once.")
            return
        epochs = 2.0 if rows > 50_000 else 3.0 if rows >= 5000 else 5.0 if rows >= 1000 else 10.0
        self.set("epochs", epochs, f"{rows:,} rows: {epochs:g} passes after the head has been trained first.")

    def max_length(self) -> None:
        lengths, model = self.facts.lengths, self.facts.model
        context = model.context_length if model else None
        if lengths is None:
            wanted, told = 256, "The texts' lengths are not known yet; longer texts are cut."
        else:
            longest, which = lengths.longest, "The longest text has"
            if longest > 2 * lengths.p99:
                longest, which = lengths.p99, "99 % of the texts have at most"
            wanted, told = longest, f"{which} {longest:,} tokens"
            if not lengths.is_counted:
                wanted, told = (
                    2 * longest,
                    f"{which} about {longest:,} tokens, an estimate from characters that is doubled",
                )
            wanted, told = max(32, math.ceil(wanted / 32) * 32), f"{told}; rounded up to a multiple of 32."
        if context and wanted > context:
            wanted, told = context, f"{told[:-1]}, but the model reads at most {context:,}."
        self.set("max_length", max(4, wanted), told)

    def balance(self) -> None:
        counts = label_counts(self.facts)
        if len(counts) < 2 or len(counts) > MOST_LABELS_WEIGHTED:
            return
        (most, many), (least, few) = counts[0], counts[-1]
        told = f"The most frequent label, {most[:40]}, has {plural(many, 'row')}, the rarest, {least[:40]}, {few:,}"
        if many >= IMBALANCE * few:
            self.set("class_weights", "balanced", f"{told}: rare labels get more weight.")
        else:
            self.set("class_weights", "none", f"{told}: that needs no weights.")

    def batch(self) -> None:
        rows, memory = self.facts.num_rows, self.facts.machine.memory_bytes
        wanted = 16 if rows < 1000 else 32
        if "gradient_accumulation_steps" in self.given:
            wanted = max(1, wanted // self.params["gradient_accumulation_steps"])
        micro = wanted
        while micro > 1 and memory_parts({**self.params, "batch_size": micro}, self.facts)["total"] > USABLE * memory:
            micro //= 2
        takes = memory_parts({**self.params, "batch_size": micro}, self.facts)["total"]
        where = f"of {memory / GIB:.1f} GiB on the {self.facts.machine.device}"
        self.set("batch_size", micro, f"About {takes / GIB:.1f} GiB {where} for {plural(micro, 'row')}.")
        times = max(1, wanted // self.params["batch_size"])
        self.set(
            "gradient_accumulation_steps",
            times,
            f"{self.params['batch_size']} x {times} rows a step, for {rows:,} rows.",
        )

    def steps(self) -> None:
        total = total_steps(self.params, self.facts)
        if self.params["warmup_steps"] is None:
            self.set("warmup_ratio", 0.06, f"{max(1, round(total * 0.06))} of {total:,} steps to warm up.")
        often = cadence(self._work(total))
        if self.params["validation_split"] or self.facts.has_eval_dataset:
            self.set("eval_steps", often.eval_steps, often.eval_reason)
        self.set("save_steps", often.save_steps, often.save_reason)

    def _work(self, total: int) -> Work:
        params, facts = self.params, self.facts
        batches, model = params["gradient_accumulation_steps"], facts.model
        trained, step_s = trained_weights(params, facts), 0.0
        if model:
            length = min(facts.lengths.mean or facts.lengths.median, params["max_length"]) if facts.lengths else 0
            flop = params["batch_size"] * batches * length * (4.0 * model.num_parameters + 2.0 * trained)
            step_s = max(flop / guessed_flops(facts.machine.device), batches * model.num_layers * LAYER_S)
        return Work(
            total_steps=total, held_out_rows=facts.num_eval_rows or round(facts.num_rows * params["validation_split"]),
            batch_rows=params["batch_size"], batches=batches, forward_share=1 / 3, step_s=step_s,
            checkpoint_bytes=int(trained * (4 + STATE_BYTES[params["optimizer"]])), keeps_best=params["save_best_model"],
        )  # fmt: skip


def label_counts(facts: Facts) -> list[tuple[str, int]]:
    """Labels and their rows, the most frequent first; nothing where the file is not at hand, or holds lists."""
    data = facts.dataset
    if data is None or "label" not in data.mapping:
        return []
    import pyarrow as pa
    import pyarrow.compute as pc
    import pyarrow.parquet as pq

    try:
        with pq.ParquetFile(data.path) as file:
            column = file.read(columns=[data.mapping["label"]]).column(0)
    except (OSError, KeyError, pa.ArrowException):
        return []
    if pa.types.is_nested(column.type):
        return []
    counts: Counter[str] = Counter()
    for one in pc.value_counts(column).to_pylist():
        if one["values"] is not None and str(one["values"]).strip():
            counts[str(one["values"]).strip()] += one["counts"]
    return counts.most_common()


def total_steps(params: Mapping[str, Any], facts: Facts) -> int:
    """Optimizer steps of the run."""
    if params["max_steps"] is not None:
        return int(params["max_steps"])
    rows = max(1, facts.num_rows - round(facts.num_rows * params["validation_split"]))
    a_step = params["batch_size"] * params["gradient_accumulation_steps"]
    return max(1, math.ceil(math.ceil(rows / a_step) * params["epochs"]))


def trained_weights(params: Mapping[str, Any], facts: Facts) -> int:
    """How many weights the run changes, the labels' own left out; 0 where the model is not known."""
    model = facts.model
    if model is None:
        return 0
    if params["weights"] == "all":
        return model.num_parameters
    return params["lora_r"] * model.linear_width if params["weights"] == "lora" else model.hidden_size**2  # type: ignore[no-any-return]


def memory_parts(params: Mapping[str, Any], facts: Facts) -> dict[str, int]:
    """Bytes by part, and their `total`. Activations as in Korthikanti et al. (arXiv:2205.05198), about 34 values a unit."""
    model = facts.model
    if model is None:
        return {"process": PROCESS_BYTES, "total": PROCESS_BYTES}
    bf16 = facts.machine.fast_bf16 if params["bf16"] is None else params["bf16"]
    item = 2 if (bf16 or params["fp16"]) and params["weights"] != "frozen" else 4
    trained = trained_weights(params, facts)
    length = min(params["max_length"], facts.lengths.longest if facts.lengths else params["max_length"])
    layers = 1 if params["gradient_checkpointing"] or params["weights"] == "frozen" else max(1, model.num_layers)
    parts = {
        "process": PROCESS_BYTES,
        "weights": model.num_parameters * item,
        "gradients": trained * (4 + (4 if item == 2 and params["weights"] == "all" else 0)),
        "optimizer": int(trained * STATE_BYTES[params["optimizer"]]),
        "activations": params["batch_size"] * length * 34 * model.hidden_size * item * layers,
    }
    if params["weights"] == "frozen":
        parts["vectors"] = facts.num_rows * model.hidden_size * 4
    return {**parts, "total": sum(parts.values())}


def estimate(params: Mapping[str, Any], facts: Facts) -> dict[str, Any]:
    """What the run takes: steps, memory with its arithmetic, disk."""
    parts, trained = memory_parts(params, facts), trained_weights(params, facts)
    checkpoint = int(trained * (4 + STATE_BYTES[params["optimizer"]]))
    whole = 4 * facts.model.num_parameters if facts.model else 0
    return {
        "total_steps": total_steps(params, facts),
        "trained_weights": trained if facts.model else None,
        "memory_bytes": parts["total"],
        "memory_parts_bytes": {name: size for name, size in parts.items() if name != "total"},
        "memory_available_bytes": facts.machine.memory_bytes,
        "device": facts.machine.device,
        "fits": None if facts.model is None else parts["total"] <= facts.machine.memory_bytes,
        "disk_bytes": checkpoint * (params["save_total_limit"] + 2) + whole,
    }
