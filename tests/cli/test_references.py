"""Numbers and names on the command line name the same things."""

from __future__ import annotations

import json
import re
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tunesmith.cli import watch as watching
from tunesmith.cli.output import Output
from tunesmith.cli.references import _downloads, _reference, picked
from tunesmith.core.errors import InvalidInput, NotFound
from tunesmith.features.monitoring.service import _unknown_settings
from tunesmith.settings import OTHER_VARIABLES, Settings

REPO = Path(__file__).parent.parent.parent
THERE = [(1, "support"), (2, "support-night"), (3, "Twin"), (4, "Twin"), (5, "7 days"), (6, "BIG")]


def find(_client: Any, text: str) -> list[tuple[int, str]]:
    return [(number, name) for number, name in THERE if text.lower() in name.lower()]


number = _reference("job", find)


@pytest.mark.parametrize(
    ("word", "found"), [("12", 12), (" 3 ", 3), ("support", 1), ("support-night", 2), ("7 days", 5), ("big", 6)]
)
def test_a_number_or_a_name(word: str, found: int) -> None:
    assert number(word) == found


@pytest.mark.parametrize(
    ("word", "error", "said"),
    [("0", InvalidInput, "names no job"), ("-4", InvalidInput, "names no job"), ("", InvalidInput, "names no job"),
     ("Twin", InvalidInput, "2 jobs are called Twin: 3, 4."), ("supp", NotFound, "Did you mean 1 (support), 2 (support-night)?"),
     ("nothing", NotFound, "See: tunesmith jobs list")],
)  # fmt: skip
def test_what_names_nothing_or_several_says_so(word: str, error: type[Exception], said: str) -> None:
    with pytest.raises(error) as raised:
        number(word)
    assert said in f"{raised.value} {raised.value.hint}"  # type: ignore[attr-defined]


def test_the_doctor_knows_every_documented_variable() -> None:
    source = REPO / "src" / "tunesmith"
    texts = [
        *(REPO / "docs").glob("*.md"),
        REPO / "README.md",
        *source.glob("ui/**/*.html"),
        *source.glob("ui/**/*.py"),
    ]
    texts += [*source.glob("schemas/*.py"), *source.glob("cli/*.py")]
    named = {name for text in texts for name in re.findall(r"\bTUNESMITH_[A-Z][A-Z0-9_]*[A-Z0-9]\b", text.read_text())}
    known = {f"TUNESMITH_{name.upper()}" for name in Settings.model_fields} | set(OTHER_VARIABLES)
    assert len(named) > 40
    assert named <= known | {"TUNESMITH_RANKS"}, named - known
    documented = (REPO / "docs" / "settings.md").read_text()
    assert not [name for name in known if f"`{name}`" not in documented]


def test_the_doctor_names_what_it_does_not_know(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("tunesmith_port", "8000")
    monkeypatch.setenv("TUNESMITH_KEY", "x")
    (known,) = _unknown_settings(Settings(home=tmp_path))
    monkeypatch.setenv("TUNESMITH_PROT", "8000")
    (odd,) = _unknown_settings(Settings(home=tmp_path))
    assert known.status == "ok" and odd.status == "warning" and odd.message == "unknown: TUNESMITH_PROT"


def test_a_download_and_a_key_go_by_name_too() -> None:
    downloads = [SimpleNamespace(id=2, name="acme/small"), SimpleNamespace(id=1, name="acme/small")]
    client: Any = SimpleNamespace(models=SimpleNamespace(downloads=lambda: downloads))
    assert picked("download", "acme/small", lambda word: _downloads(client, word)) == 2, "the newest of that model"
    keys = [(4, "laptop"), (5, "desk")]
    assert picked("key", "laptop", lambda _: keys) == 4 and picked("key", 5, lambda _: keys) == 5
    with pytest.raises(NotFound) as absent:
        picked("download", "small", lambda word: _downloads(client, word), "tunesmith models downloads")
    assert absent.value.hint == "Did you mean 2 (acme/small)?"
    with pytest.raises(NotFound) as nothing:
        picked("download", "other", lambda word: _downloads(client, word), "tunesmith models downloads")
    assert nothing.value.hint == "See: tunesmith models downloads"


@pytest.mark.parametrize("as_json", [False, True])
def test_a_watch_without_a_terminal_tells_why_a_job_waits(
    as_json: bool, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Output, "as_json", as_json)
    monkeypatch.setattr(watching, "ASK_EVERY_S", 0.02)

    def events() -> Iterator[dict[str, Any]]:
        yield {"type": "status", "new": "queued"}
        time.sleep(0.3)
        yield {"type": "status", "new": "completed"}

    assert watching.watch(events(), "a job", waiting_for=lambda: "job 3 is before it")["new"] == "completed"
    told = capsys.readouterr()
    assert f"{told.out}{told.err}".count("job 3 is before it") >= 1
    if as_json:
        (notice,) = [line for line in map(json.loads, told.out.splitlines()) if line["type"] == "notice"]
        assert notice["code"] == "waiting" and notice["message"] == "job 3 is before it"
