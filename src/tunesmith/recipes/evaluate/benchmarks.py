"""Benchmark tasks through lm-eval, on data that is here already: what cannot run is named, with the reason."""

from __future__ import annotations

import contextlib
import os
import re
from typing import Any

from tunesmith.core.progress import moved
from tunesmith.core.recipe import RunContext
from tunesmith.recipes.blocks.scoring import wilson
from tunesmith.recipes.evaluate.journal import Steps, check_control

NOT_HERE = "its data{} is not in the cache of this machine, and the hub may not be asked"
DATASET = re.compile(r"'([\w.-]+/[\w.-]+)'|/datasets/([\w.-]+/[\w.-]+)")
"""How messages of the hub's library name what they looked for."""
LOWER = {"word_perplexity", "byte_perplexity", "bits_per_byte", "perplexity", "ter", "brier_score"}
RIGHT_OR_WRONG = {"acc", "acc_norm", "exact_match", "em", "pass_at_1"}
"""Metrics that are the share of rows that are right."""
Z = 1.959963985
"""Standard errors of a 95 % interval."""


def run_benchmarks(
    run: RunContext, model: Any, tokenizer: Any, tasks: list[str], limit: int | None, batch_size: int, seed: int,
    steps: Steps,
) -> tuple[dict[str, dict[str, Any]], list[dict[str, str]]]:  # fmt: skip
    """`(scores by "task/metric", what was skipped: {task, why})`."""
    if run.spec.offline:
        os.environ["HF_DATASETS_OFFLINE"] = "1"
    from lm_eval.models.huggingface import HFLM
    from lm_eval.tasks import TaskManager

    manager = TaskManager()
    model.register_forward_hook(lambda *_: moved())
    lm = HFLM(pretrained=model, tokenizer=tokenizer, batch_size=batch_size, backend="causal")
    scores: dict[str, dict[str, Any]] = {}
    skipped = []
    run.phase("evaluating", "benchmarks")
    for number, task in enumerate(tasks):
        check_control(run)
        steps.tell("benchmarks", steps.expected("benchmarks") * number // len(tasks))
        if task not in manager.all_tasks:
            skipped.append({"task": task, "why": "lm-eval knows no task of this name"})
            continue
        with _to_the_log():
            found, why = _one(lm, manager, task, limit, seed)
        scores |= found
        skipped += [{"task": task, "why": why}] if why else []
    steps.tell("benchmarks", steps.expected("benchmarks"))
    for each in skipped:
        run.notice(
            f"The benchmark {each['task']} was skipped: {each['why']}.", level="warning", code="benchmark_skipped"
        )
    return scores, skipped


def _one(lm: Any, manager: Any, task: str, limit: int | None, seed: int) -> tuple[dict[str, dict[str, Any]], str]:
    import lm_eval
    from datasets.exceptions import DatasetsError

    try:
        results = lm_eval.simple_evaluate(
            model=lm, tasks=[task], task_manager=manager, limit=limit, bootstrap_iters=1000, log_samples=False,
            random_seed=seed, numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed,
        )  # fmt: skip
    except (DatasetsError, ConnectionError, FileNotFoundError) as error:
        return {}, _not_here(error)
    except (OSError, ValueError, RuntimeError, ImportError, LookupError, TypeError) as error:
        offline = any(word in str(error).lower() for word in ("offline", "couldn't reach", "cannot find", "not found"))
        return {}, _not_here(error) if offline else f"lm-eval could not run it: {_first_line(error)}"
    return _scores(results or {}), ""


def _not_here(error: Exception) -> str:
    """With the name of what is missing where the message tells it, else with the message."""
    found = DATASET.search(str(error))
    return NOT_HERE.format(f", the dataset {found[1] or found[2]}," if found else f" ({_first_line(error)})")


def _scores(results: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """Each metric of each task, with the interval by Wilson where it is a share, else the one that its standard error gives."""
    found = {}
    for task, told in results.get("results", {}).items():
        samples = int(results.get("n-samples", {}).get(task, {}).get("effective", 0) or told.get("sample_len", 0) or 0)
        directions = results.get("higher_is_better", {}).get(task, {})
        for key, value in told.items():
            name, comma, kind = key.partition(",")
            if not comma or name.endswith("_stderr") or not isinstance(value, int | float):
                continue
            error = told.get(f"{name}_stderr,{kind}")
            margin = Z * error if isinstance(error, int | float) else 0.0
            low, high = float(value) - margin, float(value) + margin
            is_share = name in RIGHT_OR_WRONG and samples > 0
            if is_share:
                low, high = wilson(value * samples, samples)
            better = directions.get(name)
            shown = name if kind == "none" else f"{name} ({kind})"
            found[f"{task}/{shown}"] = {
                "unit": "share" if is_share else "", "value": float(value), "num_samples": samples, "low": low, "high": high,
                "higher_is_better": name not in LOWER if better is None else bool(better),
            }  # fmt: skip
    return found


def _first_line(error: Exception) -> str:
    return (str(error).strip().partition("\n")[0] or type(error).__name__)[:300]


@contextlib.contextmanager
def _to_the_log() -> Any:
    """lm-eval draws its progress on standard error, a line for every row."""
    before = os.environ.get("TQDM_DISABLE")
    os.environ["TQDM_DISABLE"] = "1"
    try:
        yield
    finally:
        if before is None:
            del os.environ["TQDM_DISABLE"]
        else:
            os.environ["TQDM_DISABLE"] = before
