"""DPO speed: Tunesmith beside TRL's `DPOTrainer`, at its defaults and best tuned.

    python bench/dpo.py [--steps 12] [--rounds 3] [--method lora|full] [--only "tunesmith,trl"] [--python PYTHON]

One run; contenders by turns, each in a process of its own, the order turned by one every round. All train on the same pairs
in the same order, on the same tokens with the same ones learned (Tunesmith's, handed to TRL), eight pairs a step, the same
adapter, optimizer and rate. TRL is installed into an environment of its own under --envs, unless --python names one.

Prints medians over the rounds: pairs a second (the first --warm-up steps left out; what Tunesmith takes for the reference before
its first step is shared out over all steps, as TRL computes it in each), peak memory of the process tree, and the first and last
loss, which show that all do the same work.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from peers.configs import LORA_ALPHA, LORA_R, ROWS_A_STEP, SEED, chosen
from peers.environments import environment_python
from peers.processes import RunFailed, end_by_exception, plain_environment, run_measured
from peers.rows import row_order
from sft import peer_timeline, seconds_of
from tunesmith.features.catalog.starter import ensure_starter_model
from tunesmith.recipes.blocks.token_rows import TokenRows
from tunesmith.recipes.dpo.pairs import PairRows
from tunesmith.recipes.plans import read_machine

CONTENDERS = ("tunesmith", "trl", "trl tuned")
PEER = Path(__file__).resolve().parent / "peers" / "trl_dpo.py"
MIB = 1024**2
LEARNING_RATES = {"lora": 1e-5, "full": 1e-6}
THINGS = [
    "apples",
    "buckets",
    "candles",
    "desks",
    "envelopes",
    "forks",
    "gloves",
    "hats",
    "jars",
    "kites",
    "lamps",
    "marbles",
    "notebooks",
    "pens",
    "ropes",
    "stamps",
]


class Result(NamedTuple):
    """One run of one contender."""

    pairs_per_s: float
    peak_bytes: int
    wall_s: float
    first_loss: float
    last_loss: float


@dataclass(frozen=True)
class Work:
    """What is trained on what."""

    model: Path
    rows: Path
    """Pairs as a user has them."""
    tokens: Path
    """The same as TRL keeps them, in the order of the steps."""
    steps: int
    warm_up: int
    method: str
    bf16: bool
    cuda: bool


def write_pairs(target: Path, count: int) -> None:
    """Sums in words of unlike lengths, with a right and a wrong answer."""
    rng = random.Random(SEED)
    rows = []
    for _ in range(count):
        thing, total = rng.choice(THINGS), rng.randint(10, 90)
        asked, good, bad = [f"There are {total} {thing}."], [], []
        for _ in range(rng.randint(2, 9)):
            number = rng.randint(2, 60)
            asked.append(f"Somebody brings another {number} {thing} and puts them with the others.")
            good.append(f"Then there are {total} + {number} = {total + number} {thing}.")
            bad.append(f"Then {number} more {thing}.")
            total += number
        rows.append({"prompt": f"{' '.join(asked)} How many {thing} are there?", "chosen": " ".join([*good, f"So it is {total}."]),
                     "rejected": " ".join([*bad, f"So it is {total + rng.randint(1, 30)}."])})  # fmt: skip
    target.write_text("".join(json.dumps(row) + "\n" for row in rows))


def run_tunesmith(work: Work, folder: Path) -> Result:
    """In a home of its own, so that nothing of an earlier run is kept. Raises `RunFailed`."""
    settings = {
        "max_steps": work.steps, "save_steps": work.steps, "batch_size": ROWS_A_STEP, "gradient_accumulation_steps": 1,
        "learning_rate": LEARNING_RATES[work.method], "scheduler": "constant", "warmup_steps": 0, "weight_decay": 0.0,
        "max_grad_norm": 1.0, "max_length": 1024, "validation_split": 0.0, "save_best_model": False, "seed": SEED,
        "bf16": work.bf16, "adapter": work.method == "lora", "lora_r": LORA_R, "lora_alpha": LORA_ALPHA, "lora_dropout": 0.0,
        "comparison_questions": 0,
    }  # fmt: skip
    config = {"method": "dpo", "model": {"name": str(work.model)}, "training_data": {"path": str(work.rows)},
              "hyperparameters": settings}  # fmt: skip
    (folder / "job.yaml").write_text(json.dumps(config))
    out = folder / "out"
    command = [
        sys.executable,
        "-m",
        "tunesmith",
        "train",
        "--local",
        "--config",
        str(folder / "job.yaml"),
        "--output",
        str(out),
    ]
    measured = run_measured(command, folder, plain_environment(folder))
    lines = [json.loads(line) for line in (out / "events.jsonl").read_text().splitlines()]
    steps = [line for line in lines if line["type"] == "step"]
    phases = {
        (line["phase"], line.get("detail", "")): seconds_of(line["at"])
        for line in reversed(lines)
        if line["type"] == "phase"
    }
    begun = next(at for (phase, _), at in phases.items() if phase == "training")
    reference_s = begun - phases[("tokenizing", "reference")]
    ends, losses = [seconds_of(step["at"]) for step in steps], [step["loss"] for step in steps]
    if not work.tokens.exists():
        write_tokens(work, folder, out)
    return result(work, ends, losses, measured.peak_bytes, measured.wall_s, reference_s / work.steps)


def write_tokens(work: Work, home: Path, out: Path) -> None:
    (path,) = (home / "tunesmith" / "cache" / "tokens").glob("*.arrow")
    pairs = PairRows(TokenRows.open(path))
    digest = json.loads((out / "spec.json").read_bytes())["dataset"]["digest"]
    lines = []
    for place in row_order(len(pairs), digest):
        (good, labels), (bad, _) = (pairs.texts.row(2 * place + side) for side in (0, 1))
        begin = int((labels != -100).argmax())
        told = {"prompt_ids": good[:begin], "chosen_ids": good[begin:], "rejected_ids": bad[begin:]}
        lines.append(json.dumps({name: ids.tolist() for name, ids in told.items()}) + "\n")
    work.tokens.write_text("".join(lines))


def run_trl(work: Work, folder: Path, python: Path, *, tuned: bool) -> Result:
    """Tuned: no activations recomputed, the reference computed once (only all weights need that: an adapter is switched off)."""
    dpo: dict[str, Any] = {
        "output_dir": str(folder / "out"), "max_steps": work.steps, "per_device_train_batch_size": ROWS_A_STEP,
        "gradient_accumulation_steps": 1, "learning_rate": LEARNING_RATES[work.method], "lr_scheduler_type": "constant",
        "warmup_steps": 0, "weight_decay": 0.0, "max_grad_norm": 1.0, "bf16": work.bf16, "use_cpu": not work.cuda, "logging_steps": 1,
        "save_strategy": "no", "report_to": "none", "disable_tqdm": True, "seed": SEED, "max_length": 1024,
        "train_sampling_strategy": "sequential",
    }  # fmt: skip
    if tuned:
        dpo |= {"gradient_checkpointing": False, "precompute_ref_log_probs": True}
    dtype = "bfloat16" if tuned and work.bf16 and work.method == "lora" else "float32"
    lora = {"r": LORA_R, "lora_alpha": LORA_ALPHA, "lora_dropout": 0.0, "target_modules": "all-linear"}
    request = {"model": str(work.model), "rows": str(work.tokens), "marks": str(folder / "marks.jsonl"), "dtype": dtype,
               "dpo": dpo, "lora": lora if work.method == "lora" else None}  # fmt: skip
    (folder / "request.json").write_text(json.dumps(request))
    command = [str(python), str(PEER), str(folder / "request.json")]
    measured = run_measured(command, folder, plain_environment(folder))
    _, timeline = peer_timeline(folder / "marks.jsonl")
    return result(work, timeline.step_ended_at, timeline.losses, measured.peak_bytes, measured.wall_s, 0.0)


def result(work: Work, ends: list[float], losses: list[float], peak: int, wall_s: float, reference_s: float) -> Result:
    """`reference_s`: what the reference took, for each step."""
    left_out = min(work.warm_up, len(ends) - 1)
    a_step_s = (ends[-1] - ends[left_out - 1]) / (len(ends) - left_out) + reference_s
    return Result(ROWS_A_STEP / a_step_s, peak, wall_s, losses[0], losses[-1])


def show(found: dict[str, list[Result]]) -> None:
    def median(name: str, field: str) -> float:
        return statistics.median(getattr(one, field) for one in found[name])

    print(f"\n{'medians':12}{'pairs/s':>10}{'(least-most)':>18}{'peak MiB':>10}{'whole run s':>13}   loss first → last")
    for name, results in found.items():
        rates = [one.pairs_per_s for one in results]
        print(f"{name:12}{median(name, 'pairs_per_s'):10.2f}{f'({min(rates):.2f}-{max(rates):.2f})':>18}"
              f"{median(name, 'peak_bytes') / MIB:10.0f}{median(name, 'wall_s'):13.1f}   "
              f"{median(name, 'first_loss'):.4f} → {median(name, 'last_loss'):.4f}")  # fmt: skip
    for name in found if "tunesmith" in found else ():
        if name != "tunesmith":
            speed, memory = (
                median("tunesmith", field) / median(name, field) for field in ("pairs_per_s", "peak_bytes")
            )
            print(f"Tunesmith beside {name}: {speed:.2f} x the speed, {memory:.0%} of the memory")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--warm-up", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--method", choices=tuple(LEARNING_RATES), default="lora")
    parser.add_argument("--model", type=Path, help="folder; the starter model (SmolLM2-135M-Instruct) when absent")
    parser.add_argument("--only", default=",".join(CONTENDERS), help="contenders, with commas between")
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "tunesmith-bench")
    parser.add_argument("--python", type=Path, help="of an environment that has TRL already")
    options = parser.parse_args()
    names = chosen(options.only, CONTENDERS, parser)
    end_by_exception()
    needs_trl = any(name != "tunesmith" for name in names)
    python = (options.python and options.python.absolute()) or (
        environment_python("trl", options.envs) if needs_trl else Path(sys.executable)
    )
    model = (options.model or ensure_starter_model(options.envs / "models", print)).resolve()
    machine = read_machine()
    with tempfile.TemporaryDirectory(prefix="tunesmith-bench-") as name:
        place = Path(name)
        work = Work(model, place / "pairs.jsonl", place / "tokens.jsonl", options.steps, options.warm_up, options.method,
                    machine.fast_bf16, machine.device == "cuda")  # fmt: skip
        write_pairs(work.rows, options.steps * ROWS_A_STEP)
        print(f"dpo ({work.method}) on {model.name}, {machine.device}, {'bf16' if work.bf16 else 'fp32'} for every contender, "
              f"{os.cpu_count()} cores, {options.steps} steps of {ROWS_A_STEP} pairs", flush=True)  # fmt: skip
        found: dict[str, list[Result]] = {one: [] for one in names}
        try:
            if names[0] != "tunesmith":  # its tokens come first
                run_tunesmith(work, _folder(place, "prepare"))
            for number in range(options.rounds):
                turned = names if number == 0 else [*names[number % len(names) :], *names[: number % len(names)]]
                for contender in turned:
                    folder = _folder(place, f"{contender.replace(' ', '_')}{number}")
                    is_ours = contender == "tunesmith"
                    one = run_tunesmith(work, folder) if is_ours else (
                        run_trl(work, folder, python, tuned=contender == "trl tuned")
                    )  # fmt: skip
                    shutil.rmtree(folder)
                    found[contender].append(one)
                    print(
                        f"  round {number + 1} {contender}: {one.pairs_per_s:.2f} pairs/s, {one.peak_bytes / MIB:.0f} MiB",
                        flush=True,
                    )
        except RunFailed as error:
            sys.exit(f"A run ended with an error:\n{error}")
    show(found)


def _folder(place: Path, name: str) -> Path:
    (place / name).mkdir()
    return place / name


if __name__ == "__main__":
    main()
