"""A disk that forgets what nobody flushed: records what the processes of a test flush, and lays out what a loss of power at any
moment would have left. `power_loss.c` says by which rules.
"""

from __future__ import annotations

import ctypes
import json
import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

PLACE = "TUNESMITH_POWER_LOSS"


@dataclass(frozen=True)
class Flushed:
    """A file or folder as it was when it was last flushed."""

    number: int
    """The record that holds its content, or its entries."""
    mode: int


@dataclass(frozen=True)
class Moment:
    """The power fails just after this record."""

    number: int
    flushed: dict[str, Flushed]
    told: list[dict[str, Any]]
    """What the test had been told by then."""


class Power:
    """Everything below `root` is on the disk that forgets. What is there at the start counts as flushed."""

    def __init__(self, root: Path, record: Path) -> None:
        compiler = shutil.which("cc")
        if compiler is None:
            pytest.skip("there is no C compiler; install gcc to try a loss of power")
        record.mkdir()
        self.root, self.record, self._library = root, record, record / "library.so"
        source = Path(__file__).with_name("power_loss.c")
        subprocess.run([compiler, "-shared", "-fPIC", "-O1", "-o", self._library, source], check=True)
        self._calls = ctypes.CDLL(str(self._library))
        self._flush(root)
        self._root_id = (record / "log").read_text().split()[2]
        for folder, _, names in os.walk(root):
            for path in (*(Path(folder, name) for name in names), Path(folder)):
                if not path.is_symlink():
                    self._flush(path)

    def with_environment(self, **more: str) -> dict[str, str]:
        """The environment of a process that is recorded."""
        return {**os.environ, **more, "LD_PRELOAD": str(self._library), PLACE: str(self.record)}

    def told(self, **what: Any) -> None:
        """From now on nobody may forget this."""
        self._in_place(lambda: self._calls.power_loss_note(json.dumps(what).encode()))

    def _flush(self, path: Path) -> None:
        fd = os.open(path, os.O_RDONLY)
        self._in_place(lambda: self._calls.fsync(fd))
        os.close(fd)

    def _in_place(self, call: Any) -> None:
        os.environ[PLACE] = str(self.record)
        try:
            call()
        finally:
            del os.environ[PLACE]

    def moments(self) -> list[Moment]:
        """After each record, with all that was told before the next."""
        found: list[Moment] = []
        flushed: dict[str, Flushed] = {}
        told: list[dict[str, Any]] = []
        for line in (self.record / "log").read_text().splitlines():
            number, kind, rest = line.split(" ", 2)
            if kind == "note":
                told = [*told, json.loads(rest)]
                found[-1] = Moment(found[-1].number, flushed, told)
                continue
            who, mode = rest.split()
            flushed = {**flushed, who: Flushed(int(number), int(mode, 8))}
            found.append(Moment(int(number), flushed, told))
        return found

    def lay(self, moment: Moment, target: Path) -> None:
        """Make `target` what `root` would be."""
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir()
        self._lay_folder(self._root_id, moment.flushed, target, {})

    def _lay_folder(self, who: str, flushed: dict[str, Flushed], target: Path, made: dict[str, Path]) -> None:
        known = flushed.get(who)
        for child, mode, name, link in self._entries(known) if known else ():
            place = target / name
            if stat.S_ISLNK(mode):
                place.symlink_to(link)
            elif stat.S_ISDIR(mode):
                place.mkdir()
                self._lay_folder(child, flushed, place, made)
                place.chmod(stat.S_IMODE(mode))
            elif child in made:
                os.link(made[child], place)
            elif stat.S_ISREG(mode):
                made[child] = place
                if content := flushed.get(child):
                    shutil.copyfile(self.record / str(content.number), place)
                    place.chmod(stat.S_IMODE(content.mode))
                else:
                    place.touch()  # its name was flushed, and nothing of its content

    def _entries(self, folder: Flushed) -> Iterator[tuple[str, int, str, str]]:
        words = (self.record / str(folder.number)).read_bytes().decode().split("\0")
        for at in range(0, len(words) - 1, 4):
            yield words[at], int(words[at + 1], 8), words[at + 2], words[at + 3]
