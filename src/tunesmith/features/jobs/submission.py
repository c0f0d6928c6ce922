"""From a request to a job: everything is checked before anything is saved, and all problems are named at once."""

from __future__ import annotations

import re
import unicodedata
import uuid
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import ValidationError

from tunesmith.core.clock import utc_now
from tunesmith.core.devices import read_gpus
from tunesmith.core.errors import InvalidInput, TunesmithError
from tunesmith.core.job_spec import DatasetRef, JobSpec, ModelRef, ResourceRequest
from tunesmith.core.job_status import JobStatus
from tunesmith.core.recipe import Recipe
from tunesmith.core.validation import message_of
from tunesmith.core.words import plural
from tunesmith.features.catalog import existence
from tunesmith.features.catalog import service as catalog
from tunesmith.features.jobs import held_out, inspection, permission, quotas
from tunesmith.features.jobs.lifecycle import Lifecycle
from tunesmith.features.jobs.repository import JobRepository
from tunesmith.features.jobs.tables import JobRow
from tunesmith.features.jobs.training_data import TrainingData, find_data
from tunesmith.live.bus import Bus
from tunesmith.recipes.catalog import RECIPES, get_recipe, kind_of_ref
from tunesmith.recipes.checking import check_params
from tunesmith.recipes.plans import Facts, Plan, read_machine
from tunesmith.recipes.plans import plan as plan_of
from tunesmith.recipes.row_check import SKIP_REMEDY, Remark, RowFacts, checks, rated_problem, skipped
from tunesmith.schemas.jobs import FollowUp, JobClone, JobCreate
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

PRIORITIES = {"low": 0, "normal": 1, "high": 2}
MAX_OUTPUT_NAME = 80


class Checked(NamedTuple):
    """A request that can become a job."""

    recipe: Recipe
    model: ModelRef | None
    data: TrainingData | None
    eval_data: TrainingData | None
    choice: Plan
    resources: ResourceRequest
    facts: Facts
    """What the choice rests on."""
    body: JobCreate
    """The request, with the rows that an evaluation runs on."""
    remarks: Sequence[Remark] = ()
    """What becomes of the rows."""


class Problems:
    """Collects what is wrong with a request, so that all of it is named at once."""

    def __init__(self) -> None:
        self.details: list[dict[str, Any]] = []
        self.hints: list[str] = []

    def add(self, loc: str, message: str, hint: str = "", **more: Any) -> None:
        """`more`: what a program may want to know of it."""
        self.details.append({"loc": loc, "message": message, **more})
        self.hints += [hint] if hint else []

    def add_error(self, loc: str, error: TunesmithError) -> None:
        """Details whose place is not told get `loc`."""
        self.details += [d for d in error.details if d.get("loc")] or [{"loc": loc, "message": error.message}]
        self.hints += [error.hint] if error.hint else []

    def raise_any(self) -> None:
        if self.details:
            places = ", ".join(dict.fromkeys(d["loc"] for d in self.details[:5]))
            hint = " ".join(dict.fromkeys(self.hints[:3])) or "Each problem is named with its place."
            raise InvalidInput(
                f"{plural(len(self.details), 'value')} cannot be used: {places}.", hint=hint, details=self.details
            )


def check(settings: Settings, session: Session, body: JobCreate, *, runs: bool = True) -> Checked:
    """Raises `InvalidInput` with every problem of `body`, or `PermissionDenied` for a method that is not allowed. `runs` says
    whether a job is to come of it."""
    recipe = get_recipe(body.method)
    permission.check_request(settings, recipe, runs=runs)
    problems = Problems()
    problems.details += _follow_up_problems(body.follow_up, body.method)
    try:
        body = held_out.complete(settings, session, body)
    except TunesmithError as error:
        problems.add_error("dataset_id", error)
    if why := recipe.unavailable_reason():
        problems.add("method", why, "Choose the method that the message names.")
    model = _model(settings, session, recipe, body, problems)
    data = _data(settings, session, recipe, body.dataset_id, body.dataset_version, "dataset_id", problems)
    eval_data = None
    if body.eval_dataset_id is not None:
        eval_data = _data(settings, session, recipe, body.eval_dataset_id, None, "eval_dataset_id", problems)
    resources = _resources(settings, body, problems)
    if body.after_job_id is not None and not JobRepository(session).statuses([body.after_job_id]):
        problems.add("after_job_id", f"there is no job {body.after_job_id}")
    rows = inspection.known(settings, recipe, model, data.ref if data else None, body.hyperparameters)
    facts = Facts(
        machine=read_machine(),
        model=_info(model, problems),
        num_rows=_num_usable(data, rows, body.hyperparameters) if data else 0,
        lengths=(rows and rows.row_lengths()) or (data.lengths if data else None),
        has_eval_dataset=eval_data is not None,
        num_held_out=data.ref.num_held_out if data else 0,
        num_file_rows=data.ref.num_rows if data else 0,
        num_eval_rows=eval_data.ref.num_rows if eval_data else 0,
        kind=kind_of_ref(model) if model else None,
        dataset=data.ref if data else None,
    )
    choice = Plan({}, {}, {})
    try:
        choice = plan_of(recipe, body.hyperparameters, facts, auto=body.auto)
    except InvalidInput as error:
        problems.add_error("hyperparameters", error)
    remarks = _row_problems(recipe, data, rows, choice, problems)
    given = {**body.hyperparameters, **choice.params}
    for loc, each, facts_of_it in (("dataset_id", data, rows), ("eval_dataset_id", eval_data, None)):
        if each:
            remarks = [*_bad_rows(loc, recipe, each, facts_of_it, given, problems), *remarks]
    problems.raise_any()
    return Checked(recipe, model, data, eval_data, choice, resources, facts, body, remarks)


def _row_problems(
    recipe: Recipe, data: TrainingData | None, rows: RowFacts | None, choice: Plan, problems: Problems
) -> list[Remark]:
    """What the model makes of the rows; what goes too far is added to `problems`."""
    if data and (rated := rated_problem(data.ref.shape, choice.params, recipe.name)):
        problems.add("dataset_id", *rated)
    found = checks(rows, choice.params) if rows and choice.params else []
    for remark in found:
        if remark.is_refused:
            problems.add(
                "dataset_id",
                remark.message,
                remark.hint,
                code=remark.code,
                rows=list(remark.rows[:100]),
                count=remark.total or len(remark.rows),
            )
    return [remark for remark in found if not remark.is_refused]


def _num_usable(data: TrainingData, rows: RowFacts | None, given: Mapping[str, Any]) -> int:
    """Rows that the job learns from, as far as is known before it starts."""
    if given.get("skip_bad_rows") is not True:
        return data.ref.num_rows
    bad = (data.bad.count if data.bad else 0) + (rows.num_refused if rows and rows.is_whole else 0)
    return max(1, data.ref.num_rows - bad)


def _bad_rows(
    loc: str, recipe: Recipe, data: TrainingData, rows: RowFacts | None, given: Mapping[str, Any], problems: Problems
) -> list[Remark]:
    """What the job says of rows that it skips; where it is not to skip them they are added to `problems`."""
    held_out = given.get("held_out")
    chosen_by_job = isinstance(held_out, dict) and held_out.get("job_id")  # that job has been checked
    if "skip_bad_rows" not in recipe.params.model_fields or chosen_by_job:
        return []
    bad, name = data.bad, data.ref.name
    if given.get("skip_bad_rows") is not True:
        if bad:
            problems.add(
                loc, bad.problem(name), SKIP_REMEDY, code="bad_rows", count=bad.count, rows=list(bad.rows[:100])
            )
        return []
    if bad and bad.count >= data.ref.num_rows:
        problems.add(
            loc, f"No row of {name} can be used for training. {bad.why}", "Fix the dataset, or map its columns."
        )
    return skipped(bad, rows, name)


def create(settings: Settings, session: Session, bus: Bus, body: JobCreate, *, batch_id: str | None = None) -> JobRow:
    """A saved job, waiting for its turn unless it is to be started by hand."""
    checked = check(settings, session, body)
    asked, body = body, checked.body
    name = body.name or _default_name(checked)
    row = JobRow(
        name=name,
        method=checked.recipe.name,
        model=body.model if checked.model else None,
        dataset_id=body.dataset_id if checked.data else None,
        dataset_version=checked.data.ref.digest if checked.data else None,
        eval_dataset_id=body.eval_dataset_id,
        hyperparameters=checked.choice.params,
        reasons=checked.choice.reasons,
        request=asked.model_dump(mode="json", exclude_unset=True),
        spec={},
        resources=checked.resources.model_dump(mode="json"),
        tags=list(dict.fromkeys(body.tags)),
        batch_id=batch_id,
        status=JobStatus.CREATED,
        status_reason="",
        hint="",
        details=[],
        metrics={},
        priority=PRIORITIES[body.priority],
        position=0.0,
        not_before=body.not_before,
        off_peak=body.start == "off_peak",
        after_job_id=body.after_job_id,
        after_failure=body.after_failure,
        timeout_s=body.timeout_s,
        created_at=utc_now(),
    )
    life = Lifecycle(session, bus)
    life.jobs.add_named(row, folder_safe(name))
    row.position = float(row.id)
    row.spec = _spec(settings, row, checked).model_dump(mode="json")
    if body.start != "manual":
        quotas.check_submit(settings, session, checked.resources.num_gpus)
        life.enqueue(row)
    session.flush()
    return row


def create_batch(settings: Settings, session: Session, bus: Bus, bodies: list[JobCreate]) -> tuple[str, list[JobRow]]:
    """All of them or none; problems are named with the number of the job, from 0."""
    batch_id = str(uuid.uuid4())
    rows: list[JobRow] = []
    details: list[dict[str, Any]] = []
    for number, body in enumerate(bodies):
        try:
            rows.append(create(settings, session, bus, body, batch_id=batch_id))
        except InvalidInput as error:
            found = error.details or [{"loc": "", "message": error.message}]
            details += [{**detail, "loc": f"jobs.{number}.{detail['loc']}".rstrip(".")} for detail in found]
    if details:
        raise InvalidInput(
            f"{plural(len(details), 'value')} cannot be used, so none of the {len(bodies)} jobs was made.",
            hint="Each problem is named with its place.",
            details=details,
        )
    return batch_id, rows


def cloned(row: JobRow, body: JobClone) -> JobCreate:
    """The request that made `row`, with changes. A hyperparameter that is set to null is chosen anew."""
    changes = dict(body.changes)
    merged = {**row.request, **changes}
    given = changes.get("hyperparameters")
    if isinstance(given, dict):
        both = {**row.request.get("hyperparameters", {}), **given}
        merged["hyperparameters"] = {name: value for name, value in both.items() if value is not None}
    try:
        return JobCreate.model_validate(merged)
    except ValidationError as error:
        problems = Problems()
        for problem in error.errors():
            problems.add(".".join(["changes", *map(str, problem["loc"])]), message_of(problem))
        problems.raise_any()
        raise


def folder_safe(name: str) -> str:
    """Letters, digits, dots and dashes: a name for a folder on any system and for a model elsewhere."""
    plain = unicodedata.normalize("NFKD", name).encode("ascii", "ignore").decode().lower()
    slug = re.sub(r"[^a-z0-9]+", "-", plain).strip("-")[:MAX_OUTPUT_NAME].strip("-")
    return slug or "model"


def _follow_up_problems(follow_ups: list[FollowUp], method: str) -> list[dict[str, Any]]:
    """What is wrong with them, each with its place; settings are checked as their own method does."""
    found = []
    if follow_ups and not get_recipe(method).produces:
        found.append(
            {"loc": "follow_up", "message": f"a job of method {method} makes no model that could be followed up"}
        )
    for number, follow in enumerate(follow_ups):
        try:
            check_params(
                get_recipe(follow.method), follow.hyperparameters, prefix=f"follow_up.{number}.hyperparameters"
            )
        except InvalidInput as error:
            found += error.details
    return found


def _model(
    settings: Settings, session: Session, recipe: Recipe, body: JobCreate, problems: Problems
) -> ModelRef | None:
    if body.model is None:
        if recipe.needs_model:
            problems.add("model", f"{recipe.name} needs a base model", "Choose one from the list of models.")
        return None
    try:
        found = catalog.resolve_model(settings, session, body.model)
        if recipe.kind == "training":
            catalog.check_trainable(found, recipe.base_tasks)
        existence.check(settings, found.path, found.revision)
    except TunesmithError as error:
        problems.add_error("model", error)
        return None
    return found


def _data(
    settings: Settings,
    session: Session,
    recipe: Recipe,
    dataset_id: int | None,
    digest: str | None,
    loc: str,
    problems: Problems,
) -> TrainingData | None:
    """The rows, in a shape that `recipe` learns from."""
    if dataset_id is None:
        if recipe.data.is_needed:
            problems.add(loc, f"{recipe.name} needs a dataset", "Choose one from the list of datasets.")
        return None
    try:
        data = find_data(settings, session, dataset_id, digest)
    except TunesmithError as error:
        problems.add_error(loc, error)
        return None
    if recipe.data.shapes and data.ref.shape not in recipe.data.shapes:
        problems.add(
            loc,
            f"its rows are of shape {data.ref.shape or 'unknown'}; {recipe.name} learns from {', '.join(recipe.data.shapes)}",
            _hint_for_rows(recipe, data.ref.shape),
        )
    return data


def _hint_for_rows(recipe: Recipe, shape: str) -> str:
    others = [one.name for one in RECIPES if one.kind == recipe.kind and shape in one.data.shapes]
    other = f" Methods for such rows: {', '.join(others)}." if others else ""
    return f"Say which columns hold what: PATCH the dataset with a shape and a mapping.{other}"


def _resources(settings: Settings, body: JobCreate, problems: Problems) -> ResourceRequest:
    num_gpus = len(read_gpus())
    if body.resources is None:
        return ResourceRequest(num_gpus=min(1, num_gpus))
    if settings.database_url is None and body.resources.num_gpus > num_gpus:
        problems.add("resources.num_gpus", f"this machine has {plural(num_gpus, 'GPU')}")
    return body.resources


def _info(model: ModelRef | None, problems: Problems) -> Any:
    try:
        return catalog.model_info(model) if model else None
    except TunesmithError as error:
        problems.add_error("model", error)
        return None


def _default_name(checked: Checked) -> str:
    model = checked.model.name.rpartition("/")[2] if checked.model else ""
    parts = [model, checked.recipe.name, checked.data.ref.name if checked.data else ""]
    return " ".join(part for part in parts if part)[:200]


def _spec(settings: Settings, row: JobRow, checked: Checked) -> JobSpec:
    return JobSpec(
        job_id=row.id,
        name=row.name,
        output_name=row.output_name,
        recipe=row.method,
        params=checked.choice.params,
        model=checked.model,
        dataset=_ref(checked.data),
        eval_dataset=_ref(checked.eval_data),
        resources=checked.resources,
        timeout_s=row.timeout_s,
        cache_dir=str(settings.cache_dir.resolve()),
        offline=settings.hub_offline,
        worker_memory_bytes=settings.worker_memory_bytes,
        custom_network=settings.custom_network,
    )


def _ref(data: TrainingData | None) -> DatasetRef | None:
    return data.ref if data else None
