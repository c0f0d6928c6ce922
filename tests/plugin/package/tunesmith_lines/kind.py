from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from tunesmith.core.errors import BadData, InvalidInput
from tunesmith.core.model_kind import Description, ModelKind

FILE = "line.json"


def read(path: Path) -> dict[str, Any]:
    found = json.loads((path / FILE).read_bytes())
    if not {"x", "y", "slope", "intercept"} <= found.keys():
        raise BadData(f"{FILE} is no line.", hint="Train it again.")
    return found


def describe(path: Path, _base: Path | None) -> Description:
    return Description({}, 2, inputs=({"name": read(path)["x"], "type": "number"},))


class Line:
    def __init__(self, told: dict[str, Any]) -> None:
        self.told = told

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any]) -> list[Any]:
        found = []
        for number, row in enumerate(inputs):
            try:
                x = float(row[self.told["x"]])
            except (KeyError, TypeError, ValueError):
                raise InvalidInput(f"inputs.{number} has no number in {self.told['x']}.", hint="Give one.") from None
            found.append({"value": self.told["slope"] * x + self.told["intercept"]})
        return found


def load(path: Path, threads: int) -> Line:
    return Line(read(path))


LINE = ModelKind(
    name="line",
    title="Straight line",
    framework="json",
    tasks=("tabular-regression",),
    matches=lambda path: (path / FILE).is_file(),
    describe=describe,
    engines=("predict",),
    load="tunesmith_lines.kind:load",
)
