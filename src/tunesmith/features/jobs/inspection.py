"""What a model makes of a dataset's rows, asked of a limited process outside of any transaction; answers about lengths are kept."""

from __future__ import annotations

import contextlib
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from pydantic import ValidationError

from tunesmith.core.errors import Conflict, InvalidInput, TunesmithError
from tunesmith.core.job_dir import write_atomic
from tunesmith.core.job_spec import DatasetRef, ModelRef
from tunesmith.core.recipe import Recipe
from tunesmith.features.catalog import existence
from tunesmith.features.catalog import service as catalog
from tunesmith.features.datasets import asking
from tunesmith.features.jobs.training_data import find_data
from tunesmith.recipes.catalog import get_recipe
from tunesmith.recipes.hyperparameters import SftParams
from tunesmith.recipes.row_check import OPTIONS, RowFacts
from tunesmith.recipes.shapes import CAUSAL_LM_SHAPES
from tunesmith.schemas.datasets import DatasetTokens, TokensRequest
from tunesmith.schemas.jobs import JobCreate
from tunesmith.settings import Settings
from tunesmith.storage.database import Database

MODULE = "tunesmith.recipes.inspection"
VERSION = 2
"""Raised when the same rows would be told of in another way."""
TOKENIZER_FILES = (
    "tokenizer*",
    "chat_template*",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab*",
    "merges.txt",
    "*.model",
)
WAIT_S, LOOK_S = 20.0, 90.0
"""How long a request waits for its turn, and for the answer."""


def look(settings: Settings, database: Database, body: JobCreate) -> None:
    """Ask the hub for a model that is not here, and count the tokens of the job's rows, keeping what was found for `known`.
    Whatever hinders it is for the checks of the job to say: lengths are estimated then."""
    look_for(settings, database, body.model)
    with contextlib.suppress(TunesmithError):
        recipe = get_recipe(body.method)
        options = options_of(recipe, body.hyperparameters)
        if options is None or body.model is None or body.dataset_id is None:
            return
        with database.unit_of_work(readonly=True) as session:
            model = catalog.resolve_model(settings, session, body.model)
            data = find_data(settings, session, body.dataset_id, body.dataset_version).ref
        if (
            not can_be_asked(model)
            or data.shape not in CAUSAL_LM_SHAPES
            or _kept(settings, model, data, options).is_file()
        ):
            return
        kept = _kept(settings, model, data, options)
        with _asked(settings, "facts", model, data, options) as out:
            kept.parent.mkdir(parents=True, exist_ok=True)
            write_atomic(kept, (out / "facts.json").read_bytes())


def look_for(settings: Settings, database: Database, model: str | None) -> None:
    """Ask the hub for a model that is not here, outside of any transaction; the checks of the job know its answer then."""
    with contextlib.suppress(TunesmithError):
        with database.unit_of_work(readonly=True) as session:
            found = catalog.resolve_model(settings, session, model or "")
        existence.check(settings, found.path, found.revision)


def known(
    settings: Settings, recipe: Recipe, model: ModelRef | None, data: DatasetRef | None, given: Mapping[str, Any]
) -> RowFacts | None:
    """What `look` has found; None when it was not asked, or could not tell."""
    options = options_of(recipe, given)
    if model is None or data is None or options is None or not can_be_asked(model):
        return None
    try:
        return RowFacts.model_validate_json(_kept(settings, model, data, options).read_bytes())
    except (FileNotFoundError, ValidationError):
        return None


def show(settings: Settings, database: Database, dataset_id: int, body: TokensRequest) -> DatasetTokens:
    """Rows as the model reads them. Raises `NotFound`, `Conflict` for models that are not at hand and rows that no language
    model learns from, and what the process found wrong."""
    options = {name: getattr(body, name) for name in OPTIONS}
    with database.unit_of_work(readonly=True) as session:
        model = catalog.resolve_model(settings, session, body.model)
        data = find_data(settings, session, dataset_id, body.version).ref
    if not can_be_asked(model):
        raise Conflict(f"The model {model.name} is not on this machine.", hint="Fetch it first, then look again.")
    if data.shape not in CAUSAL_LM_SHAPES:
        raise Conflict(
            f"No language model learns from rows of shape {data.shape or 'unknown'}.",
            hint="Tell which columns hold what: PATCH the dataset with a shape and a mapping.",
        )
    rows = body.rows or list(range(1, min(3, data.num_rows) + 1))
    if wrong := [row for row in rows if row > data.num_rows]:
        raise InvalidInput(
            f"There is no row {wrong[0]}.", hint=f"The rows are numbered from 1 to {data.num_rows}.",
            details=[{"loc": "row", "message": "no such row"}],
        )  # fmt: skip
    with _asked(settings, "tokens", model, data, options, max_length=body.max_length, rows=rows) as out:
        told = json.loads((out / "tokens.json").read_bytes())
    return DatasetTokens(model=model.name, version=data.digest, **told)


def options_of(recipe: Recipe, given: Mapping[str, Any]) -> dict[str, Any] | None:
    """The settings that decide about a row; those that cannot be read are for the job's own check to refuse. None for methods
    that do not learn from conversations."""
    if recipe.kind != "training" or not issubclass(recipe.params, SftParams):
        return None
    found = {}
    for name in OPTIONS:
        field = SftParams.model_fields[name]
        value = given.get(name, field.default)
        choices = get_args(field.annotation)
        is_right = value in choices if name != "system_prompt" else value is None or isinstance(value, str)
        found[name] = value if is_right else field.default
    return found


def can_be_asked(model: ModelRef) -> bool:
    """Whether its tokenizer is on this machine."""
    return Path(model.path).is_dir() and bool(_files(model))


def _files(model: ModelRef) -> list[Path]:
    """Those that decide about tokens, of the model and of the adapter over it."""
    folders = [Path(folder) for folder in (model.path, model.adapter_path) if folder]
    return sorted(
        {path for folder in folders for name in TOKENIZER_FILES for path in folder.glob(name) if path.is_file()}
    )


def _kept(settings: Settings, model: ModelRef, data: DatasetRef, options: Mapping[str, Any]) -> Path:
    """Where the answer about these rows, this tokenizer and these settings is kept."""
    files = [[path.name, path.stat().st_size, path.stat().st_mtime_ns] for path in _files(model)]
    parts = [VERSION, data.digest, model.path, files, sorted(options.items())]
    digest = hashlib.sha256(json.dumps(parts, default=str).encode()).hexdigest()
    return settings.cache_dir / "lengths" / f"{digest}.json"


def _asked(
    settings: Settings, action: str, model: ModelRef, data: DatasetRef, options: Mapping[str, Any], **more: Any
) -> contextlib.AbstractContextManager[Path]:
    request = {
        "action": action, "data": data.model_dump(), "model": model.model_dump(), "options": dict(options), **more,
    }  # fmt: skip
    return asking.asked(settings, request, asking.INSPECTING, wait_s=WAIT_S, limit_s=LOOK_S, module=MODULE)
