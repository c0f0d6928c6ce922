"""Text classification: Tunesmith's recipe beside `transformers.Trainer`, and how good a full run becomes.

    python bench/classify.py --data FOLDER --model FOLDER [--steps 40] [--rounds 3] [--dtype float32] [--threads 2]
    python bench/classify.py --data FOLDER --model FOLDER --full

FOLDER of the data holds train.csv and test.csv with columns `text` and `category` (banking77); that of the model an encoder.

Without --full: both train on the same rows with the same batch size, learning rate, schedule, number format and threads, by turns
and each in a process of its own, the order turned by one every round; the peer with its own defaults besides (dynamic padding
of each batch). Prints medians of rows a second in the steady state, the first --warm-up steps left out, and their ratio, and the same by processor time,
which other programs on the machine disturb less. Ours is
without the training of the head beforehand, and both without evaluations and checkpoints in between.

With --full: one run with the settings that the plan chooses, measured on test.csv: accuracy, wall time and processor time.
"""

from __future__ import annotations

import argparse
import csv
import hashlib
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

CONTENDERS = ("tunesmith", "transformers")
MAPPING = {"text": "text", "label": "category"}


Moment = tuple[float, float]
"""Wall time and processor time of the process, seconds."""


def now() -> Moment:
    return time.time(), time.process_time()


def read_csv(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def make_run(options: argparse.Namespace, folder: Path, params: dict[str, Any], *, with_test: bool) -> Any:
    """A job directory of the recipe, and the run in it."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tunesmith.core.job_dir import JobDir, write_atomic
    from tunesmith.core.job_spec import JobSpec, Launch
    from tunesmith.worker.run import Run
    from tunesmith.worker.stopping import StopSignals

    refs = {}
    for name in ("train", "test"):
        rows = read_csv(options.data / f"{name}.csv")
        pq.write_table(pa.Table.from_pylist(rows), folder / f"{name}.parquet")
        refs[name] = {
            "name": name, "path": str(folder / f"{name}.parquet"), "digest": hashlib.sha256(repr(rows).encode()).hexdigest(),
            "shape": "text_label", "mapping": MAPPING, "num_rows": len(rows),
        }  # fmt: skip
    spec = JobSpec.model_validate({
        "job_id": 1, "name": "bench", "recipe": "text-classification", "params": params,
        "model": {"name": options.model.name, "path": str(options.model)}, "dataset": refs["train"],
        "eval_dataset": refs["test"] if with_test else None, "cache_dir": str(folder / "cache"), "offline": True,
        "resources": {"cpu_threads": options.threads},
    })  # fmt: skip
    job_dir = JobDir(folder)
    write_atomic(folder / "spec.json", spec)
    write_atomic(job_dir.launch, Launch(attempt=1))
    run = Run(job_dir, spec, 1, StopSignals())
    run.start()
    return run


def train_tunesmith(options: argparse.Namespace, folder: Path) -> list[Moment]:
    """When each step ended."""
    from tunesmith.recipes.text_classification.spec import TextClassificationParams
    from tunesmith.recipes.text_classification.train import train

    params = TextClassificationParams(
        learning_rate=options.learning_rate, batch_size=options.batch_size, max_steps=options.steps, weight_decay=0.0,
        warmup_steps=0, validation_split=0.0, save_steps=options.steps, eval_steps=options.steps, head_epochs=0,
        max_length=128, find_label_errors=False, bf16=options.dtype == "bfloat16", seed=options.seed,
    )  # fmt: skip
    ends: list[Moment] = []
    run = make_run(options, folder, params.model_dump(mode="json"), with_test=False)
    run.observe(lambda event: ends.append(now()) if event.type == "step" else None)
    train(params, run)
    return ends


def train_transformers(options: argparse.Namespace, folder: Path) -> list[Moment]:
    """The same of the peer."""
    here = Path(__file__).resolve().parent
    sys.path[:] = [path for path in sys.path if Path(path).resolve() != here]  # its datasets.py is not the library
    import torch
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        DataCollatorWithPadding,
        Trainer,
        TrainerCallback,
        TrainingArguments,
    )

    torch.set_num_threads(options.threads)
    rows = read_csv(options.data / "train.csv")
    names = sorted({row["category"] for row in rows})
    tokenizer = AutoTokenizer.from_pretrained(options.model)
    ids = tokenizer([row["text"] for row in rows], truncation=True, max_length=128)["input_ids"]
    data = [
        {"input_ids": each, "attention_mask": [1] * len(each), "labels": names.index(row["category"])}
        for each, row in zip(ids, rows, strict=True)
    ]
    model = AutoModelForSequenceClassification.from_pretrained(
        options.model, num_labels=len(names), dtype=torch.float32
    )
    ends: list[Moment] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *_: Any, **__: Any) -> None:
            ends.append(now())

    arguments = TrainingArguments(
        output_dir=str(folder), per_device_train_batch_size=options.batch_size, max_steps=options.steps,
        learning_rate=options.learning_rate, lr_scheduler_type="linear", save_strategy="no", logging_steps=1, report_to=[],
        disable_tqdm=True, bf16=options.dtype == "bfloat16", use_cpu=not torch.cuda.is_available(), seed=options.seed,
    )  # fmt: skip
    Trainer(
        model=model,
        args=arguments,
        train_dataset=data,
        data_collator=DataCollatorWithPadding(tokenizer),
        callbacks=[Clock()],
    ).train()
    return ends


def full_run(options: argparse.Namespace, folder: Path) -> dict[str, float]:
    """Scores on test.csv of a run that the plan chose."""
    import os

    from tunesmith.core.job_spec import DatasetRef
    from tunesmith.recipes.model_info import read_model_info
    from tunesmith.recipes.plans import Facts, Lengths, plan, read_machine
    from tunesmith.recipes.text_classification.spec import RECIPE, TextClassificationParams
    from tunesmith.recipes.text_classification.train import train

    rows = read_csv(options.data / "train.csv")
    characters = sorted(len(row["text"]) for row in rows)
    lengths = Lengths(*(characters[int(share * (len(rows) - 1))] // 4 + 2 for share in (0.5, 0.99, 1.0)))
    given: dict[str, Any] = {"seed": options.seed, **json.loads(options.settings)}
    probe = make_run(options, folder, {}, with_test=True)
    data: DatasetRef = probe.spec.dataset
    facts = Facts(
        machine=read_machine(), model=read_model_info(options.model), num_rows=len(rows), lengths=lengths, has_eval_dataset=True,
        num_file_rows=len(rows), num_eval_rows=len(read_csv(options.data / "test.csv")), dataset=data,
    )  # fmt: skip
    params = TextClassificationParams.model_validate(plan(RECIPE, given, facts).params)
    run = make_run(options, folder, params.model_dump(mode="json"), with_test=True)
    began_s = time.monotonic()
    train(params, run)
    spent = resource.getrusage(resource.RUSAGE_SELF)
    more = {"wall_s": time.monotonic() - began_s, "processor_s": spent.ru_utime + spent.ru_stime}
    return {**run.final_metrics, **more, "load_average": os.getloadavg()[0]}


def measured(options: argparse.Namespace, contender: str) -> Moment:
    """Rows a second, and rows a second of processor time, of one run in a process of its own."""
    command = [sys.executable, __file__, *sys.argv[1:], "--contender", contender]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(done.stderr[-3000:])
    ends: list[Moment] = json.loads(done.stdout.strip().rpartition("\n")[2])
    left_out = min(options.warm_up, len(ends) - 2)
    rows = (len(ends) - 1 - left_out) * options.batch_size
    wall_s, processor_s = (last - first for first, last in zip(ends[left_out], ends[-1], strict=True))
    return rows / wall_s, rows / processor_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warm-up", type=int, default=5)
    parser.add_argument("--batch-size", type=int, default=32)
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=42)
    parser.add_argument("--full", action="store_true")
    parser.add_argument(
        "--settings", default="{}", help="With --full: settings as JSON instead of those that the plan chooses"
    )
    parser.add_argument("--contender", choices=CONTENDERS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        if options.contender:
            train = train_tunesmith if options.contender == "tunesmith" else train_transformers
            print("\n" + json.dumps(train(options, Path(place))))
            return
        if options.full:
            print(json.dumps(full_run(options, Path(place)), indent=1))
            return
    found: dict[str, list[Moment]] = {name: [] for name in CONTENDERS}
    for number in range(options.rounds):
        for name in CONTENDERS[number % 2 :] + CONTENDERS[: number % 2]:
            found[name].append(measured(options, name))
            wall, processor = found[name][-1]
            print(
                f"round {number + 1}: {name} {wall:.1f} rows/s, {processor:.1f} rows per processor second", flush=True
            )
    for place, unit in enumerate(("rows/s", "rows per processor second")):
        ours, theirs = (statistics.median(each[place] for each in found[name]) for name in CONTENDERS)
        print(f"median {unit}: tunesmith {ours:.1f}, transformers.Trainer {theirs:.1f}, ratio {ours / theirs:.2f}")


if __name__ == "__main__":
    main()
