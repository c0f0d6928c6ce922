"""The options that say how a file is read, for every command that reads one: `--sheet`, `--header-row`, …"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from tunesmith.core.errors import InvalidInput
from tunesmith.core.validation import message_of
from tunesmith.schemas.read_options import ReadOptions, options_among

MORE = {"columns": " Names set apart by commas.", "mapping": " As ROLE=COLUMN, set apart by commas, or once for each."}


def takes_read_options(command: Callable[..., None]) -> Callable[..., None]:
    """A command whose parameter `options` is a `ReadOptions` becomes one with an option for each of its fields."""
    signature = inspect.signature(command, eval_str=True)

    @functools.wraps(command)
    def run(**given: Any) -> None:
        texts = [(name, text) for name in ReadOptions.model_fields for text in given.pop(name) or ()]
        command(**given, options=read_options(texts))

    own = [
        inspect.Parameter(
            name, inspect.Parameter.KEYWORD_ONLY, default=None,
            annotation=Annotated[
                list[str] | None,
                typer.Option(f"--{name.replace('_', '-')}", metavar="TEXT", help=f"{field.description}{MORE.get(name, '')}"),
            ],
        )
        for name, field in ReadOptions.model_fields.items()
    ]  # fmt: skip
    kept = [
        parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for parameter in signature.parameters.values()
        if parameter.name != "options"
    ]
    run.__signature__ = inspect.Signature([*kept, *own])  # type: ignore[attr-defined]
    run.__annotations__ = {parameter.name: parameter.annotation for parameter in (*kept, *own)}
    return run


def read_options(texts: list[tuple[str, str]]) -> ReadOptions:
    """Raises `InvalidInput` naming every option that cannot be used."""
    twice = [name for name in ReadOptions.model_fields if sum(n == name for n, _ in texts) > 1]
    if wrong := [name for name in twice if name not in ("columns", "mapping")]:
        raise InvalidInput(f"--{wrong[0].replace('_', '-')} is given twice.", hint="Give it once.")
    try:
        return ReadOptions.model_validate(options_among(texts))
    except ValidationError as error:
        problems = [(f"--{str(p['loc'][0]).replace('_', '-')}", message_of(p)) for p in error.errors()]
        raise InvalidInput(
            "; ".join(f"{name}: {message}" for name, message in problems),
            details=[{"loc": name, "message": message} for name, message in problems],
        ) from None
