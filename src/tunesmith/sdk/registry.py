"""`client.registry`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tunesmith.core.errors import InvalidInput
from tunesmith.schemas.registry import (
    AliasRead,
    ChangelogEntry,
    Cleaned,
    RegisteredRead,
    RegistryEvent,
    RegistryHealth,
    Signature,
    Verified,
    VersionComparison,
    VersionDetail,
    VersionRead,
    VersionUsage,
)
from tunesmith.sdk.connection import Connection, Progress, json_of, pages

LONG_S = 3600.0
"""For what reads every byte of many models, seconds."""


class Registry:
    """`client.registry`. A version is named `support-bot@1.2.0`, `support-bot@champion` or `support-bot@latest`.

    >>> client.registry.set_alias("support-bot", "champion", "1.2.0")
    >>> client.registry.get("support-bot@champion").numbers["eval_loss"]
    """

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, q: str | None = None) -> Iterator[RegisteredRead]:
        """Registered models, newest first."""
        return (RegisteredRead.model_validate(item) for item in pages(self._connection, "/registry/", {"q": q}))

    def model(self, name: str) -> RegisteredRead:
        """A registered model with its aliases. Raises `NotFound`."""
        return RegisteredRead.model_validate(self._connection.get(_path(name)))

    def describe(self, name: str, **changes: Any) -> RegisteredRead:
        """Change `description` or `visibility` of a name."""
        answer = self._connection.request("PATCH", _path(name), json=changes)
        return RegisteredRead.model_validate(json_of(answer))

    def versions(self, name: str) -> Iterator[VersionRead]:
        """Of one model, the highest first."""
        return (VersionRead.model_validate(item) for item in pages(self._connection, f"{_path(name)}/versions", {}))

    def get(self, ref: str) -> VersionDetail:
        """One version with its files. Raises `NotFound`."""
        return VersionDetail.model_validate(self._connection.get(_version(ref)))

    def search(self, **filters: Any) -> Iterator[VersionRead]:
        """Versions of all models, newest first; filters: q, name, kind, stage, tag, alias, base, family, and metric, a list
        of conditions such as `eval_loss<1.2`."""
        return (VersionRead.model_validate(item) for item in pages(self._connection, "/registry/search", filters))

    def compare(self, refs: Sequence[str]) -> VersionComparison:
        """Two to six versions side by side."""
        found = self._connection.get("/registry/compare", refs=",".join(refs))
        return VersionComparison.model_validate(found)

    def diff(self, ref: str, against: str) -> VersionComparison:
        """What changed from `against` (a version or an alias of the same model) to `ref`."""
        return VersionComparison.model_validate(self._connection.get(f"{_version(ref)}/diff", against=against))

    def changelog(self, name: str) -> Iterator[ChangelogEntry]:
        """What each version changed against the one before, the highest first."""
        return (ChangelogEntry.model_validate(item) for item in pages(self._connection, f"{_path(name)}/changelog", {}))

    def events(self, name: str) -> Iterator[RegistryEvent]:
        """Who did what, newest first."""
        return (RegistryEvent.model_validate(item) for item in pages(self._connection, f"{_path(name)}/events", {}))

    def usage(self, name: str, days: float = 30) -> Sequence[VersionUsage]:
        """Requests, errors and latency of each version."""
        found = self._connection.get(f"{_path(name)}/usage", days=days)
        return [VersionUsage.model_validate(item) for item in found]

    # -- changing ---------------------------------------------------------------------------------------------------

    def update(self, ref: str, **changes: Any) -> VersionRead:
        """`notes` and `tags`."""
        return VersionRead.model_validate(json_of(self._connection.request("PATCH", _version(ref), json=changes)))

    def set_stage(self, ref: str, stage: str, *, force: bool = False) -> VersionRead:
        """`none`, `staging`, `production` or `archived`. Raises `Conflict` when the regression gate refuses."""
        body = {"stage": stage, "force": force}
        return VersionRead.model_validate(json_of(self._connection.request("PUT", f"{_version(ref)}/stage", json=body)))

    def set_alias(self, name: str, alias: str, version: str, *, force: bool = False) -> AliasRead:
        """Let an alias stand for a version. Raises `Conflict` when the regression gate refuses."""
        body = {"version": version, "force": force}
        return AliasRead.model_validate(json_of(self._connection.request("PUT", _alias(name, alias), json=body)))

    def roll_back(self, name: str, alias: str) -> AliasRead:
        """Let an alias stand for what it stood for before."""
        return AliasRead.model_validate(self._connection.post(f"{_alias(name, alias)}/rollback"))

    def remove_alias(self, name: str, alias: str) -> None:
        self._connection.request("DELETE", _alias(name, alias))

    def aliases(self, name: str) -> Sequence[AliasRead]:
        return [AliasRead.model_validate(item) for item in self._connection.get(f"{_path(name)}/aliases")]

    def delete(self, ref: str) -> None:
        """Raises `InUse` for what has an alias, is in production or is used."""
        self._connection.request("DELETE", _version(ref))

    # -- in and out -------------------------------------------------------------------------------------------------

    def import_model(self, **fields: Any) -> VersionRead:
        """Register what lies on the server: `path` or `job_id`; `name`, `version`, `bump`, `base_model`, `notes`, `tags`."""
        answer = self._connection.request("POST", "/registry/import", json=fields, timeout=LONG_S)
        return VersionRead.model_validate(json_of(answer))

    def upload(self, path: str | Path, *, progress: Progress | None = None, **fields: Any) -> VersionRead:
        """Send a `.tar.gz`, `.tar`, `.zip` or `.gguf` and register it; `name`, `version`, `bump`, `base_model`, `notes`."""
        made = self._connection.upload("/registry/import/upload", Path(path), progress, params=fields, timeout=LONG_S)
        return VersionRead.model_validate(made)

    def export(self, ref: str, target: str | Path, *, progress: Progress | None = None) -> Path:
        """A version as `.tar.gz`, which appears whole or not at all."""
        return self._connection.download(f"{_version(ref)}/export", Path(target), progress)

    # -- keeping it whole -------------------------------------------------------------------------------------------

    def verify(self, refs: Sequence[str] = (), *, repair: bool = False) -> Verified:
        """Read every byte of these versions, or of all."""
        body = {"refs": list(refs), "repair": repair}
        answer = self._connection.request("POST", "/registry/verify", json=body, timeout=LONG_S)
        return Verified.model_validate(json_of(answer))

    def health(self) -> RegistryHealth:
        return RegistryHealth.model_validate(self._connection.get("/registry/health"))

    def clean(self, **policy: Any) -> Cleaned:
        """`name`, `keep_last`, `older_than_days`, `metric`, `stage`; says what would go unless `dry_run=False`."""
        return Cleaned.model_validate(self._connection.post("/registry/clean", policy))

    def signature(self, ref: str) -> dict[str, Any]:
        """The signed manifest. Raises `NotFound`."""
        return Signature.model_validate(self._connection.get(f"{_version(ref)}/signature")).bundle

    def keep_signature(self, ref: str, bundle: dict[str, Any]) -> None:
        """Raises `InvalidInput` for a manifest that names other files."""
        self._connection.request("PUT", f"{_version(ref)}/signature", json={"bundle": bundle})


def _path(name: str) -> str:
    if not name or "/" in name:
        raise InvalidInput(f"{name[:120]!r} is not the name of a registered model.")
    return f"/registry/{quote(name, safe='')}"


def _version(ref: str) -> str:
    name, _, which = ref.partition("@")
    return f"{_path(name)}/versions/{quote(which or 'latest', safe='')}"


def _alias(name: str, alias: str) -> str:
    return f"{_path(name)}/aliases/{quote(alias, safe='')}"
