"""Pages of the registry: versions of models, their aliases and stages."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Query, Request
from fastapi.responses import HTMLResponse
from pydantic import BeforeValidator, Field

from tunesmith.features.datasets.repository import DatasetRepository
from tunesmith.features.jobs import compression
from tunesmith.features.registry import changing, checking, cleaning, comparing, listing, service
from tunesmith.features.registry.naming import LATEST
from tunesmith.features.registry.numbers import higher_is_better, parse_condition
from tunesmith.http.pagination import Cursor
from tunesmith.http.session import DbSession, State
from tunesmith.schemas.registry import CleanPolicy, RegisteredRead, Stage, VersionRead, VersionUsage
from tunesmith.storage.database import Session
from tunesmith.ui.render import page
from tunesmith.ui.scores import of_version

router = APIRouter(include_in_schema=False)

PAGE = 50
CHARTED = 200
"""Most versions in the charts."""
STAGES = (("none", "No stage"), ("staging", "Staging"), ("production", "Production"), ("archived", "Archived"))
TONES = {"production": "good", "staging": "info", "archived": "", "none": ""}
USUAL_ALIASES = ("champion", "staging")
BUMPS = (("minor", "Minor: better"), ("major", "Major: other"), ("patch", "Patch: mended"))
Tab = Literal["versions", "changelog", "charts", "usage", "events"]
NAMES = {
    "eval_loss": "Held-out loss",
    "train_loss": "Training loss",
    "loss": "Training loss",
    "perplexity": "Perplexity on held-out rows",
    "check_perplexity": "Perplexity on the check text",
    "training_s": "Seconds of training",
    "evaluation_s": "Seconds of evaluation",
    "checkpoint_s": "Seconds of checkpoints",
}
LINEAGE = (
    "job_name", "method", "dataset_id", "dataset_name", "dataset_digest", "base_revision", "code_version", "parent_version",
)  # fmt: skip
UNSAID = BeforeValidator(lambda text: text or None)
"""A field that was left empty says nothing."""
BREADCRUMB = ("Registry", "/registry")


@router.get("/registry")
def show_list(
    request: Request,
    session: DbSession,
    q: Annotated[str, Query(max_length=200)] = "",
    metric: Annotated[str, Query(max_length=200)] = "",
    stage: Annotated[str, Query(max_length=20)] = "",
    cursor: Cursor = None,
) -> HTMLResponse:
    """Names as cards; with a condition on a metric or a stage, the versions that fit."""
    asked = {"q": q, "metric": metric, "stage": stage}
    found = versions = None
    if metric or stage:
        conditions = [parse_condition(metric)] if metric else []
        versions = listing.search(
            session, conditions, cursor=cursor, limit=PAGE, text_like=q or None, stage=stage or None
        )
    else:
        found = listing.list_names(session, text=q or None, cursor=cursor, limit=PAGE)
    shown = versions or found
    after = shown.next_cursor if shown else None
    return page(
        request, "registry/list.html", title="Registry", section="registry", asked=asked, found=found, versions=versions,
        stages=[("", "Any stage"), *STAGES], next_url=_address("/registry", {**asked, "cursor": after}) if after else "",
        first_url=_address("/registry", asked) if cursor else "", **WORDS,
    )  # fmt: skip


@router.get("/registry/health")
def show_health(
    request: Request,
    state: State,
    session: DbSession,
    keep_last: Annotated[Annotated[int, Field(ge=1, le=10_000)] | None, UNSAID] = None,
    older_than_days: Annotated[Annotated[float, Field(ge=0, le=36_500)] | None, UNSAID] = None,
    stage: Annotated[Stage | None, UNSAID] = None,
) -> HTMLResponse:
    """What is damaged, what was never evaluated, and what a clean-up by these rules would take away."""
    policy = CleanPolicy(keep_last=keep_last, older_than_days=older_than_days, stage=stage)
    rules = policy.model_dump(exclude_none=True, exclude={"dry_run"})
    would = cleaning.clean(state.settings, session, policy, state.version_users(session)) if rules else None
    return page(
        request, "registry/health.html", title="Health of the registry", section="registry", breadcrumb=[BREADCRUMB],
        health=checking.health(state.settings, session), policy=policy, would=would, stages=STAGES, shown=PAGE,
        order=rules | {"dry_run": False},
    )  # fmt: skip


@router.get("/registry/new")
def show_import(request: Request) -> HTMLResponse:
    """Register a model that was made elsewhere."""
    return page(
        request, "registry/new.html", title="Import a model", section="registry", breadcrumb=[BREADCRUMB], bumps=BUMPS
    )


@router.get("/registry/compare")
def show_comparison(
    request: Request,
    session: DbSession,
    ref: Annotated[list[str] | None, Query(max_length=comparing.MOST)] = None,
    everything: Annotated[bool, Query(alias="all")] = False,
) -> HTMLResponse:
    """Two to six versions side by side."""
    refs = list(dict.fromkeys(ref or ()))
    found = comparing.compare(session, refs) if len(refs) > 1 else None
    return page(
        request, "registry/compare.html", title="Compare versions", section="registry", breadcrumb=[BREADCRUMB],
        found=found, everything=everything, most=comparing.MOST,
        other_url="/registry/compare?" + urlencode([*(("ref", one) for one in refs), ("all", "" if everything else "true")]),
        **WORDS,
    )  # fmt: skip


@router.get("/registry/{name}")
def show_name(
    request: Request, session: DbSession, name: str, tab: Annotated[Tab, Query()] = "versions", cursor: Cursor = None
) -> HTMLResponse:
    """One model: its versions, what each changed, metrics over versions, use, and who did what."""
    model = listing.get_name(session, name)
    context: dict[str, Any] = {"next_cursor": None}
    if tab in ("versions", "changelog"):
        log = comparing.changelog(session, name, cursor=cursor, limit=PAGE)
        versions = {
            item.version: item for item in listing.list_versions(session, name, cursor=cursor, limit=PAGE).items
        }
        context = {"log": log.items, "versions": versions, "next_cursor": log.next_cursor}
    elif tab == "charts":
        rows = listing.list_versions(session, name, cursor=None, limit=CHARTED).items
        context |= {"charts": charts(rows[::-1]), "num_charted": len(rows)}
    elif tab == "usage":
        context |= {"usage": listing.usage(session, name, 30), "days": by_day}
    else:
        events = listing.events(session, name, cursor=cursor, limit=PAGE)
        context = {"events": events.items, "next_cursor": events.next_cursor}
    here, after = f"/registry/{quote(name)}", context.pop("next_cursor")
    return page(
        request, f"registry/{tab}.html", title=name, section="registry", breadcrumb=[BREADCRUMB], model=model, tab=tab,
        tabs=_tabs(model), aliases=changing.read_aliases(session, name), stages=STAGES, usual_aliases=USUAL_ALIASES,
        next_url=_address(here, {"tab": tab, "cursor": after}) if after else "",
        first_url=_address(here, {"tab": tab}) if cursor else "", **WORDS, **context,
    )  # fmt: skip


@router.get("/registry/{name}/{version}")
def show_version(request: Request, state: State, session: DbSession, name: str, version: str) -> HTMLResponse:
    """One version: lineage, scores, files with their digests, and what changed against the champion."""
    row = service.find_version(session, f"{name}@{version}")
    found = listing.detail(state.settings, session, row, state.version_users(session).get(row.id, []))
    model = listing.get_name(session, name)
    rival = model.aliases.get("champion")
    if rival in (None, found.version):
        rival = found.lineage.get("parent_version")
    is_there = rival is not None and rival != found.version and _is_there(session, f"{name}@{rival}")
    return page(
        request, "registry/version.html", title=found.ref, section="registry",
        breadcrumb=[BREADCRUMB, (name, f"/registry/{quote(name)}")], found=found, model=model, rival=rival,
        formats=compression.choices(state.settings, row) if found.kind != "gguf" else [],
        own_data=_own_data(session, found.lineage.get("dataset_id")), line=dict.fromkeys(LINEAGE) | found.lineage, scores=of_version(found.scores),
        difference=comparing.diff(session, f"{name}@{rival}", found.ref) if is_there else None, stages=STAGES,
        usual_aliases=USUAL_ALIASES, is_latest=model.latest is not None and model.latest.version == found.version, **WORDS,
    )  # fmt: skip


def _own_data(session: Session, dataset_id: int | None) -> list[tuple[int, str]]:
    """The dataset that a version learned from, as a choice, where it is still there."""
    row = DatasetRepository(session).find(dataset_id) if dataset_id else None
    return [(row.id, f"Rows of {row.name}")] if row else []


def charts(versions: list[VersionRead]) -> list[dict[str, Any]]:
    """One chart for each number that two versions have, from the lowest version to the highest."""
    names: dict[str, int] = {}
    for version in versions:
        for name in version.numbers:
            if "/" not in name:
                names[name] = names.get(name, 0) + 1
    found = []
    for name in sorted((name for name, count in names.items() if count > 1), key=lambda name: (-names[name], name)):
        points = [(version.version, version.numbers.get(name)) for version in versions]
        there = [value for _, value in points if value is not None]
        higher = higher_is_better(name)
        best = None if higher is None else (max if higher else min)(there)
        found.append(
            {"name": name, "points": points, "values": [value for _, value in points], "best": best, "higher": higher}
        )
    return found


def by_day(usage: VersionUsage) -> list[tuple[str, int, int]]:
    """`(day, requests, errors)` of the days on which there were any."""
    days: dict[str, list[int]] = {}
    for point in usage.hours:
        day = days.setdefault(f"{point.hour:%Y-%m-%d}", [0, 0])
        day[0] += point.requests
        day[1] += point.errors
    return [(day, *counts) for day, counts in sorted(days.items())]  # type: ignore[misc]


def metric_name(name: str) -> str:
    """A metric in words."""
    return NAMES.get(name) or name.replace("_", " ").capitalize()


def link(ref: str) -> str:
    """The page of a version."""
    name, _, version = ref.partition("@")
    return f"/registry/{quote(name)}/{quote(version or LATEST)}"


def model_link(name: str | None) -> str:
    """The page of a base model; empty where there is none."""
    if not name:
        return ""
    return link(name) if "@" in name else f"/models/{quote(name)}"


def event_text(event: Any) -> str:
    """What somebody did, in words."""
    told, version = event.details, event.version or ""
    if event.event == "alias":
        alias, before, after = told.get("alias"), told.get("from"), told.get("to")
        if after is None:
            return f"took the alias {alias} away from {before}"
        how = "rolled" if told.get("rollback") else "moved"
        forced = ", past the regression gate" if told.get("forced") else ""
        return f"{how} {alias} {'back ' if told.get('rollback') else ''}" + (
            f"from {before} to {after}{forced}" if before else f"to {after}{forced}"
        )
    texts = {
        "registered": f"registered {version}" + (f" from job {told['job_id']}" if told.get("job_id") else ""),
        "imported": f"imported {version}",
        "stage": f"moved {version} from stage {told.get('from')} to {told.get('to')}",
        "notes": f"changed the notes of {version}",
        "tags": f"set the tags of {version} to {', '.join(told.get('to') or []) or 'none'}",
        "scores": f"evaluated {version}: {told.get('evaluation')}",
        "deleted": f"deleted {version}",
        "changed": "changed the description or who sees it",
    }
    return texts.get(event.event, event.event)


def _is_there(session: Any, ref: str) -> bool:
    name, _, version = ref.partition("@")
    return any(item.version == version for item in listing.list_versions(session, name, cursor=None, limit=500).items)


def _tabs(model: RegisteredRead) -> list[tuple[str, str, int | None]]:
    return [
        ("versions", "Versions", model.num_versions),
        ("changelog", "Changelog", None),
        ("charts", "Metrics", None),
        ("usage", "Use", None),
        ("events", "History", None),
    ]


def _address(path: str, asked: dict[str, Any]) -> str:
    query = {name: value for name, value in asked.items() if value not in ("", None)}
    return f"{path}?{urlencode(query)}" if query else path


WORDS: dict[str, Any] = {
    "metric_name": metric_name, "link": link, "model_link": model_link, "event_text": event_text, "tones": TONES,
}  # fmt: skip
