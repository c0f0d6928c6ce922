"""The row shape that a request names, and the roles of its mapping."""

from __future__ import annotations

from tunesmith.core.errors import InvalidInput
from tunesmith.dataprep.shapes import SHAPES, Shape
from tunesmith.schemas.read_options import ReadOptions


def check_reading(options: ReadOptions) -> None:
    """Raises `InvalidInput` for a shape or a role that does not exist; whether the columns do is seen when it is read."""
    if options.shape is None and options.mapping:
        raise InvalidInput("A mapping needs its shape.", details=[{"loc": "shape", "message": "missing"}])
    if options.shape is None:
        return
    known = find_shape(options.shape)
    wrong = [role for role in options.mapping or {} if role not in known.roles]
    if wrong:
        raise InvalidInput(
            f"Shape {known.name} has no role {wrong[0][:80]!r}.", hint=f"Its roles are: {', '.join(known.roles) or 'none'}.",
            details=[{"loc": f"mapping.{role}", "message": "unknown role"} for role in wrong],
        )  # fmt: skip


def find_shape(name: str) -> Shape:
    """Raises `InvalidInput`."""
    shape = SHAPES.get(name)
    if shape is None:
        raise InvalidInput(
            f"There is no row shape {name!r}.", hint=f"Choose one of: {', '.join(SHAPES)}.",
            details=[{"loc": "shape", "message": "unknown"}],
        )  # fmt: skip
    return shape
