"""A recipe's parameters told one by one, from their own class: what forms, the command line and the documentation show."""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from tunesmith.recipes.hyperparameters import field_docs

GROUPS = {
    "basic": "Basics",
    "batching": "Batches",
    "optimizer": "Optimizer",
    "adapter": "Adapter",
    "data": "Data",
    "precision": "Precision and speed",
    "saving": "Evaluation and checkpoints",
    "tracking": "Tracking",
    "script": "Script",
}
"""Group → its title, in the order in which they are shown."""
LONG_TEXT_CHARS = 1000
"""Text that may be longer than this gets more than one line."""
REFERENCE = "#/$defs/"

Kind = Literal["number", "integer", "boolean", "choice", "choices", "names", "text", "long_text", "object"]


class Setting(NamedTuple):
    """One parameter."""

    name: str
    """Dotted when it is part of another: `early_stopping.patience`."""
    title: str
    doc: str
    group: str
    """A key of `GROUPS`."""
    kind: Kind
    """`choices` is any of several; `names` one of `choices`, or a list of names of your own."""
    unit: str
    default: Any
    required: bool
    nullable: bool
    """Whether it may be absent, which means that it is chosen or not used."""
    minimum: float | None
    maximum: float | None
    above: float | None
    """It must be more than this."""
    below: float | None
    """It must be less than this."""
    usual: tuple[float, float] | None
    """What is commonly tried: lowest, highest."""
    choices: tuple[str, ...]


@cache
def json_schema(params: type[BaseModel]) -> dict[str, Any]:
    """Of a recipe's parameters; made once."""
    return params.model_json_schema()


@cache
def describe(params: type[BaseModel]) -> tuple[Setting, ...]:
    """Every parameter of a recipe, in the order of its class; the parts of nested ones one by one."""
    schema = json_schema(params)
    return tuple(_walk(params, schema, schema.get("$defs", {}), "", ""))


def _walk(
    params: type[BaseModel], schema: dict[str, Any], defs: dict[str, Any], prefix: str, group: str
) -> Iterator[Setting]:
    docs, required = field_docs(params), schema.get("required", ())
    for name, told in schema["properties"].items():
        own_group = told.get("group", group) if told.get("group", group) in GROUPS else "basic"
        nested = params.model_fields[name].annotation
        if "$ref" in told and isinstance(nested, type) and issubclass(nested, BaseModel):
            inner = defs[told["$ref"].removeprefix(REFERENCE)]
            yield from _walk(nested, inner, defs, f"{prefix}{name}.", own_group)
        else:
            yield _setting(f"{prefix}{name}", told, docs.get(name, ""), own_group, name in required)


def _setting(name: str, told: dict[str, Any], doc: str, group: str, required: bool) -> Setting:
    variants = [kind for kind in told.get("anyOf", [told]) if kind.get("type") != "null"]
    nullable = len(variants) < len(told.get("anyOf", [told]))
    main = variants[0]
    usual = told.get("usual")
    return Setting(
        name=name,
        title=_title(told["title"]),
        doc=doc,
        group=group,
        kind=_kind(variants),
        unit=told.get("unit", ""),
        default=told.get("default"),
        required=required,
        nullable=nullable,
        minimum=main.get("minimum"),
        maximum=main.get("maximum"),
        above=main.get("exclusiveMinimum"),
        below=main.get("exclusiveMaximum"),
        usual=(usual[0], usual[1]) if usual else None,
        choices=_choices(main),
    )


def _kind(variants: list[dict[str, Any]]) -> Kind:
    main = variants[0]
    if len(variants) > 1:
        return "names"
    if "enum" in main:
        return "choice"
    if main["type"] == "array":
        return "choices"
    if main["type"] == "string":
        return "long_text" if main.get("maxLength", 0) > LONG_TEXT_CHARS else "text"
    kind: Kind = main["type"]  # number, integer, boolean, object
    return kind


def _choices(main: dict[str, Any]) -> tuple[str, ...]:
    found = main.get("enum") or main.get("items", {}).get("enum") or ([main["const"]] if "const" in main else [])
    return tuple(str(choice) for choice in found)


def _title(title: str) -> str:
    """`Learning Rate`, as pydantic makes it of a name, in the case of a sentence; titles that were given stay."""
    return title.capitalize() if title == title.title() else title
