"""What a job would be and what it would take, before anything is made."""

from __future__ import annotations

import shutil

from tunesmith.core.errors import TunesmithError
from tunesmith.core.job_spec import JobSpec
from tunesmith.features.catalog import service as catalog
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.submission import Checked, check
from tunesmith.features.jobs.tables import JobRow
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.duration import SAME, SIMILAR, Pace, duration, guessed_pace
from tunesmith.recipes.sft_plan import flop_per_token
from tunesmith.schemas.jobs import JobCreate, JobPlan, PlanCheck
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

JOBS_LOOKED_AT = 20
"""Finished jobs, newest first, that may tell how fast this machine is."""
LEAST_TRAINING_S = 1.0
"""A job that trained for less tells nothing of the machine's speed."""


def plan(settings: Settings, session: Session, body: JobCreate) -> JobPlan:
    """Raises as `submission.check`, with every problem named."""
    checked = check(settings, session, body, runs=False)
    choice = checked.choice
    estimate = dict(choice.estimate)
    if estimate:
        if "trained_weights" in estimate:  # of a network that learns from tokens; other plans give their own duration
            pace = find_pace(session, checked)
            estimate |= duration(checked.recipe, choice.params, checked.facts, estimate["total_steps"], pace)
        estimate["disk_free_bytes"] = shutil.disk_usage(settings.home).free
    found = [
        PlanCheck(code=each.code, level=each.level, message=each.message, hint=each.hint, rows=list(each.rows))  # type: ignore[arg-type]
        for each in checked.remarks
    ]
    return JobPlan(hyperparameters=choice.params, reasons=choice.reasons, estimate=estimate, checks=found)


def find_pace(session: Session, checked: Checked) -> Pace:
    """From the last job with the same model and method, else from the last one with any model, else a guess."""
    device, name = checked.facts.machine.device, checked.model.name if checked.model else None
    jobs = JobRepository(session).completed(JOBS_LOOKED_AT)
    alike = [job for job in jobs if _trained_on(job, device)]
    alike.sort(key=lambda job: (job.model == name, job.method == checked.recipe.name), reverse=True)
    for job in alike:
        if flops := _flops(job):
            same = job.model == name and job.method == checked.recipe.name
            what = "same model and method" if same else f"with {job.model}"
            return Pace(flops, SAME if same else SIMILAR, f"Based on job {job.id} ({what}).")
    return guessed_pace(device)


def _trained_on(job: JobRow, device: str) -> bool:
    if (job.metrics.get("training_s") or 0.0) < LEAST_TRAINING_S or not job.metrics.get("tokens_seen"):
        return False
    return bool(job.resources.get("num_gpus")) == (device == "cuda")


def _flops(job: JobRow) -> float | None:
    """Operations a second of a finished job; None where its model or settings can no longer be read."""
    spec = JobSpec.model_validate(job.spec)
    try:
        recipe, model = get_recipe(job.method), catalog.model_info(spec.model) if spec.model else None
    except (TunesmithError, OSError):
        return None
    if model is None:
        return None
    tokens_per_s = job.metrics["tokens_seen"] / job.metrics["training_s"]
    return float(tokens_per_s * flop_per_token(recipe, job.hyperparameters, model))
