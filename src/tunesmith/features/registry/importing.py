"""Models from outside: a folder or a GGUF file on the server, an archive that somebody sends, or what a job has made.

An archive is unpacked by the bytes alone into a folder of its own: no links, no devices, no way out of the folder, and no more
bytes than it may have, whatever it says of itself.
"""

from __future__ import annotations

import contextlib
import shutil
import tarfile
import unicodedata
import uuid
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import IO

from tunesmith.core.acting import current
from tunesmith.core.errors import BadData, InvalidInput, NotFound, TooLarge
from tunesmith.core.job_dir import JobDir
from tunesmith.core.recipe import Outcome
from tunesmith.features.accounts import quotas
from tunesmith.features.registry import service
from tunesmith.features.registry.exporting import ABOUT
from tunesmith.features.registry.naming import check_name, is_name, number_of
from tunesmith.features.registry.service import NewVersion
from tunesmith.features.registry.signing import FILE_NAME
from tunesmith.features.registry.store import Store
from tunesmith.features.registry.tables import VersionRow
from tunesmith.recipes.catalog import get_recipe, kind_of
from tunesmith.recipes.language_models import base_of_adapter
from tunesmith.schemas.registry import ImportCreate
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

MAX_ENTRIES = 10_000
MAX_RATIO = 200
FREE_BYTES = 64 * 1024**2
"""What any archive may grow to, whatever the ratio."""
CHUNK_BYTES = 1024**2
ARCHIVES = (".tar", ".tar.gz", ".tgz", ".zip", ".gguf")
ADDED = (ABOUT, FILE_NAME, "SHA256SUMS")
"""What an export adds to a version's own files."""
DAMAGED = (zipfile.BadZipFile, tarfile.TarError, zlib.error, EOFError, RuntimeError)
"""What the standard library raises for a broken archive; `RuntimeError` for a password or a compression that it does not know."""


def import_model(settings: Settings, database: Database, body: ImportCreate) -> VersionRow:
    """Register what lies on the server. Copies before it touches the database. Raises `InvalidInput`, `NotFound`, `BadData`,
    `UnsupportedFormat`, `Conflict`, `PermissionDenied`."""
    if (body.path is None) == (body.job_id is None):
        raise InvalidInput("Say either path or job_id.", details=[{"loc": "path", "message": "exactly one of the two"}])
    if body.job_id is not None:
        return _register(settings, database, _of_job(settings, body.job_id, body))
    path = allowed_path(settings, body.path or "")
    return _register(settings, database, _of_path(path, body, _root_of(settings, path)))


def import_archive(
    settings: Settings, database: Database, archive: Path, file_name: str, body: ImportCreate
) -> VersionRow:
    """Register an archive, or a GGUF file, that has been received. Raises as `import_model`, and `TooLarge`."""
    if not file_name.lower().endswith(ARCHIVES):
        raise InvalidInput(
            f"{file_name[:120]!r} is no archive that is read here.",
            hint=f"Send one of {', '.join(ARCHIVES)}.",
            details=[{"loc": "file_name", "message": "another ending"}],
        )
    with _work_folder(settings) as folder:
        stem = PurePosixPath(file_name).name
        if stem.lower().endswith(".gguf"):
            place = folder / stem[-200:].lstrip(".")
            shutil.move(archive, place)
        else:
            unpack(archive, folder, settings.max_upload_bytes)
            place = _model_folder(folder)
            for added in ADDED if place.is_dir() and (place / ABOUT).is_file() else ():
                (place / added).unlink(missing_ok=True)
        for ending in sorted(ARCHIVES, key=len, reverse=True):
            stem = stem[: -len(ending)] if stem.lower().endswith(ending) else stem
        named = body if body.name else body.model_copy(update={"name": _as_name(stem)})
        return _register(settings, database, _of_path(place, named, None))


def allowed_path(settings: Settings, text: str) -> Path:
    """A place on the server that may be imported from. Raises `InvalidInput` for any other, `NotFound` when nothing is there."""
    if "\0" in text or not text:
        raise InvalidInput("This is no path.", details=[{"loc": "path", "message": "not a path"}])
    path = Path(text)
    path = (path if path.is_absolute() else settings.models_dir / path).resolve()
    if not any(path.is_relative_to(root) and path != root for root in _roots(settings)):
        raise InvalidInput(
            "Models are imported only from the home folder's models and from folders that the administrator allows.",
            hint="Put the model there, send it as an archive, or have the folder added to TUNESMITH_MODEL_DIRS.",
            details=[{"loc": "path", "message": "not in an allowed folder"}],
        )
    if not path.exists():
        raise NotFound(f"There is nothing at {text[:200]!r}.", hint="The path counts from the home folder's models.")
    return path


def _roots(settings: Settings) -> list[Path]:
    return [path.resolve() for path in (settings.models_dir, *map(Path, settings.model_dirs))]


def _root_of(settings: Settings, path: Path) -> Path:
    return next(root for root in _roots(settings) if path.is_relative_to(root))


def _register(settings: Settings, database: Database, new: NewVersion) -> VersionRow:
    with database.unit_of_work() as session:
        quotas.check_storage(settings, session, _size(new))
    prepared = service.prepare(settings, new)
    with database.unit_of_work() as session:
        row = service.register(settings, session, new, prepared)
        service.record(session, row.name, row.version, "imported", {"from": "job" if new.job_id else "files"})
    return row


def _of_path(path: Path, body: ImportCreate, within: Path | None) -> NewVersion:
    kind = kind_of(path)
    name = body.name or _as_name(path.stem if path.is_file() else path.name)
    base = body.base_model or (base_of_adapter(path) if kind.needs_base else None)
    return _with(
        body, name, NewVersion(name=name, sources={kind.name: path}, kind=kind.name, base_model=base, within=within)
    )


def _of_job(settings: Settings, job_id: int, body: ImportCreate) -> NewVersion:
    """What a completed job has made, under another name or once more. Raises `NotFound`."""
    job_dir, seen = JobDir(settings.jobs_dir / str(job_id)), current().jobs_seen()
    ended = job_dir.read_exit() if seen is None or job_id in seen else None
    spec = job_dir.read_spec() if ended and ended.outcome == Outcome.COMPLETED and job_dir.spec.is_file() else None
    folder = job_dir.artifacts / get_recipe(spec.recipe).produces if spec else None
    if spec is None or folder is None or folder == job_dir.artifacts or not folder.is_dir():
        raise NotFound(f"Job {job_id} has no finished model.", hint="Wait until it is completed.")
    kind = kind_of(folder).name
    sources = {kind: folder} | {
        part: job_dir.artifacts / part for part in ("report", "base_model") if (job_dir.artifacts / part).is_dir()
    }
    base, data = spec.model, spec.dataset
    lineage = {
        "job_name": spec.name, "method": spec.recipe, "dataset_name": data.name if data else None,
        "dataset_digest": data.digest if data else None, "base_revision": base.revision if base else None,
        "base_path": base.path if base and Path(base.path).is_dir() and not base.adapter_path else None,
    }  # fmt: skip
    name = body.name or _as_name(spec.output_name or spec.name)
    new = NewVersion(
        name=name, sources=sources, kind=kind, job_id=job_id, base_model=body.base_model or (base.name if base else None),
        lineage=lineage, hyperparameters=spec.params, metrics=dict(ended.metrics) if ended else {},
    )  # fmt: skip
    return _with(body, name, new)


def _with(body: ImportCreate, name: str, new: NewVersion) -> NewVersion:
    from dataclasses import replace

    check_name(name)
    if body.version is not None:
        number_of(body.version)
    tags = service.checked_tags(body.tags)
    return replace(new, version=body.version, bump=body.bump, notes=body.notes, tags=tags)


def _as_name(text: str) -> str:
    """A name made of what a folder or file is called."""
    plain = unicodedata.normalize("NFKD", text).encode("ascii", "ignore").decode().replace("--", "-")
    made = "".join(char if char.isalnum() or char in "._-" else "-" for char in plain).strip("._-")[:100].strip("._-")
    return made if is_name(made) else "model"


def _size(new: NewVersion) -> int:
    files = (path for source in new.sources.values() for path in ([source] if source.is_file() else source.rglob("*")))
    return sum(path.stat().st_size for path in files if path.is_file())


# -- archives ---------------------------------------------------------------------------------------------------------


def unpack(archive: Path, folder: Path, max_bytes: int) -> None:
    """Unpack a tar, tar.gz or zip into an empty folder. Raises `BadData` or `TooLarge` naming the entry."""
    limit = min(max_bytes, max(FREE_BYTES, archive.stat().st_size * MAX_RATIO))
    seen: set[str] = set()
    left = limit
    try:
        for name, source in _entries(archive):
            place = _place(name, folder, seen)
            place.parent.mkdir(parents=True, exist_ok=True)
            left = _write(source, place, left, name)
    except DAMAGED as error:
        raise BadData(f"The archive cannot be read: {str(error)[:200]}.", hint="Make it again.") from None
    except (NotADirectoryError, FileExistsError, IsADirectoryError):
        raise BadData("The archive names a file and a folder alike.", hint="Make it again.") from None


def _entries(archive: Path) -> Iterator[tuple[str, IO[bytes]]]:
    """`(name, content)` of each file. Raises `BadData` for links, devices and archives with a password."""
    if zipfile.is_zipfile(archive):
        with zipfile.ZipFile(archive) as opened:
            _check_count(len(opened.infolist()))
            for info in opened.infolist():
                kind = (info.external_attr >> 16) & 0o170000
                if kind not in (0, 0o100000, 0o040000):
                    raise _bad(info.filename, "is a link or a device")
                if not info.is_dir():
                    with opened.open(info) as content:
                        yield info.filename, content
        return
    with tarfile.open(archive) as tar:
        for number, member in enumerate(tar, start=1):
            _check_count(number)
            if member.isdir():
                _checked_parts(member.name)
            elif not member.isreg() or member.issparse():
                raise _bad(member.name, "is a link, a device or sparse")
            elif source := tar.extractfile(member):
                yield member.name, source


def _check_count(number: int) -> None:
    if number > MAX_ENTRIES:
        raise TooLarge(f"The archive has more than {MAX_ENTRIES} entries.")


def _place(name: str, folder: Path, seen: set[str]) -> Path:
    """Where an entry goes. Raises `BadData` for a way out of the folder and for a name that is there twice."""
    parts = _checked_parts(name)
    folded = unicodedata.normalize("NFC", "/".join(parts)).casefold()
    if folded in seen:
        raise _bad(name, "is there twice")
    seen.add(folded)
    return folder.joinpath(*parts)


def _checked_parts(name: str) -> tuple[str, ...]:
    path = PurePosixPath(name)
    odd = "\\" in name or "\0" in name or name[1:2] == ":" or any(len(part.encode()) > 250 for part in path.parts)
    if path.is_absolute() or ".." in path.parts or odd or len(path.parts) > 20:
        raise _bad(name, "leads outside of it")
    return path.parts


def _write(source: IO[bytes], place: Path, left: int, name: str) -> int:
    """Copy one entry, counting what really comes out; how many bytes are left then."""
    with place.open("xb") as file:
        while chunk := source.read(CHUNK_BYTES):
            left -= len(chunk)
            if left < 0:
                raise TooLarge(f"Unpacked, the archive exceeds its limit at {name[:120]!r}.")
            file.write(chunk)
    return left


def _bad(name: str, what: str) -> BadData:
    return BadData(
        f"The archive's entry {name[:120]!r} {what}.", hint="Make the archive again, with the files themselves."
    )


def _model_folder(folder: Path) -> Path:
    """The model in an unpacked archive: at its top, or in the only folder there."""
    while True:
        inside = [path for path in folder.iterdir() if not path.name.startswith((".", "__MACOSX"))]
        ggufs = [path for path in inside if path.suffix == ".gguf"]
        if any((folder / name).is_file() for name in ("config.json", "adapter_config.json")):
            return folder
        if len(ggufs) == 1:
            return ggufs[0]
        folders = [path for path in inside if path.is_dir()]
        if len(folders) != 1:
            raise BadData(
                "The archive holds no model.",
                hint="Pack one folder with config.json and .safetensors files, an adapter, or one GGUF file.",
            )
        folder = folders[0]


@contextlib.contextmanager
def _work_folder(settings: Settings) -> Iterator[Path]:
    """A folder that is gone afterwards, and after a kill is swept."""
    store = Store(settings)
    store.make()
    folder = store.incoming / f"unpacked-{uuid.uuid4().hex}"
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)
