"""The answers of the base and the tuned model that a job has left."""

from __future__ import annotations

from tunesmith.core.job_dir import JobDir, read_model
from tunesmith.core.job_status import JobStatus
from tunesmith.recipes.catalog import get_recipe
from tunesmith.schemas.before_after import BeforeAfter
from tunesmith.schemas.jobs import JobRead

FILE = "before_after/before_after.json"
"""Among the artifacts; written by `recipes/blocks/before_after.py`."""


def read(folder: JobDir, job: JobRead) -> BeforeAfter:
    """What was compared, or why nothing was."""
    found = read_model(folder.artifacts / FILE, BeforeAfter)
    if found is not None:
        return found
    recipe = get_recipe(job.method)
    if "comparison_questions" not in recipe.params.model_fields:
        return BeforeAfter(reason="Only the training of a language model compares answers before and after.")
    if job.status == JobStatus.COMPLETED:
        return BeforeAfter(
            reason="This job compared no answers.",
            hint="Evaluate its model, or open it beside its base in the playground.",
        )
    return BeforeAfter(reason="Answers are compared when the training is complete.")
