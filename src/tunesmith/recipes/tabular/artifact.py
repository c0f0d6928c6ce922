"""A finished model in its folder: `model.json`, the encoding, one file for each member, a card. Reading it runs no code."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Mapping, Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.core.errors import BadData
from tunesmith.recipes.tabular.boosted_trees import CatBoostModel, LightGbmModel, Member
from tunesmith.recipes.tabular.encoding import ARRAYS_FILE, JSON_FILE, Encoding
from tunesmith.recipes.tabular.ensemble import calibrated
from tunesmith.recipes.tabular.kind import FORMAT, MODEL_FILE, SCHEMA, SUFFIXES, check_files, read_model_json
from tunesmith.recipes.tabular.linear import LinearModel

LIBRARIES = ("tunesmith", "lightgbm", "catboost", "scikit-learn", "skrub", "numpy")
CHUNK_ROWS = 20_000
"""Rows predicted at a time, so that memory stays small."""


class Part(NamedTuple):
    """One member of the mixture."""

    model: str
    fold: int
    file: str
    weight: float
    iterations: int


class TabularModel:
    """Encoding, members and calibration: what training scores, and what answers."""

    def __init__(
        self, encoding: Encoding, parts: Sequence[Part], members: Sequence[Member], num_classes: int,
        calibration: Mapping[str, Any] | None,
    ) -> None:  # fmt: skip
        self.encoding, self.parts, self.members = encoding, list(parts), list(members)
        self.num_classes, self.calibration = num_classes, calibration

    def predict_matrix(self, x: np.ndarray) -> np.ndarray:
        """(rows, classes) probabilities, or (rows,) numbers, from what `encoding.transform` gives."""
        if len(x) > CHUNK_ROWS:
            return np.concatenate([self.predict_matrix(x[at : at + CHUNK_ROWS]) for at in range(0, len(x), CHUNK_ROWS)])
        weighted = [part.weight * member.predict(x) for part, member in zip(self.parts, self.members, strict=True)]
        found = np.sum(weighted, axis=0)
        return calibrated(found, self.calibration) if self.num_classes else found

    def predict(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """The same from columns."""
        return self.predict_matrix(self.encoding.transform(values))


def load_member(folder: Path, model: str, file: str, encoding: Encoding, num_classes: int, threads: int) -> Member:
    """One member from its file. Raises `BadData` where it does not fit."""
    path, num_features = folder / file, len(encoding.features)
    if model == "lightgbm":
        return LightGbmModel(path, num_classes, num_features, threads)
    if model == "catboost":
        return CatBoostModel(path, encoding.categories, num_classes, num_features, threads)
    from safetensors import SafetensorError

    try:
        return LinearModel.load(path, num_classes)
    except (KeyError, ValueError, SafetensorError) as error:
        raise BadData(f"{file} is no linear model: {error}", hint="Download the model again.") from None


def file_name(model: str, fold: int) -> str:
    return f"{model}-{fold}{SUFFIXES[model]}"


def write_model(folder: Path, source: Path, told: dict[str, Any], model: TabularModel) -> None:
    """Copy the members' files from `source` and write `model.json`: what `told` says, with the files' sizes and digests."""
    names = [JSON_FILE, ARRAYS_FILE, *(part.file for part in model.parts)]
    files = {}
    for name in names:
        shutil.copyfile(source / name, folder / name)
        files[name] = {"size": (folder / name).stat().st_size, "sha256": _digest(folder / name)}
    whole = {
        "format": FORMAT, "schema": SCHEMA, **told,
        "members": [part._asdict() for part in model.parts],
        "calibration": model.calibration,
        "encoding": {"json": JSON_FILE, "arrays": ARRAYS_FILE},
        "files": files,
        "made_with": {name: _version(name) for name in LIBRARIES},
    }  # fmt: skip
    (folder / MODEL_FILE).write_text(json.dumps(whole, indent=1, ensure_ascii=False))


def read_model(folder: Path, threads: int) -> tuple[dict[str, Any], TabularModel]:
    """`(model.json, the model)`. Raises `NotFound`, `BadData` or `UnsupportedFormat` naming the file that cannot be used."""
    told = read_model_json(folder)
    check_files(folder, told)
    for name, known in told["files"].items():
        if _digest(folder / name) != known.get("sha256"):
            raise BadData(f"The content of {name} has changed since it was written.", hint="Download the model again.")
    from safetensors import SafetensorError

    try:
        encoding = Encoding.load(folder)
        parts = [Part(**{name: part[name] for name in Part._fields}) for part in told["members"]]
        _check(told, encoding, parts)
    except (KeyError, TypeError, ValueError, AttributeError, SafetensorError, OSError) as error:
        raise BadData(f"The model's columns cannot be read: {error}", hint="Download the model again.") from None
    num_classes = len(told.get("classes") or ())
    members = [load_member(folder, part.model, part.file, encoding, num_classes, threads) for part in parts]
    return told, TabularModel(encoding, parts, members, num_classes, told.get("calibration"))


def _check(told: dict[str, Any], encoding: Encoding, parts: list[Part]) -> None:
    """Raises `ValueError`, `TypeError` or `KeyError` where `model.json` does not fit together, so that no answer fails later."""
    columns = [(column.name, column.type) for column in encoding.columns]
    if columns != [(column["name"], column["type"]) for column in told["columns"]]:
        raise ValueError("model.json and encoding.json name different columns")
    if not parts or not all(0 <= float(part.weight) <= 1 for part in parts):
        raise ValueError("the weights of the members are not shares")
    num_classes = len(told.get("classes") or ())
    if num_classes:
        calibrated(np.full((1, num_classes), 1 / num_classes), told.get("calibration"))
    for name in ("bound", "unsure_below"):
        if told.get(name) is not None:
            float(told[name])


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return ""
