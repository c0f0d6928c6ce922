"""Every text that could become a path, with every known way out of a folder: nothing outside the home is read or written."""

from __future__ import annotations

import io
import json
import os
import re
import stat
import tarfile
import threading
import time
import unicodedata
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.conftest import ServerProcess
from tests.dataprep.test_archives import PNG, archive, link
from tests.security.ground import SECRET, TIMES, Item, Outside, in_address, raw, serving, share
from tunesmith.core.errors import NotFound
from tunesmith.core.job_dir import JobDir
from tunesmith.features.jobs.files import artifact

DIGEST = "a" * 64


def corpus(outside: Outside) -> list[str]:
    """Ways to the secret and to well-known files, in every disguise that has worked somewhere."""
    home, secret = outside.home, str(outside.secret)
    up = [f"{'../' * depth}{target}" for depth in range(1, 9)
          for target in ("outside/secret.txt", "etc/passwd", f"{home.name}-evil/secret.txt", "tunesmith.db")]  # fmt: skip
    absolute = [
        secret, "/etc/passwd", "/proc/self/environ", "/proc/self/root" + secret, "//" + secret, "///" + secret,
        "//proc/self/root/etc/passwd", "/proc/self/cwd", f"{outside.sibling}/secret.txt", "/dev/zero", "/dev/stdin",
    ]  # fmt: skip
    odd = [
        "~", "~/x", "~root/.ssh/id_rsa", "$HOME/x", "${HOME}", "%HOME%", "`id`", "$(id)", "; id", "| id", "&& id", "-rf", "--help",
        "C:\\Windows\\win.ini", "C:secret.txt", "\\\\host\\share\\x", "\\\\?\\C:\\x", "\\\\.\\pipe\\x", "CON", "NUL", "aux.txt",
        "file.txt::$DATA", "x:stream", ".", "..", "...", "./", "../", "/", "//", "\\", "..\\", ".\\..", "....//....//etc/passwd",
        "..;/..;/etc/passwd", ".%00./etc/passwd", "x/../../../etc/passwd", "x\\..\\..\\secret", "a" * 300, "a/" * 200 + "x",
        "x\n../secret", "x\r\n../secret", "\t../secret", " ../secret", "../secret ", "../secret.", ".. /secret", "..\u200b/secret",
        "\uff0e\uff0e\uff0fsecret.txt", "..\u2215secret.txt", "..\u2044secret.txt", "\u202e../secret", "e\u0301/../x",
        "secret.txt#", "secret.txt?x=1", "?../secret", "#/../../secret", "http://127.0.0.1/x", "s3://bucket/x", "job:1/../2",
        "job:../../x", "org/../x", "org/..", "--/--", "models--x--y", ".git/config", ".trash-1", "tunesmith.db", "settings.json",
        "{{7*7}}", "${7*7}", "%n%n%n", "\ud800", "\x7f", "0", "-1", "1e9", "NaN", "null", "true", "[]", "{}", "' OR 1=1 --",
    ]  # fmt: skip
    files = [f"file://{place}" for place in absolute] + [f"file:{place}" for place in absolute]
    plain = [*up, *absolute]
    disguised = [disguise(place) for disguise in DISGUISES for place in (*up[::2], *absolute)]
    return list(dict.fromkeys([*plain, *odd, *files, *disguised]))


DISGUISES: tuple[Callable[[str], str], ...] = (
    lambda path: path.replace("/", "\\"),
    lambda path: path.replace("..", "%2e%2e"),
    lambda path: path.replace("/", "%2f"),
    lambda path: quote(path, safe="").replace(".", "%2e"),
    lambda path: quote(path, safe="").replace(".", "%2e").replace("%", "%25"),
    lambda path: path.replace("..", "%c0%ae%c0%ae"),
    lambda path: path.replace("/", "%c0%af"),
    lambda path: path.replace("../", "....//"),
    lambda path: path.replace("../", "..././"),
    lambda path: path.replace("../", "..;/"),
    lambda path: path.replace("/", "/./"),
    lambda path: path.replace("/", "//"),
    lambda path: path.replace("/", "\uff0f").replace(".", "\uff0e"),
    lambda path: f"x/{path}",
    lambda path: f"{path}\x00.png",
    lambda path: f"{path}%00.png",
    lambda path: f"{path}/.",
    lambda path: f"./{path}",
    lambda path: f"{path}?x=.png",
    lambda path: f"{path}#.png",
)

IN_ADDRESSES = (
    "/api/v1/datasets/1/media/{}", "/api/v1/datasets/{}", "/api/v1/datasets/1/preview?version={}",
    "/api/v1/datasets/1/download?version={}&format=parquet", "/api/v1/datasets/uploads/{}", "/api/v1/jobs/1/artifacts/{}",
    "/api/v1/jobs/{}/report", "/api/v1/jobs/{}/logs", "/api/v1/jobs/{}/logs/download", "/api/v1/jobs/{}/download",
    "/api/v1/models/{}", "/api/v1/models/detail?name={}", "/api/v1/models/checksums?name={}", "/models/{}", "/models/{}?tab=files",
    "/models/{}?tab=card", "/datasets/{}", "/jobs/{}", "/static/x/{}", "/static/{}/js/app.js", "/icons/{}.svg", "/{}",
    "/api/v1/system/storage/cleanups/{}", "/api/v1/jobs/?batch_id={}", "/playground?model={}",
)  # fmt: skip
OTHER_METHODS = (
    ("POST", "/api/v1/datasets/1/versions/{}/restore"), ("POST", "/api/v1/system/storage/cleanups/{}"),
    ("PATCH", "/api/v1/datasets/uploads/{}?offset=0"), ("DELETE", "/api/v1/datasets/uploads/{}"),
    ("POST", "/api/v1/datasets/uploads/{}/commit"), ("POST", "/api/v1/datasets/uploads/{}/preview"),
    ("DELETE", "/api/v1/models/collection/{}"), ("DELETE", "/api/v1/jobs/{}"), ("DELETE", "/api/v1/datasets/{}"),
)  # fmt: skip


def some(places: Sequence[Item], number: int) -> Sequence[Item]:
    """Outside the soak a third of the places a text, so that each place gets many texts and each text many places."""
    return places if TIMES > 1 else places[number % 3 :: 3]


def bodies(text: str) -> Iterator[tuple[str, str, Any]]:
    """Requests whose JSON holds the text wherever a name could become a path."""
    job = {"start": "manual"}
    yield "POST", "/datasets/uploads", {"name": text, "size_bytes": 10}
    yield "POST", "/jobs/plan", {"model": text, "dataset_id": 1}
    yield "POST", "/jobs/plan", {"model": "x", "dataset_id": 1, "dataset_version": text}
    yield "POST", "/jobs/", {**job, "method": "custom", "name": text, "hyperparameters": {"script": "pass"}}
    yield "POST", "/jobs/", {**job, "method": text}
    yield "POST", "/jobs/", {**job, "model": text}
    yield "POST", "/chat/completions", {"model": text, "messages": [{"role": "user", "content": "x"}]}
    yield "POST", "/models/collection", {"name": text}
    yield "PATCH", "/datasets/1", {"name": text, "shape": text}
    yield "PATCH", "/jobs/1", {"name": text, "tags": [text]}
    yield "PATCH", "/system/settings", {"default_model": text, "default_method": text}
    if not text.startswith("/"):  # an absolute folder is what these are there for
        yield "POST", "/system/settings/test-directory", {"path": text}
        yield "PATCH", "/system/settings", {"output_dir": text}


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("paths") / "home"


@pytest.fixture(scope="module")
def outside(home: Path) -> Outside:
    return Outside(home)


@pytest.fixture(scope="module")
def server(home: Path, outside: Outside) -> Iterator[ServerProcess]:
    """With a dataset and a job to aim at; nothing is processed and nothing starts."""
    settings = {"TUNESMITH_DATASET_WORKERS": "0", "TUNESMITH_CPU_SLOTS": "0", "TUNESMITH_CUSTOM_SCRIPTS": "true"}
    with serving(home, **settings) as server:
        server.client.put("/datasets/upload?file_name=a.csv", content=b"a,b\n1,2\n").raise_for_status()
        job = {"method": "custom", "hyperparameters": {"script": "pass"}, "start": "manual", "name": "one"}
        server.client.post("/jobs/", json=job).raise_for_status()
        folder = home / "jobs" / "1" / "artifacts" / "part"
        folder.mkdir(parents=True)
        (folder / "secret.txt").write_text("mine")
        yield server


def check(place: str, answer: tuple[int, dict[str, str], bytes]) -> None:
    status, _, body = answer
    assert status < 500, f"{place}: {status} {body[:300]!r}"
    assert SECRET.encode() not in body and b"root:x:0:0" not in body, f"{place} gave what lies outside"


def test_the_corpus_is_large_enough(outside: Outside) -> None:
    assert len(corpus(outside)) >= 500


def test_no_address_leads_outside(server: ServerProcess, outside: Outside) -> None:
    for number, text in enumerate(share(corpus(outside))):
        shapes = in_address(text)
        for shown in shapes if TIMES > 1 else [shapes[number % len(shapes)]]:
            for place in some(IN_ADDRESSES, number):
                check(place.format(shown), raw(server.port, "GET", place.format(shown)))
            for method, place in some(OTHER_METHODS, number):
                target = place.format(shown)
                if target not in ("/api/v1/datasets/1", "/api/v1/jobs/1"):
                    check(
                        f"{method} {target}", raw(server.port, method, target, b"{}", content_type="application/json")
                    )
    outside.check_untouched()
    assert server.client.get("/datasets/1").status_code == 200, "what was there is still there"


def test_no_name_in_a_request_leads_outside(server: ServerProcess, outside: Outside) -> None:
    for number, text in enumerate(share(corpus(outside))):
        for method, path, body in some(list(bodies(text)), number):
            content = json.dumps(body).encode()
            answer = raw(server.port, method, f"/api/v1{path}", content, content_type="application/json")
            check(f"{method} {path} {text!r}", answer)
    outside.check_untouched()


def test_no_uploaded_files_name_leads_outside(server: ServerProcess, outside: Outside) -> None:
    for text in share(corpus(outside)):
        name = quote(text, safe="", errors="replace")
        place = f"/api/v1/datasets/upload?file_name={name}&name={name}"
        check(place, raw(server.port, "PUT", place, b"a,b\n1,2\n"))
        for given_name in (text, quote(text, errors="replace")):
            content_type, body = multipart(given_name)
            check(f"multipart {text!r}", raw(server.port, "POST", "/api/v1/datasets/", body, content_type=content_type))
    outside.check_untouched()
    known = {"original"}
    assert {path.name for path in (server.home / "datasets").rglob("*") if path.is_file()} == known
    assert all(
        re.fullmatch(r"[0-9a-f-]{36}\.(part|resumable)", path.name) for path in (server.home / "uploads").iterdir()
    )
    assert SECRET not in server.log()


def multipart(file_name: str) -> tuple[str, bytes]:
    shown = file_name.encode("utf-8", "replace").replace(b'"', b'\\"')
    part = (
        b'--b\r\nContent-Disposition: form-data; name="file"; filename="' + shown + b'"\r\n\r\na,b\n1,2\n\r\n--b--\r\n'
    )
    return "multipart/form-data; boundary=b", part


@settings(max_examples=100 * TIMES, deadline=None)
@given(st.text(st.characters(exclude_characters="\0"), max_size=60), st.integers(0, 6))
def test_an_artifacts_name_stays_inside(name: str, ups: int) -> None:
    folder = JobDir(Path(__file__).parent / "nowhere")
    try:
        found = artifact(folder, "../" * ups + name)
    except NotFound:
        return
    os.close(found)
    raise AssertionError(f"{ups} up, {name!r}: something was opened")


@pytest.mark.parametrize("target", ["folder", "file"])
def test_a_link_that_changes_while_it_is_read(server: ServerProcess, outside: Outside, target: str) -> None:
    """Whoever wins the race, what lies outside is not given away."""
    place = server.home / "jobs" / "1" / "artifacts" / f"race-{target}"
    inside, evil = place.with_name(f"kept-{target}"), place.with_name(f"evil-{target}")
    if target == "folder":
        inside.mkdir()
        (inside / "secret.txt").write_text("mine")
        evil.symlink_to(outside.folder)
        name = f"{place.name}/secret.txt"
    else:
        inside.write_text("mine")
        evil.symlink_to(outside.secret)
        name = place.name
    stop = threading.Event()

    def swap() -> None:
        while not stop.is_set():
            for now in (inside, evil):
                os.rename(now, place)
                time.sleep(0.0005)
                os.rename(place, now)

    thread = threading.Thread(target=swap)
    thread.start()
    seen: set[int] = set()
    try:
        for _ in range(100 * TIMES):
            answer = raw(server.port, "GET", f"/api/v1/jobs/1/artifacts/{name}")
            check(name, answer)
            seen.add(answer[0])
    finally:
        stop.set()
        thread.join()
    assert seen <= {200, 404}


# -- archives -----------------------------------------------------------------------------------------------------------

OUT_NAMES = (
    "../evil.png", "../../../../../../evil.png", "a/../../evil.png", "/tmp/evil.png", "//tmp/evil.png", "C:/evil.png", "C:evil.png",
    "\\\\host\\share\\evil.png", "..\\evil.png", "a\\..\\..\\evil.png", "%2e%2e/evil.png", "..%2fevil.png", "%2e%2e%2fevil.png",
    "..%252fevil.png", "..%c0%afevil.png", "....//evil.png", "./../evil.png", "a/./../../evil.png", "\uff0e\uff0e/evil.png",
    "..\u2215evil.png", "~/evil.png", "$HOME/evil.png", "a/\x00/evil.png", "evil.png\x00.txt", "evil.png ", "evil.png.",
    "evil.png::$DATA", "a\n../evil.png", "../home-evil/evil.png", "../../home-evil/x/evil.png", "proc/self/root/evil.png",
    " /evil.png", "a/" * 100 + "evil.png", "e" * 4000 + ".png", ".png", "..png", "...", "con.png", "-rf.png", "`id`.png",
)  # fmt: skip
KINDS = {
    "symlink": stat.S_IFLNK,
    "device": stat.S_IFCHR,
    "block": stat.S_IFBLK,
    "fifo": stat.S_IFIFO,
    "socket": stat.S_IFSOCK,
}


def forms() -> dict[str, tuple[str, bytes]]:
    """Archives by what is wrong with them: `(file name, content)`."""
    made = {f"zip {name[:40]!r}": ("x.zip", archive(("a/x.png", PNG), (name, PNG))) for name in OUT_NAMES}
    for kind, mode in KINDS.items():
        made[f"zip {kind}"] = ("x.zip", archive(("a/x.png", PNG), link("a/link.png", b"../../../outside", mode)))
    made["zip written through a link"] = (
        "x.zip", archive(link("a", b"../../outside/writable"), ("a/evil.png", PNG), ("b/x.png", PNG)))  # fmt: skip
    made["zip setuid"] = ("x.zip", archive(link("evil.png", PNG, stat.S_IFREG | stat.S_ISUID | 0o7777)))
    made["zip the same twice"] = ("x.zip", archive(("a.png", PNG), ("a.png", PNG + b"2")))
    made["zip of two cases"] = ("x.zip", archive(("a.png", PNG), ("A.PNG", PNG)))
    names = [unicodedata.normalize(form, "\u00e9.png") for form in ("NFC", "NFD")]
    made["zip of two forms of a letter"] = ("x.zip", archive(*((name, PNG) for name in names)))
    nested = archive(("../evil.png", PNG))
    for depth in range(5):
        nested = archive((f"{depth}.zip", nested), ("x.png", PNG))
    made["zip in zip"] = ("x.zip", nested)
    made["zip metadata"] = (
        "x.zip", archive(("x.png", PNG), ("metadata.csv", b"file_name,media\n../../../../outside/secret.txt,/etc/passwd\n")))  # fmt: skip
    for suffix, mode in (("tar", "w"), ("tar.gz", "w:gz"), ("tgz", "w:gz")):
        for kind in (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE, tarfile.REGTYPE):
            made[f"{suffix} of {kind!r}"] = (f"x.{suffix}", tar(mode, kind))
    return made


def tar(mode: str, kind: bytes) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode=mode) as file:  # type: ignore[call-overload]
        info = tarfile.TarInfo("../evil.png")
        info.type, info.linkname, info.mode = kind, "../outside/secret.txt", 0o4777
        content = PNG if kind == tarfile.REGTYPE else b""
        info.size = len(content)
        file.addfile(info, io.BytesIO(content))
    return buffer.getvalue()


def test_archives_leave_nothing_anywhere_else(tmp_path: Path) -> None:
    assert len(forms()) >= 60
    outside = Outside(tmp_path / "home")
    names = share(list(forms()), always=6)
    with serving(outside.home, TUNESMITH_DATASET_WORKERS="2") as server:
        ids = {}
        for what in names:
            file_name, content = forms()[what]
            made = server.client.put(f"/datasets/upload?file_name={file_name}", content=content)
            ids[what] = made.raise_for_status().json()["id"]
        for what, dataset_id in ids.items():
            found = server.wait_for(f"/datasets/{dataset_id}", lambda d: d["status"] != "processing", 240)
            if found["status"] == "failed":
                assert found["error"]["error"] != "tunesmith_error" and found["error"]["hint"], (
                    f"{what}: {found['error']}"
                )
            for path in (outside.home / "datasets" / str(dataset_id)).rglob("*"):
                mode = path.lstat().st_mode
                assert stat.S_ISREG(mode) or stat.S_ISDIR(mode), f"{what}: {path}"
                assert not mode & (stat.S_ISUID | stat.S_ISGID) or stat.S_ISDIR(mode), f"{what}: {path}"
                if path.parent.name == "media":
                    assert re.fullmatch(r"\d{7}\.png", path.name) and path.stat().st_nlink == 1, f"{what}: {path}"
        assert not [path for path in tmp_path.rglob("*evil*") if not path.is_relative_to(outside.sibling)]
        assert SECRET not in json.dumps([server.client.get(f"/datasets/{n}/preview").json() for n in ids.values()])
    outside.check_untouched()


def test_zip_names_that_the_library_would_change_are_as_sent() -> None:
    """The corpus above is what it says: the writer does not clean names."""
    with zipfile.ZipFile(io.BytesIO(archive(("../evil.png", PNG)))) as file:
        assert file.namelist() == ["../evil.png"]
