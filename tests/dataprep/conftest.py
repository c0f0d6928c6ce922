"""A request in, a stored version or an error out: by a call of the child's own `main`, or in a real child process.

The call is what the process does but for its start, which takes longer than most requests.
"""

from __future__ import annotations

import contextlib
import io
import json
import resource
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import polars as pl
import pytest

from tunesmith.dataprep.__main__ import main


@dataclass
class Answer:
    """What the child left."""

    code: int
    out: Path
    media: Path
    stderr: str
    progress: list[float]
    error: dict[str, Any] | None = None
    version: dict[str, Any] = field(default_factory=dict)
    report: dict[str, Any] = field(default_factory=dict)
    statistics: dict[str, Any] = field(default_factory=dict)

    @property
    def frame(self) -> pl.DataFrame:
        return pl.read_parquet(self.out / "data.parquet")

    def finding(self, code: str) -> dict[str, Any]:
        """The one finding of that code."""
        found = [f for f in self.report["findings"] if f["code"] == code]
        assert len(found) == 1, f"{len(found)} findings {code!r} in {self.report['findings']}"
        return dict(found[0])

    def codes(self) -> set[str]:
        return {f["code"] for f in self.report["findings"]}

    def refused(self, *words: str) -> dict[str, Any]:
        """Refused cleanly: code 2, a message with `words`, a hint, no traceback, and nothing left behind."""
        assert self.code == 2, f"code {self.code}: {self.stderr[-1500:]}"
        assert "Traceback" not in self.stderr
        assert self.error is not None
        assert set(self.error) == {"error", "message", "hint", "details"}
        assert self.error["message"]
        assert self.error["hint"], f"no remedy is named: {self.error}"
        for word in words:
            assert word.lower() in self.error["message"].lower(), self.error
        assert not self.out.exists()
        assert not [p for p in self.out.parent.iterdir() if p.name.startswith(".")]
        return self.error


Child = Callable[..., Answer]


def _in_a_process(path: Path, limit_bytes: int | None, disk_bytes: int | None) -> tuple[int, str, str]:
    """`(exit code, standard output, standard error)`."""

    def limit() -> None:
        if limit_bytes and sys.platform == "linux":
            resource.setrlimit(resource.RLIMIT_DATA, (limit_bytes, limit_bytes))
        if disk_bytes:
            resource.setrlimit(resource.RLIMIT_FSIZE, (disk_bytes, disk_bytes))

    command = [sys.executable, "-m", "tunesmith.dataprep", str(path)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=240, preexec_fn=limit)
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def child(tmp_path: Path) -> Child:
    """Run one request. `process` runs it as the server does; so do `limit_bytes`, which bounds the process's data memory,
    and `disk_bytes`, which bounds its files."""
    count = 0

    def run(
        *, process: bool = False, limit_bytes: int | None = None, disk_bytes: int | None = None, **request: Any
    ) -> Answer:
        nonlocal count
        count += 1
        place = tmp_path / f"run{count}"
        place.mkdir()
        out, media = place / "out", place / "media"
        request_path = tmp_path / f"request{count}.json"
        request_path.write_text(json.dumps({"out_dir": str(out), "media_dir": str(media), **request}))
        if process or limit_bytes or disk_bytes:
            code, stdout, stderr = _in_a_process(request_path, limit_bytes, disk_bytes)
        else:
            with contextlib.redirect_stdout(io.StringIO()) as said:
                code = main(request_path)
            stdout, stderr = said.getvalue(), ""
        lines = [json.loads(line) for line in stdout.splitlines()]
        answer = Answer(code, out, media, stderr, [x["progress"] for x in lines if "progress" in x])
        if code == 2 and lines and "error" in lines[-1]:
            answer.error = lines[-1]["error"]
        if code == 0:
            answer.version = json.loads((out / "version.json").read_text())
            answer.report = json.loads((out / "report.json").read_text())
            answer.statistics = json.loads((out / "statistics.json").read_text())
        return answer

    return run


@pytest.fixture
def ingest(child: Child, tmp_path: Path) -> Child:
    """Ingest a file: a path, or the bytes or text of one to be made."""

    def run(content: Path | bytes | str, name: str | None = None, *, ok: bool = True, **request: Any) -> Answer:
        if isinstance(content, Path):
            path, name = content, name or content.name
        else:
            assert name
            path = tmp_path / "original"
            path.write_bytes(content.encode() if isinstance(content, str) else content)
        answer = child(action="ingest", source=str(path), file_name=name, **request)
        if ok:
            assert answer.code == 0, answer.error or answer.stderr[-3000:]
            assert answer.progress == sorted(answer.progress)
            assert answer.progress[-1] == 1.0
        return answer

    return run
