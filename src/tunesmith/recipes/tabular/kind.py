"""What a finished model of a table is: its files, and what they say. Light: reads JSON and sizes of files only."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from tunesmith.core.errors import BadData, NotFound, UnsupportedFormat
from tunesmith.core.model_kind import Description, ModelKind
from tunesmith.recipes.model_info import PICKLE_SUFFIXES

TABULAR_TASKS = ("tabular-classification", "tabular-regression")
FORMAT, SCHEMA = "tunesmith-tabular", 1
MODEL_FILE = "model.json"
MAX_JSON_BYTES = 64 * 1024**2
SUFFIXES = {"lightgbm": ".txt", "catboost": ".cbm", "linear": ".safetensors"}
"""Kind of member → the suffix of its file."""
MAX_CHOICES = 50
"""Categories that a form lists; a column with more is typed in."""
USAGE = """from tunesmith.recipes.tabular.predictor import load

model = load("{folder}", threads=1)
print(model.columns)
print(model.predict([dict()], dict()))  # each row: column and value; a column that is left out is a missing value
"""


def is_tabular_model(path: Path) -> bool:
    """Whether a folder's `model.json` begins as ours do."""
    try:
        with (path / MODEL_FILE).open("rb") as file:
            return f'"format": "{FORMAT}"'.encode() in file.read(200)
    except OSError:
        return False


def read_model_json(folder: Path) -> dict[str, Any]:
    """`model.json`, checked for what everybody relies on. Raises `NotFound`, `BadData` or `UnsupportedFormat`."""
    path = folder / MODEL_FILE
    if not path.is_file():
        raise NotFound(f"{folder.name} has no {MODEL_FILE}.", hint="Download the model again; it may be incomplete.")
    if path.stat().st_size > MAX_JSON_BYTES:
        raise BadData(f"{MODEL_FILE} is larger than any that is written here.")
    try:
        found = json.loads(path.read_bytes())
    except ValueError:
        raise BadData(f"{MODEL_FILE} is not JSON.", hint="Download the model again; it may be cut off.") from None
    if not isinstance(found, dict) or found.get("format") != FORMAT:
        raise UnsupportedFormat(f"{MODEL_FILE} is not of a tabular model.")
    if found.get("schema") != SCHEMA:
        raise UnsupportedFormat(
            f"{MODEL_FILE} has schema {found.get('schema')!r}; {SCHEMA} is read here.", hint="Update Tunesmith."
        )
    _check_form(found)
    return found


def _check_form(found: dict[str, Any]) -> None:
    forms = {"task": str, "target": str, "columns": list, "members": list, "files": dict, "encoding": dict}
    for name, form in forms.items():
        if not isinstance(found.get(name), form):
            raise BadData(f"{MODEL_FILE} has no usable {name!r}.")
    if found["task"] not in TABULAR_TASKS:
        raise BadData(f"{MODEL_FILE} names the task {found['task']!r}.", hint=f"One of {', '.join(TABULAR_TASKS)}.")
    if found["task"] == TABULAR_TASKS[0] and not (isinstance(found.get("classes"), list) and len(found["classes"]) > 1):
        raise BadData(f"{MODEL_FILE} names no classes.")
    for column in found["columns"]:
        if (
            not isinstance(column, dict)
            or not isinstance(column.get("name"), str)
            or not isinstance(column.get("type"), str)
        ):
            raise BadData(f"{MODEL_FILE} describes a column without name or type.")
    for member in found["members"]:
        suffix = SUFFIXES.get(member.get("model", "")) if isinstance(member, dict) else None
        if suffix is None or member.get("file") not in found["files"] or not member["file"].endswith(suffix):
            raise UnsupportedFormat(f"{MODEL_FILE} names a model that is not read here.")
    for name, known in found["files"].items():
        plain = name and name == Path(name).name and not name.startswith(".")
        if not plain or not isinstance(known, dict) or not isinstance(known.get("size"), int):
            raise BadData(f"{MODEL_FILE} names a file that cannot be: {name[:80]!r}.")
        if not name.endswith((*SUFFIXES.values(), ".json")):
            raise UnsupportedFormat(f"{name} is of a format that is not read here.")


def check_files(folder: Path, found: dict[str, Any]) -> None:
    """Each named file is there with its size, and none that could run code lies beside. Raises naming the file."""
    for path in sorted(folder.iterdir()):
        if path.suffix.lower() in (*PICKLE_SUFFIXES, ".joblib", ".npy", ".npz"):
            raise UnsupportedFormat(
                f"{path.name} is of a format that can run code when it is read.",
                hint="Remove it from the model's folder.",
            )
    for name, known in found["files"].items():
        path = folder / name
        if not path.is_file():
            raise NotFound(f"{name} is missing.", hint="Download the model again; it may be incomplete.")
        if path.stat().st_size != known["size"]:
            raise BadData(
                f"{name} has {path.stat().st_size:,} bytes instead of {known['size']:,}.",
                hint="Download the model again.",
            )


def inputs_of(columns: list[dict[str, Any]]) -> tuple[dict[str, Any], ...]:
    """The columns as a form draws them."""
    found = []
    for column in columns:
        shown = {
            name: column[name] for name in ("name", "type", "low", "high", "is_integer") if column.get(name) is not None
        }
        choices = column.get("choices") or []
        if column["type"] == "category" and len(choices) <= MAX_CHOICES:
            shown["choices"] = choices
        found.append(shown)
    return tuple(found)


def describe(path: Path, _base: Path | None) -> Description:
    """Task, classes and columns of a model's folder. Raises `NotFound`, `BadData` or `UnsupportedFormat` naming the file."""
    found = read_model_json(path)
    check_files(path, found)
    members = sorted({member["model"] for member in found["members"]})
    architecture = {
        "family": " + ".join(members), "num_members": len(found["members"]), "num_columns": len(found["columns"]),
        "target": found["target"], "metric": found.get("metric", ""),
    }  # fmt: skip
    labels = tuple(str(label) for label in found.get("classes") or ())
    inputs = inputs_of(found["columns"])
    return Description(architecture, task=found["task"], labels=labels, target=found["target"], inputs=inputs)


TABULAR = ModelKind(
    name="tabular",
    title="Tabular model",
    framework="lightgbm, catboost",
    tasks=TABULAR_TASKS,
    matches=is_tabular_model,
    describe=describe,
    engines=("predict",),
    load="tunesmith.recipes.tabular.predictor:load",
    usage=USAGE,
)
