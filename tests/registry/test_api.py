"""The registry over HTTP, with its command line and its Python client, against one running server."""

from __future__ import annotations

import io
import subprocess
import tarfile
import zipfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from tests.catalog.ground import make_base
from tests.conftest import ServerProcess, kill_processes_of
from tests.registry.ground import adapter, flip, weights
from tunesmith.cli.main import app
from tunesmith.core.errors import Conflict, InUse, InvalidInput, NotFound
from tunesmith.sdk.client import Client


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[ServerProcess]:
    home = tmp_path_factory.mktemp("registry") / "home"
    made = ServerProcess(home, {"TUNESMITH_MIN_FREE_BYTES": "0"}).start()
    yield made
    made.stop()
    made.client.close()
    kill_processes_of(home)


@pytest.fixture
def client(server: ServerProcess) -> Iterator[Client]:
    with Client(server.url) as made:
        yield made


@pytest.fixture
def name(request: pytest.FixtureRequest) -> str:
    return request.node.name.split("[")[0].replace("_", "-")[5:60].strip("-")


def on_server(server: ServerProcess, name: str, seed: int = 0) -> str:
    """A model in the server's folder; the path to import it by."""
    folder = server.home / "models" / f"{name}-{seed}"
    make_base(folder)
    weights(folder / "model.safetensors", seed)
    return folder.name


def three(server: ServerProcess, client: Client, name: str) -> None:
    for seed in range(3):
        client.registry.import_model(path=on_server(server, name, seed), name=name, notes=f"number {seed}")


def test_aliases_move_back_and_forth_and_stages_are_kept(server: ServerProcess, client: Client, name: str) -> None:
    three(server, client, name)
    registry = client.registry
    assert [item.version for item in registry.versions(name)] == ["1.2.0", "1.1.0", "1.0.0"]
    for version in ("1.0.0", "1.1.0", "latest"):
        registry.set_alias(name, "champion", version)
    assert registry.get(f"{name}@champion").version == "1.2.0"
    assert registry.roll_back(name, "champion").version == "1.1.0"
    with pytest.raises(InUse, match="alias champion"):
        registry.delete(f"{name}@1.1.0")
    registry.delete(f"{name}@1.0.0")
    with pytest.raises(Conflict, match="no other version"):
        registry.roll_back(name, "champion")
    registry.set_stage(f"{name}@1.2.0", "production")
    assert registry.update(f"{name}@1.2.0", tags=["x"], notes="good").tags == ["x"]
    told = [(event.event, event.details.get("rollback")) for event in registry.events(name)]
    assert ("alias", True) in told and ("stage", None) in told and ("deleted", None) in told
    with pytest.raises(InvalidInput, match="cannot be an alias"):
        registry.set_alias(name, "latest", "1.1.0")
    with pytest.raises(NotFound):
        registry.set_alias(name, "other", "9.9.9")
    kept = registry.clean(name=name, keep_last=1, dry_run=False)
    assert [item.why for item in kept.kept] == ["alias champion"] and not kept.removed
    registry.remove_alias(name, "champion")
    assert [item.ref for item in registry.clean(name=name, keep_last=1).removed] == [f"{name}@1.1.0"]
    assert len(list(registry.versions(name))) == 2, "a dry run deletes nothing"
    assert not registry.clean(name=name).removed, "a policy that says nothing takes nothing"
    registry.clean(name=name, keep_last=1, dry_run=False)
    assert [item.version for item in registry.versions(name)] == ["1.2.0"]


def test_search_compare_diff_and_changelog(server: ServerProcess, client: Client, name: str) -> None:
    three(server, client, name)
    registry = client.registry
    with_one = registry.import_model(path=f"{name}-1", name=name, bump="major", tags=["kept"])
    assert with_one.version == "2.0.0" and with_one.digest == registry.get(f"{name}@1.1.0").digest
    assert [v.ref for v in registry.search(q=name, tag="kept", family="llama", kind="model")] == [with_one.ref]
    assert list(registry.search(name=name, metric=["eval_loss<1"])) == []
    with pytest.raises(InvalidInput, match="condition"):
        list(registry.search(metric=["eval_loss is low"]))
    found = registry.compare([f"{name}@1.0.0", f"{name}@1.2.0"])
    assert [item.field for item in found.files if item.differs] == ["model.safetensors"]
    assert [item.field for item in registry.diff(f"{name}@2.0.0", "1.1.0").files] == []
    log = list(registry.changelog(name))
    assert [(e.version, e.before) for e in log] == [
        ("2.0.0", "1.2.0"),
        ("1.2.0", "1.1.0"),
        ("1.1.0", "1.0.0"),
        ("1.0.0", None),
    ]
    assert registry.usage(name)[0].requests == 0
    first = server.client.get(f"/registry/{name}/versions?limit=2").json()
    second = server.client.get(f"/registry/{name}/versions?limit=2&cursor={first['next_cursor']}").json()
    assert [v["version"] for v in first["items"] + second["items"]] == [e.version for e in log]


def packed(entries: dict[str, bytes], kind: str = "tar.gz") -> bytes:
    made = io.BytesIO()
    if kind == "zip":
        with zipfile.ZipFile(made, "w") as archive:
            for entry, data in entries.items():
                archive.writestr(entry, data)
        return made.getvalue()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        for entry, data in entries.items():
            info = tarfile.TarInfo(entry)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return made.getvalue()


def link(target: str) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as tar:
        info = tarfile.TarInfo("m/config.json")
        info.type, info.linkname = tarfile.SYMTYPE, target
        tar.addfile(info)
    return made.getvalue()


BAD = {
    "../escape.tar.gz": packed({"../../evil": b"x"}),
    "absolute.zip": packed({"/etc/evil": b"x"}, "zip"),
    "up.zip": packed({"m/../../evil": b"x"}, "zip"),
    "link.tar.gz": link("/etc/passwd"),
    "twice.zip": packed({"m/Config.json": b"{}", "m/config.json": b"{}"}, "zip"),
    "nothing.tar.gz": packed({"m/readme": b"x"}),
    "broken.tar.gz": packed({"m/config.json": b"{}" * 9000})[:-20],
    "text.zip": b"hello",
    "forged.gguf": b"GGUF" + b"\xff" * 200,
    "bomb.tar.gz": packed({"m/config.json": b"\0" * 80_000_000}),
    "pickle.tar.gz": packed({"m/config.json": b"{}", "m/pytorch_model.bin": b"x"}),
}


@pytest.mark.parametrize("file_name", BAD)
def test_bad_archives_are_refused_and_leave_nothing(server: ServerProcess, file_name: str) -> None:
    answer = server.client.put("/registry/import/upload", params={"file_name": file_name}, content=BAD[file_name])
    assert answer.status_code in (413, 415, 422), answer.text
    assert not list(server.home.rglob("evil")) and not list((server.home / "registry" / "incoming").iterdir())
    assert not list((server.home / "uploads").iterdir())


def test_only_allowed_places_are_imported_from(client: Client, tmp_path: Path) -> None:
    make_base(tmp_path / "m")
    for path in (str(tmp_path / "m"), "../jobs", "/etc", ".", ""):
        with pytest.raises(InvalidInput):
            client.registry.import_model(path=path)
    with pytest.raises(NotFound):
        client.registry.import_model(path="not-there")
    with pytest.raises(NotFound):
        client.registry.import_model(job_id=99)


def test_an_export_comes_back_as_it_was(server: ServerProcess, client: Client, name: str, tmp_path: Path) -> None:
    folder = adapter(tmp_path / "a", base="some/base")
    with tarfile.open(tmp_path / "bot.tar", "w") as tar:
        tar.add(folder, "a")
    made = client.registry.upload(tmp_path / "bot.tar", name=name, version="3.1.4")
    assert (made.version, made.kind, made.base_model) == ("3.1.4", "adapter", "some/base")
    saved = client.registry.export(made.ref, tmp_path / "out.tar.gz")
    with tarfile.open(saved) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    inside = tmp_path / "out" / f"{name}-3.1.4"
    assert subprocess.run(["sha256sum", "-c", "SHA256SUMS", "--quiet"], cwd=inside).returncode == 0
    again = client.registry.upload(saved, name=name)
    assert again.version == "3.2.0" and again.digest == made.digest, "what an export adds is left out again"


def said(*words: str) -> tuple[int, str]:
    """Exit code and output of a command, run in this process."""
    found = CliRunner().invoke(app, words, env={"COLUMNS": "200"})
    return found.exit_code, found.output


def content(server: ServerProcess, client: Client, ref: str, path: str) -> Path:
    """The stored file behind a file of a version."""
    digest = next(file.sha256 for file in client.registry.get(ref).files if file.path == path)
    return next((server.home / "registry" / "blobs").rglob(digest))


def test_the_command_line_finds_damage_repairs_it_and_checks_signatures(
    server: ServerProcess, client: Client, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_URL", server.url)
    made = client.registry.import_model(path=on_server(server, name, 77), name=name)
    key, public = tmp_path / "key.pem", tmp_path / "key.pub"
    subprocess.run(["openssl", "genpkey", "-algorithm", "ed25519", "-out", key], check=True)
    subprocess.run(["openssl", "pkey", "-in", key, "-pubout", "-out", public], check=True)
    assert said("registry", "verify", made.ref, "--key", str(public))[0] == 1, "not signed yet"
    assert said("registry", "sign", made.ref, "--key", str(key))[0] == 0
    code, text = said("registry", "verify", made.ref, "--key", str(public))
    assert code == 0 and "All 1 versions are as they were registered." in text
    flip(content(server, client, made.ref, "model.safetensors"))
    code, text = said("models", "verify", made.ref)
    assert code == 1 and "model.safetensors" in text
    answer = server.client.get(f"/registry/{name}/versions/latest/export")
    assert answer.status_code == 409 and "model.safetensors" in answer.json()["message"]
    assert [item.ref for item in client.registry.health().damaged] == [made.ref]
    other = client.registry.import_model(path=f"{name}-77", name=name)  # brings the same content again
    assert "repaired" in said("registry", "verify", made.ref, "--repair")[1]
    assert said("registry", "verify", made.ref)[0] == 0
    weights(server.home / "models" / f"{name}-77" / "model.safetensors", 78)
    changed = client.registry.import_model(path=f"{name}-77", name=name)
    bundle: dict[str, Any] = client.registry.signature(made.ref)
    client.registry.keep_signature(other.ref, bundle)  # the very same files
    with pytest.raises(InvalidInput, match="does not name the files"):
        client.registry.keep_signature(changed.ref, bundle)


def test_every_command_answers(
    server: ServerProcess, client: Client, name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TUNESMITH_URL", server.url)
    three(server, client, name)
    ref = f"{name}@1.1.0"
    for words, text in {
        ("list", "-q", name): name, ("show", ref): "model.safetensors", ("versions", name): "number 2",
        ("alias", name, "champion", "1.0.0"): "is 1.0.0", ("alias", name, "champion", "latest"): "is 1.2.0",
        ("alias", name, "champion", "--rollback"): "is 1.0.0", ("stage", ref, "staging"): "in stage staging",
        ("tag", ref, "a", "b", "--notes", "n"): "a, b", ("diff", ref, "1.0.0"): "model.safetensors",
        ("compare", ref, f"{name}@1.0.0"): ref, ("search", name, "--tag", "b"): ref, ("health",): "names",
        ("clean", "--name", name, "--keep-last", "2"): "stays: alias champion", ("export", ref, str(tmp_path)): "Saved",
        ("import", f"{name}-0", "--on-server", "--name", name, "--bump", "patch"): f"{name}@1.2.1",
        ("alias", name, "champion", "--remove"): "no alias",
    }.items():  # fmt: skip
        code, told = said("registry", *words)
        assert code == 0 and text in told, (words, told)
