"""What a compression can make of a model, and what one has made: sizes, quality, speed, and the version of each format."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from tunesmith.features.catalog import service as catalog
from tunesmith.features.jobs import files
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.registry import service as registry
from tunesmith.features.registry.tables import VersionRow
from tunesmith.recipes.compress.spec import ABOUT, CompressParams, why_not
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

USUAL = ("q8_0", "q6_k", "q5_k_m", "q4_k_m", "merged", "torchao_int8")
OWN_TEXT = "a text that comes with Tunesmith"


class FormatChoice(NamedTuple):
    """A format that may be asked for."""

    name: str
    sentence: str
    size_bytes: int | None
    """Expected; None where the number of weights is not known."""
    why_not: str
    is_usual: bool
    is_default: bool


class Made(NamedTuple):
    """A format that a compression has made."""

    name: str
    sentence: str
    size_bytes: int
    perplexity: float | None
    ratio: float | None
    """Of its perplexity to the source's."""
    tokens_per_s: float | None
    same_answer: bool | None
    ref: str
    """The registered version; empty where there is none."""


class Results(NamedTuple):
    """A finished compression."""

    source: dict[str, Any]
    formats: list[Made]
    failed: list[dict[str, str]]
    measured_on: str
    """`4,078 tokens of support`"""


def choices(settings: Settings, row: VersionRow) -> list[FormatChoice]:
    """Every format of the recipe, for one version."""
    info = catalog.root_info(settings, row.base_model) if row.kind == "adapter" and row.base_model else None
    whole_bytes = info.size_bytes if info else row.size_bytes if row.kind == "model" else None
    weights = info.num_parameters if info else row.num_parameters if row.kind == "model" else None
    defaults = CompressParams.model_fields["formats"].default
    return [
        FormatChoice(
            name, sentence, whole_bytes if name == "merged" else int(weights * bits / 8) if weights else None, why_not(name), name in USUAL, name in defaults
        )
        for name, (bits, sentence) in ABOUT.items()
    ]  # fmt: skip


def results(settings: Settings, session: Session, job: JobRow) -> Results | None:
    """What a job has left; None where it has not come so far."""
    try:
        told = json.loads((files.job_dir(settings, job.id).artifacts / "compressed" / "report.json").read_bytes())
    except (OSError, ValueError):
        return None
    versions = {row.lineage.get("format"): f"{row.name}@{row.version}" for row in registry.all_of_job(session, job.id)}
    made = [
        Made(
            entry["format"], ABOUT.get(entry["format"], (0, ""))[1], entry["size_bytes"], entry["perplexity"],
            entry["perplexity_ratio"], entry["tokens_per_s"], entry.get("same_greedy_answer"), versions.get(entry["format"], ""),
        )
        for entry in told["formats"]
    ]  # fmt: skip
    dataset = (job.spec.get("dataset") or {}).get("name")
    count = next((entry["num_tokens"] for entry in told["formats"] if entry.get("num_tokens")), 0)
    measured_on = f"{count:,} tokens of {dataset or OWN_TEXT}" if count else ""
    return Results(told["source"], made, told.get("failed", []), measured_on)
