"""`job.yaml`: the sections of the field, read safely, with every problem named at once."""

from __future__ import annotations

import difflib
from collections import defaultdict
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from tunesmith.core.errors import InvalidInput
from tunesmith.core.job_spec import ResourceRequest
from tunesmith.core.job_status import Priority
from tunesmith.core.validation import message_of
from tunesmith.core.words import plural
from tunesmith.recipes.catalog import get_recipe
from tunesmith.schemas.read_options import ReadOptions

SECTIONS = ("hyperparameters", "optimization", "evaluation")
"""One set of names: which section a parameter stands in does not matter."""


class _Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class ModelSection(_Section):
    """`model`"""

    name: str
    """Hub id, local name, `job:<id>`, or (without a server) a folder."""
    revision: str | None = None


class DataSection(ReadOptions):
    """`training_data`: a file, or a dataset that the server has; and how it is read."""

    path: Path | None = None
    """A file; a relative path starts at the YAML file."""
    dataset: int | str | None = None
    """Number or name on the server."""
    version: str | None = None
    """Digest of one version."""
    validation_dataset: int | str | None = None
    """Number or name of the server's dataset that is held out instead of a share of this one."""


class DeploymentSection(_Section):
    """`deployment`: what happens with the model."""

    output: Path | None = None
    """Folder for a run without a server."""
    download: Path | None = None
    """Where to save the packed model."""


class ScheduleSection(_Section):
    """`schedule`: when a job of the server starts, under the names of the API."""

    priority: Priority = Priority.NORMAL
    start: Literal["now", "manual", "off_peak"] = "now"
    not_before: str | None = None
    """Earliest start, with its offset from UTC: 2026-01-31T22:00:00+01:00."""
    after_job_id: int | str | None = None
    """Number or name."""
    after_failure: bool = True
    timeout_s: float | None = None


class TrainConfig(_Section):
    """The whole file."""

    name: str | None = Field(None, max_length=200)
    method: str = "lora"
    model: ModelSection | None = None
    """Every method but `custom` needs it, and `training_data`."""
    training_data: DataSection | None = None
    hyperparameters: dict[str, Any] = Field(default_factory=dict)
    optimization: dict[str, Any] = Field(default_factory=dict)
    evaluation: dict[str, Any] = Field(default_factory=dict)
    deployment: DeploymentSection = Field(default_factory=DeploymentSection)
    auto: bool = True
    """Whether what is left out is chosen; otherwise the method's defaults hold."""
    tags: list[str] = Field(default_factory=list)
    schedule: ScheduleSection = Field(default_factory=ScheduleSection)
    resources: ResourceRequest | None = None

    def settings(self) -> dict[str, Any]:
        """The recipe's parameters; the three sections are one set of names."""
        return {**self.hyperparameters, **self.optimization, **self.evaluation}

    def set(self, name: str, value: Any) -> None:
        """Set one of them, whatever the file says. Raises `InvalidInput` when the method has none of that name."""
        for section in (self.optimization, self.evaluation):
            section.pop(name, None)
        self.hyperparameters[name] = value
        check_settings(self)


class _Loader(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML would keep the last. A date stays the text that it is."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        lines: dict[str, int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line = key.start_mark.line + 1
            if key.value in lines:
                raise InvalidInput(
                    f"{key.start_mark.name} has {key.value} twice in one place, in lines {lines[key.value]} and {line}.",
                    hint="Keep one of the two.",
                    details=[{"loc": key.value, "message": f"stands in line {line} again", "line": line}],
                )
            lines[key.value] = line
        return node


_Loader.add_constructor("tag:yaml.org,2002:timestamp", lambda _loader, node: str(node.value))


def read_config(path: Path) -> TrainConfig:
    """Raises `InvalidInput` naming every unknown, wrong or repeated key with its place."""
    try:
        with path.open("rb") as file:
            value = yaml.load(file, _Loader)
    except FileNotFoundError:
        raise InvalidInput(f"There is no file {path}.", hint="Check the path.") from None
    except RecursionError:
        raise InvalidInput(f"{path} is nested too deeply.") from None
    except yaml.YAMLError as error:
        raise InvalidInput(f"{path} is not YAML: {' '.join(str(error).split())[:300]}") from None
    if not isinstance(value, dict):
        raise InvalidInput(f"{path} holds no settings.", hint="docs/training-config.md shows a whole file.")
    try:
        config = TrainConfig.model_validate(value)
    except ValidationError as error:
        details = [_problem(".".join(map(str, p["loc"])), p, TrainConfig) for p in error.errors()]
        raise InvalidInput(f"{plural(len(details), 'setting')} in {path} cannot be used.", details=details) from None
    check_settings(config)
    if config.training_data and config.training_data.path is not None:
        config.training_data.path = path.parent / config.training_data.path
    return config


def check_settings(config: TrainConfig) -> None:
    """Raise `InvalidInput` for parameters that the method does not have, or that have wrong values."""
    recipe = get_recipe(config.method)
    needed = {"model": recipe.needs_model, "training_data": recipe.data.is_needed}
    if missing := [name for name, is_needed in needed.items() if is_needed and getattr(config, name) is None]:
        details = [{"loc": name, "message": f"method {recipe.name} needs it"} for name in missing]
        raise InvalidInput(f"The file has no {' and no '.join(missing)}.", details=details)
    places = _places(config)
    try:
        recipe.params.model_validate(config.settings())
    except ValidationError as error:
        details = []
        for problem in error.errors():
            loc = [str(part) for part in problem["loc"]]
            section = places[loc[0]][0] if loc and loc[0] in places else SECTIONS[0]
            full = ".".join([section, *loc])
            details.append(_problem(full, problem, recipe.params))
        text = f"{plural(len(details), 'setting')} cannot be used by method {recipe.name}."
        raise InvalidInput(text, details=details) from None


def _places(config: TrainConfig) -> dict[str, list[str]]:
    """Parameter → its section. Raises `InvalidInput` for parameters that two sections name."""
    places = defaultdict(list)
    for section in SECTIONS:
        for key in getattr(config, section):
            places[key].append(section)
    twice = {key: found for key, found in places.items() if len(found) > 1}
    if twice:
        named = "; ".join(" and ".join(f"{section}.{key}" for section in found) for key, found in twice.items())
        details = [
            {"loc": f"{section}.{key}", "message": f"{key} is given in {found[0]} too"}
            for key, found in twice.items()
            for section in found[1:]
        ]
        raise InvalidInput(f"The same setting is given twice: {named}.", hint="Keep one of the two.", details=details)
    return places


def _problem(loc: str, problem: Any, known: type[BaseModel]) -> dict[str, Any]:
    """A problem, with the name that was probably meant."""
    message = message_of(problem)
    if problem["type"] == "extra_forbidden":
        close = difflib.get_close_matches(loc.rpartition(".")[2], list(known.model_fields), n=1)
        message = f"there is no such setting{f'; did you mean {close[0]}?' if close else ''}"
    return {"loc": loc, "message": message}
