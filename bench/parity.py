"""Does Tunesmith learn what TRL and plain transformers learn? The same rows from the same first adapter, step by step.

    python bench/parity.py --rows gsm8k/train.jsonl [--steps 200] [--rows-a-step 2] [--bf16] [--held-out 200] [--answers 200]

Three runs: Tunesmith as users start it, TRL's SFTTrainer, and a plain loop over transformers and PEFT. All begin with the
adapter that Tunesmith's seed gives, take the same rows in the same order at a constant rate, and say the loss of every step.
Then plain transformers scores the three adapters on rows that none of them has seen: loss and token accuracy, and with
--answers the share of greedy answers whose number is right (GSM8K's `#### number`).

Prints how far the losses of each step are apart (largest, median), the scores, and how far the adapters' weights are apart.
"""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import load_file

from peers.configs import SEED, Work, trl_request, tunesmith_config
from peers.environments import environment_python
from peers.processes import end_by_exception, plain_environment, run_measured
from peers.rows import read_tokens, write_tokens
from peers.scores import Scores, score_adapter
from sft import PEERS, peer_timeline, tunesmith_timeline
from tunesmith.features.catalog.starter import ensure_starter_model

NEXT_TO_NOTHING = 1e-12
"""A learning rate that leaves an adapter as it was made."""


class Parity:
    """Runs of one piece of work in `place`."""

    def __init__(self, work: Work, rows_a_step: int, place: Path, trl: Path) -> None:
        self.work, self.rows_a_step, self.place, self.trl = work, rows_a_step, place, trl
        self.environment = plain_environment(place)

    def tunesmith(self, name: str, **settings: Any) -> tuple[list[float], Path]:
        """The loss of each step, and the adapter's folder."""
        folder = self.place / f"run-{name}"
        folder.mkdir()
        config = tunesmith_config(self.work)
        config["hyperparameters"] |= {"batch_size": self.rows_a_step, **settings}
        (folder / "job.yaml").write_text(json.dumps(config))
        out = folder / "out"
        command = [sys.executable, "-m", "tunesmith", "train", "--local"]
        run_measured([*command, "--config", str(folder / "job.yaml"), "--output", str(out)], folder, self.environment)
        timeline, _ = tunesmith_timeline(out / "events.jsonl")
        return timeline.losses, out / "artifacts" / "lora_model"

    def peer(self, name: str, python: Path, script: str, adapter: Path) -> tuple[list[float], Path]:
        """The same of a peer that begins with `adapter`."""
        folder = self.place / f"run-{name}"
        folder.mkdir()
        out, marks = folder / "out", folder / "marks.jsonl"
        request = trl_request(self.work, out, marks, None) | {"adapter": str(adapter)}
        request["sft"] |= {
            "per_device_train_batch_size": self.rows_a_step,
            "gradient_checkpointing": False,
            "model_init_kwargs": {"dtype": "bfloat16" if self.work.bf16 else "float32"},
        }
        (folder / "request.json").write_text(json.dumps(request))
        run_measured([str(python), str(PEERS / script), str(folder / "request.json")], folder, self.environment)
        return peer_timeline(marks)[1].losses, out


def split(source: Path, num_train: int, num_held_out: int, target: Path) -> list[dict[str, str]]:
    """Write `num_train` rows to `target` and return the held-out ones."""
    rows = [json.loads(line) for line in source.read_text(encoding="utf-8").splitlines()]
    if len(rows) < num_train + num_held_out:
        sys.exit(f"{source} has {len(rows)} rows and {num_train + num_held_out} are needed.")
    chosen = random.Random(SEED).sample(rows, num_train + num_held_out)
    kept = [{key: row[key] for key in ("question", "answer")} for row in chosen]
    target.write_text("".join(json.dumps(row) + "\n" for row in kept[:num_train]), encoding="utf-8")
    return kept[num_train:]


def weights_apart(a: Path, b: Path) -> float:
    """Norm of the difference of two adapters over the norm of the first."""
    one, other = (load_file(path / "adapter_model.safetensors") for path in (a, b))
    difference = sum(float((one[name].float() - other[name].float()).square().sum()) for name in one)
    return float((difference / sum(float(weight.float().square().sum()) for weight in one.values())) ** 0.5)


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=Path, required=True, help="JSON lines with question and answer, such as GSM8K's")
    parser.add_argument("--steps", type=int, default=200)
    parser.add_argument("--rows-a-step", type=int, default=2)
    parser.add_argument("--held-out", type=int, default=200, help="rows that the adapters are scored on; 0 for none")
    parser.add_argument("--answers", type=int, default=0, help="of these, how many are answered; slow")
    parser.add_argument("--bf16", action="store_true", help="compute in bf16; slow where the CPU has no bf16 products")
    parser.add_argument("--model", type=Path, help="folder; the starter model (SmolLM2-135M-Instruct) when absent")
    parser.add_argument("--envs", type=Path, default=Path.home() / ".cache" / "tunesmith-bench")
    return parser.parse_args()


def main() -> None:
    options = parse()
    end_by_exception()
    trl = environment_python("trl", options.envs)
    model = (options.model or ensure_starter_model(options.envs / "models", print)).resolve()
    with tempfile.TemporaryDirectory(prefix="tunesmith-parity-") as name:
        place = Path(name)
        work = Work(
            model=model, rows=place / "tokens.jsonl", llamafactory_rows=place / "unused", raw_rows=place / "rows.jsonl",
            steps=options.steps, method="lora", bf16=options.bf16, cuda=torch.cuda.is_available(),
        )  # fmt: skip
        held_out = split(options.rows, options.steps * options.rows_a_step, options.held_out, work.raw_rows)
        parity = Parity(work, options.rows_a_step, place, trl)
        _, first = parity.tunesmith("first", max_steps=1, learning_rate=NEXT_TO_NOTHING)
        rows = read_tokens(Path(parity.environment["TUNESMITH_HOME"]), place / "run-first" / "out")
        write_tokens(rows, work.rows)
        print(
            f"{model.name}, {'bf16' if work.bf16 else 'fp32'}, {options.steps} steps of {options.rows_a_step} rows",
            flush=True,
        )
        runs = {"tunesmith": parity.tunesmith("tunesmith")}
        runs["trl"] = parity.peer("trl", trl, "trl_sft.py", first)
        runs["plain"] = parity.peer("plain", Path(sys.executable), "plain_sft.py", first)
        tell_losses({name: losses for name, (losses, _) in runs.items()})
        for name, (_, adapter) in runs.items():
            print(
                f"{name:10} adapter apart from Tunesmith's by {weights_apart(runs['tunesmith'][1], adapter):.1e} of its norm"
            )
        if held_out:
            folders = {"first": first, **{name: adapter for name, (_, adapter) in runs.items()}}
            tell_scores(
                {name: score_adapter(model, folder, held_out, options.answers) for name, folder in folders.items()}
            )


def tell_losses(losses: dict[str, list[float]]) -> None:
    """Every two runs beside each other."""
    names = list(losses)
    for at, one in enumerate(names):
        for other in names[at + 1 :]:
            apart = np.abs(np.array(losses[one]) - np.array(losses[other])) / np.array(losses[one])
            print(
                f"{one} and {other}: losses of {len(apart)} steps apart by {apart.max():.1e} of their size at most, "
                f"{statistics.median(apart.tolist()):.1e} in the median; the last {losses[one][-1]:.6f} and {losses[other][-1]:.6f}",
                flush=True,
            )


def tell_scores(scores: dict[str, Scores]) -> None:
    print(
        f"\nheld-out rows    loss (nats a token)  token accuracy  right answers   ({next(iter(scores.values())).num_rows} rows)"
    )
    for name, score in scores.items():
        answers = f"{score.right} of {score.answered}" if score.answered else "-"
        print(f"{name:14}  {score.loss:20.6f}  {score.accuracy:14.4f}  {answers:>13}")


if __name__ == "__main__":
    main()
