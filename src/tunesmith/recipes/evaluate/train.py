"""An evaluation, told from the top."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from tunesmith.core.errors import FailureCode, JobFailure
from tunesmith.core.job_spec import DatasetRef
from tunesmith.core.model_kind import ModelKind
from tunesmith.core.recipe import Outcome, RunContext
from tunesmith.engine.precision import pick_device, pick_dtype, set_threads
from tunesmith.recipes.blocks import scoring
from tunesmith.recipes.blocks.loading import load_causal_lm, load_tokenizer
from tunesmith.recipes.evaluate import counting, plots, predictions
from tunesmith.recipes.evaluate.answering import answer_all, answer_limit, measure_likelihood, time_alone
from tunesmith.recipes.evaluate.benchmarks import run_benchmarks
from tunesmith.recipes.evaluate.journal import Halted, Journal, Steps
from tunesmith.recipes.evaluate.judge import judge_all
from tunesmith.recipes.evaluate.rows import Material, load_material
from tunesmith.recipes.evaluate.spec import EvaluateParams

WORK = "evaluation"
"""Folder of the journals while the job is at work."""
NO_BENCHMARK = "Fetch what is missing while the server may go online, or give a dataset of your own to measure on."
BENCHMARK_ROWS = 1000
"""Steps that a benchmark counts whose rows are not limited."""


def train(params: EvaluateParams, run: RunContext) -> str:
    """Measure the model and leave `artifacts/evaluation/`. Returns an `Outcome`; raises `JobFailure`."""
    if not run.is_main:
        return Outcome.COMPLETED
    set_threads(run.spec.resources.cpu_threads)
    if run.model_kind and "predict" in run.model_kind.engines:
        return measure_predictions(run, params, run.model_kind)
    # 1) The model, as it would be used
    device = pick_device()
    base = run.spec.model
    assert base is not None  # the service refuses a job without one
    tokenizer = load_tokenizer(base.path, revision=base.revision, offline=run.spec.offline, adapter=base.adapter_path)
    bf16 = (
        False if params.bf16 is None and device.type == "cpu" else params.bf16
    )  # a score is no matter of the processor
    dtype = pick_dtype(device, bf16, fp16=False)
    model = load_causal_lm(base, dtype=dtype, device=device, offline=run.spec.offline)
    model.eval()
    told: dict[str, Any] = {"model": base.name, "dataset": None, "scores": {}, "skipped": [], "seed": params.seed}
    told["computed_in"] = str(dtype).removeprefix("torch.")
    samples: list[dict[str, Any]] = []
    first_token_s: list[float] = []
    steps = Steps(run)
    steps.expect(benchmarks=len(params.benchmarks) * (params.benchmark_limit or BENCHMARK_ROWS))
    # 2) Its likelihood and answers on rows of the data
    try:
        if run.spec.dataset is not None:
            material = load_material(run, run.spec.dataset, params, tokenizer)
            samples, first_token_s = measure(run, params, model, tokenizer, material, told, steps)
            told["dataset"] = about(run.spec.dataset, params, material)
        # 3) Benchmarks, on data of their own
        if params.benchmarks:
            found, told["skipped"] = run_benchmarks(
                run, model, tokenizer, params.benchmarks, params.benchmark_limit, params.batch_size, params.seed, steps
            )
            told["scores"] |= found
            check_measured(told)
    except Halted as halted:
        return halted.outcome
    # 4) What is left behind
    run.phase("saving", "evaluation")
    leave(run, told, samples, first_token_s)
    run.metrics({name: score["value"] for name, score in told["scores"].items() if score["value"] is not None})
    shutil.rmtree(run.dir.path / WORK, ignore_errors=True)
    return Outcome.COMPLETED


def measure_predictions(run: RunContext, params: EvaluateParams, kind: ModelKind) -> str:
    """The same of a model that does not chat: what it predicts is compared with what the data says."""
    assert run.spec.model is not None  # the service refuses a job without one
    told: dict[str, Any] = {"model": run.spec.model.name, "scores": {}, "skipped": [], "seed": params.seed}
    try:
        samples = predictions.measure(run, params, kind, told, Steps(run))
    except Halted as halted:
        return halted.outcome
    run.phase("saving", "evaluation")
    leave(run, told, samples, [])
    run.metrics({name: score["value"] for name, score in told["scores"].items() if score["value"] is not None})
    shutil.rmtree(run.dir.path / WORK, ignore_errors=True)
    return Outcome.COMPLETED


def check_measured(told: dict[str, Any]) -> None:
    """Raises `JobFailure` when there were benchmarks alone and none of them could run."""
    if not told["scores"]:
        why = "; ".join(f"{each['task']}: {each['why']}" for each in told["skipped"])
        raise JobFailure(FailureCode.UNSUPPORTED, f"No benchmark could be run. {why}.", hint=NO_BENCHMARK)


def measure(
    run: RunContext, params: EvaluateParams, model: Any, tokenizer: Any, material: Material, told: dict[str, Any],
    steps: Steps,
) -> tuple[list[dict[str, Any]], list[float]]:  # fmt: skip
    """Fill in `told`; the samples, and the times to the first token. Raises `Halted`."""
    folder = run.dir.path / WORK
    found = counting.plan(params.metrics, material.expected)
    told |= {"metrics": list(found.metrics), "reason": found.reason}
    likely, answers = Journal(folder / "likelihood.jsonl"), Journal(folder / "answers.jsonl")
    questions = material.questions if set(found.metrics) - {"perplexity"} else []
    timed = questions[: params.latency_prompts] if "latency" in found.metrics else []
    steps.expect(
        likelihood=len(material.places) if "perplexity" in found.metrics else 0,
        answers=len(questions),
        latency=len(timed),
        judge=len(questions) if params.judge.base_url else 0,
    )
    if "perplexity" in found.metrics:
        measure_likelihood(run, model, material.rows, material.places, params.batch_size, likely, steps)
    answer_all(run, model, tokenizer, questions, params.max_new_tokens, params.batch_size, answers, steps)
    times: list[float] = []
    if timed:
        alone = time_alone(run, model, tokenizer, timed, answer_limit(questions, params.max_new_tokens), steps)
        times = [first_s for first_s, _, _ in alone]
        told["latency"] = {
            "first_token_s": times,
            "seconds": [s for _, s, _ in alone],
            "tokens": [n for _, _, n in alone],
        }
    judged = Journal(folder / "judged.jsonl")
    if params.judge.base_url and questions:
        judge_all(run, params.judge, questions, answers.entries, judged, steps)
    samples = joined(found, material, likely, answers, judged)
    told["scores"] |= counting.all_scores(found, samples, params.seed)
    told["scores"] |= _extra(samples, times, judged, params.seed)
    told |= counting.per_class(found, samples) if "classification" in found.metrics else {}
    if params.judge.base_url:
        failed = sum("failed" in entry for entry in judged.entries.values())
        told["judge"] = {"model": params.judge.model, "criteria": params.judge.criteria, "failed": failed}
        if failed:
            run.notice(f"The judge gave no number for {failed} of {len(judged.entries)} answers.", level="warning")
    return samples, times


def _extra(samples: list[dict[str, Any]], times: list[float], judged: Journal, seed: int) -> dict[str, Any]:
    """Scores of the judge and of the clock."""
    scores: dict[str, Any] = {}
    marks = [sample["stats"]["judge"] for sample in samples if "judge" in sample["stats"]]
    if marks and judged.entries:
        scores["judge"] = scoring.score("judge", marks, seed).as_json()
    for name, share in scoring.QUANTILES.items() if times else ():
        scores[name] = scoring.quantile(times, share, seed).as_json()
    return scores


def joined(
    found: counting.Plan, material: Material, likely: Journal, answers: Journal, judged: Journal
) -> list[dict[str, Any]]:
    """All that is known of each row, in the order of the data."""
    samples: dict[int, dict[str, Any]] = {}
    for question in material.questions:
        if entry := answers.entries.get(question.row):
            samples[question.row] = counting.sample(found, question, entry)
    for row, entry in likely.entries.items():
        samples.setdefault(row, {"row": row, "stats": {}})["stats"]["likelihood"] = entry["likelihood"]
    for row, entry in judged.entries.items():
        if row in samples and "judged" in entry:
            samples[row]["stats"]["judge"] = [entry["judged"]]
            samples[row]["judge"] = {"score": entry["judged"], "words": entry["words"]}
    return [samples[row] for row in sorted(samples)]


def about(data: DatasetRef, params: EvaluateParams, material: Material) -> dict[str, Any]:
    """Which rows of which data."""
    return {
        "name": data.name,
        "digest": data.digest,
        "shape": data.shape,
        "held_out_by": params.held_out.job_id or None,
        "num_rows": len(material.places),
        "num_prompts": len(material.questions),
        "max_length": material.max_length,
    }


def leave(run: RunContext, told: dict[str, Any], samples: list[dict[str, Any]], first_token_s: list[float]) -> None:
    """Scores, samples and pictures."""
    with run.artifact("evaluation") as folder:
        told["samples_file"] = "samples.jsonl"
        with Path(folder, "samples.jsonl").open("w") as file:
            file.writelines(json.dumps(sample, ensure_ascii=False) + "\n" for sample in samples)
        told["plots"] = plots.draw_all(folder, told, first_token_s)
        (folder / "scores.json").write_text(json.dumps(told, indent=1, ensure_ascii=False))
