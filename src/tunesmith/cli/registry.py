"""`tunesmith registry`: versions of models, their aliases and stages."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from tunesmith.cli.output import FAILED, Output, out, say, show, size, table, transfer, waiting
from tunesmith.core.errors import InvalidInput
from tunesmith.features.registry import signing
from tunesmith.schemas.registry import Difference, VersionRead
from tunesmith.sdk.client import Client

app = typer.Typer(no_args_is_help=True, help="Versions of models, their aliases and stages.")

Ref = Annotated[str, typer.Argument(help="name@version, name@alias or name@latest.")]
Name = Annotated[str, typer.Argument(help="The registered model's name.")]
Force = Annotated[bool, typer.Option("--force", help="Past the regression gate; administrators only.")]


@app.command("list")
def list_(q: Annotated[str | None, typer.Option("--search", "-q", help="Part of the name.")] = None) -> None:
    """Registered models with their latest version."""
    with Client() as client:
        found = list(client.registry.list(q))
    if not found and not Output.as_json:
        say("No registered models yet. Every completed training job makes one; tunesmith registry import takes others.")
        return
    rows = [
        (m.name, m.latest.version if m.latest else "", _aliases(m.aliases), m.num_versions, size(m.size_bytes))
        for m in found
    ]
    show(found, table(("name", "latest", "aliases", "versions", "size"), rows))


@app.command("show")
def show_(ref: Ref) -> None:
    """One version: where it comes from, how good it is, and its files."""
    with Client() as client:
        found = client.registry.get(ref)
    lineage = [(key, value) for key, value in found.lineage.items() if value is not None]
    rows: list[tuple[str, Any]] = [
        ("version", found.ref), ("kind", f"{found.kind} ({found.framework})"), ("stage", found.stage),
        ("aliases", ", ".join(found.aliases)), ("size", size(found.size_bytes)), ("weights", found.num_parameters),
        ("digest", found.digest), ("signed", "yes" if found.signed else "no"), ("used by", ", ".join(found.used_by)),
        *lineage, *found.numbers.items(), ("tags", ", ".join(found.tags)), ("notes", found.notes),
    ]  # fmt: skip
    show(found, table(("field", "value"), [row for row in rows if row[1] not in (None, "")]))
    if not Output.as_json:
        out.print(table(("file", "size", "sha256"), [(f.path, size(f.size_bytes), f.sha256) for f in found.files]))


@app.command()
def versions(name: Name) -> None:
    """Versions of a model, the highest first, with what each changed."""
    with Client() as client:
        found = list(client.registry.changelog(name))
    rows = [
        (e.version, e.stage, ", ".join(e.aliases), _deltas(e.metrics), ", ".join(c.field for c in e.changes), e.notes)
        for e in found
    ]
    show(found, table(("version", "stage", "aliases", "metrics", "changed", "notes"), rows))


@app.command()
def alias(
    name: Name,
    alias_: Annotated[str, typer.Argument(metavar="ALIAS", help="champion, staging or any other.")],
    version: Annotated[str | None, typer.Argument(help="The version, or another alias.")] = None,
    rollback: Annotated[bool, typer.Option("--rollback", help="Back to what it stood for before.")] = False,
    remove: Annotated[bool, typer.Option("--remove", help="Take the alias away.")] = False,
    force: Force = False,
) -> None:
    """Let an alias stand for a version, or roll it back."""
    if sum((version is not None, rollback, remove)) != 1:
        raise InvalidInput(
            "Say a version, --rollback or --remove.", hint=f"tunesmith registry alias {name} {alias_} 1.0.0"
        )
    with Client() as client:
        if remove:
            client.registry.remove_alias(name, alias_)
            show({"removed": alias_}, f"{name} has no alias {alias_} any more.")
            return
        found = (
            client.registry.roll_back(name, alias_)
            if version is None
            else client.registry.set_alias(name, alias_, version, force=force)
        )
    show(found, f"{name}@{alias_} is {found.version}.")


@app.command()
def stage(
    ref: Ref,
    stage_: Annotated[str, typer.Argument(metavar="STAGE", help="none, staging, production or archived.")],
    force: Force = False,
) -> None:
    """Move a version to a stage."""
    with Client() as client:
        found = client.registry.set_stage(ref, stage_, force=force)
    show(found, f"{found.ref} is in stage {found.stage}.")


@app.command()
def tag(
    ref: Ref,
    tags: Annotated[list[str] | None, typer.Argument(help="All that it shall have; none takes them away.")] = None,
    notes: Annotated[str | None, typer.Option(help="Set its notes, too.")] = None,
) -> None:
    """Set the tags of a version, and its notes."""
    changes: dict[str, Any] = {"tags": tags or []} | ({"notes": notes} if notes is not None else {})
    with Client() as client:
        found = client.registry.update(ref, **changes)
    show(found, f"{found.ref}: {', '.join(found.tags) or 'no tags'}")


@app.command()
def diff(ref: Ref, against: Annotated[str, typer.Argument(help="A version or an alias of the same model.")]) -> None:
    """What changed from one version to another."""
    with Client() as client:
        found = client.registry.diff(ref, against)
    parts = [*found.metrics, *found.hyperparameters, *found.lineage, *found.architecture, *found.files]
    show(found, table(("", against, ref), [_row(item) for item in parts]) if parts else "These versions are alike.")


@app.command()
def compare(refs: Annotated[list[str], typer.Argument(min=2, help="Two to six versions.")]) -> None:
    """Versions side by side."""
    with Client() as client:
        found = client.registry.compare(refs)
    parts = [*found.metrics, *(i for part in (found.hyperparameters, found.lineage) for i in part if i.differs)]
    show(found, table(("", *(v.ref for v in found.versions)), [_row(item) for item in parts]))


@app.command()
def search(
    words: Annotated[str | None, typer.Argument(help="Part of name, base model or notes.")] = None,
    metric: Annotated[
        list[str] | None, typer.Option("--metric", help="A condition, 'eval_loss<1.2'; may be repeated.")
    ] = None,
    kind: Annotated[str | None, typer.Option(help="adapter, model or gguf.")] = None,
    stage_: Annotated[str | None, typer.Option("--stage", help="none, staging, production or archived.")] = None,
    tag_: Annotated[str | None, typer.Option("--tag")] = None,
    base: Annotated[str | None, typer.Option(help="The base model.")] = None,
    family: Annotated[str | None, typer.Option(help="Of the architecture, such as llama.")] = None,
) -> None:
    """Versions of all models."""
    filters = {"q": words, "metric": metric, "kind": kind, "stage": stage_, "tag": tag_, "base": base, "family": family}
    with Client() as client:
        found = list(client.registry.search(**filters))
    show(found, table(("version", "kind", "stage", "base", "metrics"), [_found(item) for item in found]))


@app.command("import")
def import_(
    path: Annotated[str, typer.Argument(help="An archive or GGUF file here, or with --on-server a path there.")],
    name: Annotated[str | None, typer.Option(help="Defaults to the file name.")] = None,
    version: Annotated[str | None, typer.Option(help="The next when left out.")] = None,
    bump: Annotated[str, typer.Option(help="major, minor or patch.")] = "minor",
    base: Annotated[str | None, typer.Option(help="Base model of an adapter.")] = None,
    on_server: Annotated[bool, typer.Option("--on-server", help="Already on the server.")] = False,
) -> None:
    """Register a model that was made elsewhere."""
    fields = {"name": name, "version": version, "bump": bump, "base_model": base}
    with Client() as client:
        if on_server:
            found = client.registry.import_model(path=path, **{k: v for k, v in fields.items() if v is not None})
        else:
            with transfer(Path(path).name) as sent:
                found = client.registry.upload(path, progress=sent, **fields)
    left = f" Left out, as it could run code: {', '.join(found.left_out)}." if found.left_out else ""
    show(found, f"Registered {found.ref}.{left}")


@app.command()
def export(ref: Ref, path: Annotated[Path, typer.Argument(help="A file or a folder.")] = Path()) -> None:
    """A version as one archive with checksums."""
    with Client() as client:
        found = client.registry.get(ref)
        target = path / f"{found.name}-{found.version}.tar.gz" if path.is_dir() else path
        with transfer(target.name) as got:
            saved = client.registry.export(found.ref, target, progress=got)
    show({"path": str(saved)}, f"Saved {saved}.")


@app.command()
def verify(
    refs: Annotated[list[str] | None, typer.Argument(help="Versions; all when left out.")] = None,
    repair: Annotated[bool, typer.Option("--repair", help="Put right what is still to be found elsewhere.")] = False,
    key: Annotated[Path | None, typer.Option(help="A public key: check the signatures, too.")] = None,
) -> None:
    """Read every byte of every version. The exit code is 1 when something is damaged."""
    public = signing.read_public_key(key) if key else None
    damaged, unsigned = [], []
    with Client() as client:
        found = [client.registry.get(ref) for ref in refs] if refs else list(client.registry.search())
        total, done = sum(item.size_bytes for item in found) or 1, 0
        with waiting("verifying") as told:
            for item in found:
                damaged += client.registry.verify([item.ref], repair=repair).damaged
                done += item.size_bytes
                told(done / total)
                if public and (why := _signature_trouble(client, item.ref, public)):
                    unsigned.append((item.ref, why))
    left = [(item.ref, name) for item in damaged for name in item.files]
    mended = [(item.ref, name) for item in damaged for name in item.repaired]
    value = {"versions": len(found), "damaged": left, "repaired": mended, "signatures": unsigned}
    rows = [*((*row, "damaged") for row in left), *((*row, "repaired") for row in mended)]
    rows += [(ref, "signature", why) for ref, why in unsigned]
    show(
        value,
        table(("version", "file", "state"), rows)
        if rows
        else f"All {len(found)} versions are as they were registered.",
    )
    if left or unsigned:
        raise typer.Exit(FAILED)


def _signature_trouble(client: Client, ref: str, public: Any) -> str:
    """What is wrong with a version's signature; empty when nothing is."""
    detail = client.registry.get(ref)
    if not detail.signed:
        return "not signed"
    files = {file.path: file.sha256 for file in detail.files}
    checked = signing.check(client.registry.signature(ref), files, public)
    return "" if checked.ok else checked.message


@app.command()
def health() -> None:
    """The registry at a glance."""
    with Client() as client:
        found = client.registry.health()
    rows = [
        ("names", found.names), ("versions", found.versions), ("on disk", size(found.stored_bytes)),
        ("orphaned", f"{found.orphan_files} files, {size(found.orphan_bytes)}"),
        ("damaged", ", ".join(item.ref for item in found.damaged) or "none"),
        ("never evaluated", ", ".join(found.without_scores) or "none"),
        ("stale aliases", ", ".join(found.stale_aliases) or "none"), ("never used", found.unused),
    ]  # fmt: skip
    show(found, table(("", ""), rows))


@app.command()
def clean(
    name: Annotated[str | None, typer.Option(help="Only of this model.")] = None,
    keep_last: Annotated[int | None, typer.Option(min=1, help="Keep so many of the highest of each name.")] = None,
    older_than: Annotated[float | None, typer.Option("--older-than-days", min=0)] = None,
    metric: Annotated[str | None, typer.Option(help="A condition, 'eval_loss>1.5'.")] = None,
    stage_: Annotated[str | None, typer.Option("--stage", help="Only of this stage.")] = None,
    really: Annotated[bool, typer.Option("--yes", help="Delete; otherwise only say what would go.")] = False,
) -> None:
    """Take versions away to which all that is given applies; never what has an alias, is in production or is used."""
    policy = {"name": name, "keep_last": keep_last, "older_than_days": older_than, "metric": metric, "stage": stage_}
    given = {key: value for key, value in policy.items() if value is not None}
    with Client() as client:
        found = client.registry.clean(**given, dry_run=not really)
    word = "deleted" if really else "would go"
    rows = [
        *((i.ref, size(i.size_bytes), word) for i in found.removed),
        *((i.ref, "", f"stays: {i.why}") for i in found.kept),
    ]
    show(found, table(("version", "size", ""), rows) if rows else "The policy applies to no version.")
    if not Output.as_json and found.removed:
        say(f"{size(found.freed_bytes)} {'are' if really else 'would be'} freed.")


@app.command()
def sign(ref: Ref, key: Annotated[Path, typer.Option(help="An Ed25519 key as PEM; it stays on this machine.")]) -> None:
    """Sign the list of a version's files, and keep the signed manifest beside them."""
    private = signing.read_private_key(key)
    with Client() as client:
        found = client.registry.get(ref)
        bundle = signing.sign(found.ref, {file.path: file.sha256 for file in found.files}, private)
        client.registry.keep_signature(found.ref, bundle)
    show(
        bundle,
        f"Signed {found.ref}. Anybody with the public key can check it: tunesmith registry verify {found.ref} --key",
    )


def _aliases(aliases: dict[str, str]) -> str:
    return ", ".join(f"{alias} → {version}" for alias, version in aliases.items())


def _deltas(metrics: list[Difference]) -> str:
    marks = {True: "better", False: "worse", None: ""}
    return ", ".join(f"{m.field} {m.delta:+.4g} {marks[m.better]}".strip() for m in metrics if m.delta)


def _row(item: Difference) -> list[str]:
    cells = [
        "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value) for value in item.values
    ]
    if item.best is not None:
        cells[item.best] += " *"
    return [item.field, *cells]


def _found(item: VersionRead) -> tuple[str, ...]:
    few = [f"{name} {value:.4g}" for name, value in item.numbers.items() if "/" not in name][:4]
    return item.ref, item.kind, item.stage, item.base_model or "", ", ".join(few)
