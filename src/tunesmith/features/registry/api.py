"""REST routes of the registry: versions of models, their aliases and stages."""

from __future__ import annotations

from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import Response, StreamingResponse
from starlette.concurrency import run_in_threadpool
from starlette.requests import ClientDisconnect

from tunesmith.core.acting import Scope
from tunesmith.core.errors import BadRequest
from tunesmith.features.datasets.files import Incoming
from tunesmith.features.registry import (
    changing,
    checking,
    cleaning,
    comparing,
    exporting,
    importing,
    keeping,
    listing,
    service,
)
from tunesmith.features.registry.numbers import parse_condition
from tunesmith.http.pagination import Cursor, Limit
from tunesmith.http.policy import declare, needs
from tunesmith.http.session import AppState, DbSession, State
from tunesmith.schemas.common import ErrorBody, Page
from tunesmith.schemas.registry import (
    AliasRead,
    AliasSet,
    Bump,
    ChangelogEntry,
    Cleaned,
    CleanPolicy,
    ImportCreate,
    RegisteredRead,
    RegisteredUpdate,
    RegistryEvent,
    RegistryHealth,
    Signature,
    Stage,
    StageSet,
    Verified,
    VerifyRequest,
    VersionComparison,
    VersionDetail,
    VersionRead,
    VersionUpdate,
    VersionUsage,
)
from tunesmith.storage.database import after_commit

router = APIRouter(prefix="/registry", tags=["registry"])

Name = Annotated[str, Path(max_length=200, description="Of the registered model.", examples=["support-bot"])]
Which = Annotated[str, Path(max_length=100, description="A version, an alias, or `latest`.", examples=["1.2.0"])]
Alias = Annotated[str, Path(max_length=100, examples=["champion"])]
Text = Annotated[str | None, Query(max_length=200)]
CONFLICT: dict[int | str, dict[str, Any]] = {409: {"model": ErrorBody, "description": "Not in the state it is in."}}
REFUSED: dict[int | str, dict[str, Any]] = {403: {"model": ErrorBody, "description": "Not allowed."}, **CONFLICT}
ARCHIVE: dict[int | str, dict[str, Any]] = {200: {"content": {"application/gzip": {}}, "description": "The archive."}}
BINARY: dict[str, Any] = {
    "requestBody": {
        "required": True,
        "content": {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
    }
}


@router.get("/", summary="Registered models")
def list_registered(
    session: DbSession,
    q: Annotated[str | None, Query(max_length=200, description="Part of the name or the description.")] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[RegisteredRead]:
    """Newest first, each with its latest version, its aliases, and the trend of a metric."""
    return listing.list_names(session, text=q, cursor=cursor, limit=limit)


@router.get("/search", summary="Search versions")
def search_versions(
    session: DbSession,
    q: Annotated[str | None, Query(max_length=200, description="Part of name, base model or notes.")] = None,
    name: Text = None,
    kind: Text = None,
    stage: Stage | None = None,
    tag: Text = None,
    alias: Text = None,
    base: Annotated[str | None, Query(max_length=500, description="The base model's name.")] = None,
    family: Annotated[str | None, Query(max_length=100, description="Of the architecture, such as `llama`.")] = None,
    metric: Annotated[
        list[str] | None,
        Query(max_length=10, description="A condition such as `eval_loss<1.2`; all given must hold."),
    ] = None,
    cursor: Cursor = None,
    limit: Limit = 50,
) -> Page[VersionRead]:
    """Newest first. Versions without a metric do not fulfil a condition on it."""
    conditions = [parse_condition(text) for text in metric or ()]
    return listing.search(
        session, conditions, cursor=cursor, limit=limit, text_like=q, name=name, kind=kind, stage=stage, tag=tag,
        alias=alias, base=base, family=family,
    )  # fmt: skip


@router.get("/compare", summary="Two to six versions side by side")
def compare_versions(
    session: DbSession,
    refs: Annotated[str, Query(max_length=2000, examples=["support-bot@1.0.0,support-bot@champion"])],
) -> VersionComparison:
    """Metrics with the best marked, settings, lineage, architecture and digests of files; of one model or of several."""
    return comparing.compare(session, [part.strip() for part in refs.split(",")])


@router.get("/health", summary="The registry at a glance")
def registry_health(state: State, session: DbSession) -> RegistryHealth:
    """Counts, sizes, damaged and orphaned files, versions without scores, stale aliases."""
    return checking.health(state.settings, session)


@router.post("/verify", summary="Read every byte, and put right what can be")
def verify_registry(body: VerifyRequest, state: State) -> Verified:
    """Takes about a second a gigabyte. Repairing changes files only: what is put right is what was registered."""
    with state.database.unit_of_work(readonly=True) as session:
        rows = checking.chosen(session, body.refs)
    return checking.verify(state.settings, rows, repair=body.repair)


@router.post("/clean", responses=REFUSED, summary="Take versions away by a policy")
def clean_registry(body: CleanPolicy, state: State, session: DbSession) -> Cleaned:
    """First says what would go (`dry_run`). What has an alias, is in production or is used never goes."""
    if not body.dry_run:
        after_commit(session, lambda: _free(state))
    return cleaning.clean(state.settings, session, body, state.version_users(session))


@router.post("/import", status_code=201, responses=REFUSED, summary="Register a model that is on the server")
def import_model(body: ImportCreate, state: State) -> VersionRead:
    """A folder with safetensors, an adapter, a GGUF file, or what a completed job has made."""
    row = importing.import_model(state.settings, state.database, body)
    return listing.read(row)


@router.put(
    "/import/upload", status_code=201, responses=REFUSED, openapi_extra=BINARY, summary="Send a model and register it"
)
async def upload_model(
    request: Request,
    state: State,
    file_name: Annotated[str, Query(max_length=500, examples=["support-bot.tar.gz"])],
    name: Annotated[str | None, Query(max_length=120)] = None,
    version: Annotated[str | None, Query(max_length=40)] = None,
    bump: Bump = "minor",
    base_model: Annotated[str | None, Query(max_length=500)] = None,
    notes: Annotated[str, Query(max_length=5000)] = "",
) -> VersionRead:
    """The body is a `.tar`, `.tar.gz` or `.zip` with one model, or a `.gguf` file."""
    body = ImportCreate(name=name, version=version, bump=bump, base_model=base_model, notes=notes)
    incoming = await run_in_threadpool(Incoming, state.settings)
    try:
        async for chunk in request.stream():
            await run_in_threadpool(incoming.write, chunk)
        received = await run_in_threadpool(incoming.finish)
        row = await run_in_threadpool(
            importing.import_archive, state.settings, state.database, received.path, file_name, body
        )
    except ClientDisconnect:
        raise BadRequest("The upload was cut off.") from None
    finally:
        await run_in_threadpool(incoming.discard)
    return listing.read(row)


# -- one name ---------------------------------------------------------------------------------------------------------


@router.get("/{name}", summary="One registered model")
def get_registered(name: Name, session: DbSession) -> RegisteredRead:
    return listing.get_name(session, name)


@router.patch("/{name}", responses=REFUSED, summary="Change description or visibility")
def update_registered(name: Name, body: RegisteredUpdate, session: DbSession) -> RegisteredRead:
    changing.update_name(session, name, body)
    return listing.get_name(session, name)


@router.get("/{name}/versions", summary="Versions of a model")
def list_versions(name: Name, session: DbSession, cursor: Cursor = None, limit: Limit = 50) -> Page[VersionRead]:
    """The highest first."""
    return listing.list_versions(session, name, cursor=cursor, limit=limit)


@router.get("/{name}/changelog", summary="What each version changed")
def version_changelog(name: Name, session: DbSession, cursor: Cursor = None, limit: Limit = 50) -> Page[ChangelogEntry]:
    """Against the version before: metrics with their deltas, data, base model and settings that are others."""
    return comparing.changelog(session, name, cursor=cursor, limit=limit)


@router.get("/{name}/events", summary="Who did what")
def registry_events(name: Name, session: DbSession, cursor: Cursor = None, limit: Limit = 50) -> Page[RegistryEvent]:
    """Newest first: registrations, aliases and stages moved, notes, scores, deletions."""
    return listing.events(session, name, cursor=cursor, limit=limit)


@router.get("/{name}/usage", summary="How much each version is used")
def version_usage(
    name: Name, session: DbSession, days: Annotated[float, Query(gt=0, le=366, description="Back from now.")] = 30
) -> list[VersionUsage]:
    """Requests, errors, tokens and latency, hour by hour."""
    return listing.usage(session, name, days)


@router.get("/{name}/aliases", summary="Aliases of a model")
def list_aliases(name: Name, session: DbSession) -> list[AliasRead]:
    """`latest` is not among them: it is always the highest version."""
    return changing.read_aliases(session, name)


@router.put("/{name}/aliases/{alias}", responses=REFUSED, summary="Let an alias stand for a version")
@needs(Scope.DEPLOY)
def set_alias(name: Name, alias: Alias, body: AliasSet, state: State, session: DbSession) -> AliasRead:
    """What is asked for by the alias is that version from now on. Refused where the regression gate does not let it."""
    return changing.set_alias(session, name, alias, body.version, gate=state.promotion_gate, force=body.force)


@router.post("/{name}/aliases/{alias}/rollback", responses=REFUSED, summary="Let an alias stand for what it did before")
@needs(Scope.DEPLOY)
def roll_back_alias(name: Name, alias: Alias, session: DbSession) -> AliasRead:
    return changing.roll_back(session, name, alias)


@router.delete("/{name}/aliases/{alias}", status_code=204, responses=REFUSED, summary="Take an alias away")
@needs(Scope.DEPLOY)
def remove_alias(name: Name, alias: Alias, session: DbSession) -> None:
    """The version stays."""
    changing.remove_alias(session, name, alias)


# -- one version ------------------------------------------------------------------------------------------------------


@router.get("/{name}/versions/{version}", summary="One version")
def get_version(name: Name, version: Which, state: State, session: DbSession) -> VersionDetail:
    """With its files and their digests, and what uses it now."""
    row = service.find_version(session, f"{name}@{version}")
    return listing.detail(state.settings, session, row, state.version_users(session).get(row.id, []))


@router.patch("/{name}/versions/{version}", responses=REFUSED, summary="Change notes or tags")
def update_version(name: Name, version: Which, body: VersionUpdate, session: DbSession) -> VersionRead:
    """Nothing else of a version ever changes, but for its stage and its scores."""
    return listing.read_all(session, [changing.update(session, f"{name}@{version}", body)])[0]


@router.put("/{name}/versions/{version}/stage", responses=REFUSED, summary="Move a version to a stage")
@needs(Scope.DEPLOY)
def set_stage(name: Name, version: Which, body: StageSet, state: State, session: DbSession) -> VersionRead:
    """Staging and production are refused where the regression gate does not let it."""
    ref = f"{name}@{version}"
    row = changing.set_stage(session, ref, body.stage, gate=state.promotion_gate, force=body.force)
    return listing.read_all(session, [row])[0]


@router.delete("/{name}/versions/{version}", status_code=204, responses=REFUSED, summary="Delete a version")
def delete_version(name: Name, version: Which, state: State, session: DbSession) -> None:
    """Not one that has an alias, is in production, or is used. Its number is not given again but explicitly."""
    changing.delete(state.settings, session, f"{name}@{version}", state.version_users(session))
    after_commit(session, lambda: _free(state))


@router.get("/{name}/versions/{version}/diff", summary="A version against another")
def diff_versions(
    name: Name,
    version: Which,
    session: DbSession,
    against: Annotated[str, Query(max_length=100, description="A version or an alias of the same model.")],
) -> VersionComparison:
    """What changed from `against` to this version; only what differs."""
    return comparing.diff(session, f"{name}@{against}", f"{name}@{version}")


@router.get(
    "/{name}/versions/{version}/export",
    response_class=Response,
    responses={**ARCHIVE, **CONFLICT},
    summary="A version as one archive",
)
def export_version(name: Name, version: Which, state: State, session: DbSession) -> Response:
    """A `.tar.gz` with the files, what is known of them, the signed manifest if there is one, and checksums."""
    row = service.find_version(session, f"{name}@{version}")
    headers = {"Content-Disposition": f'attachment; filename="{row.name}-{row.version}.tar.gz"'}
    return StreamingResponse(exporting.export(state.settings, row), media_type="application/gzip", headers=headers)


@router.get("/{name}/versions/{version}/signature", summary="The signed manifest")
def get_signature(name: Name, version: Which, state: State, session: DbSession) -> Signature:
    return keeping.signature(state.settings, service.find_version(session, f"{name}@{version}"))


@router.put("/{name}/versions/{version}/signature", responses=REFUSED, summary="Keep a signed manifest")
def put_signature(name: Name, version: Which, body: Signature, state: State, session: DbSession) -> Signature:
    """It must name exactly the files of the version. Who checks it with the public key need not trust this server."""
    return keeping.keep_signature(state.settings, service.change(session, f"{name}@{version}"), body)


def _free(state: AppState) -> None:
    """Remove the contents that no version has any more and that are old enough."""
    checking.sweep(state.settings, state.database)


declare(router, read=Scope.READ, write=Scope.TRAIN)
