"""A finished model that answers rows: what a serving process, a worker or a program of one's own loads."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from tunesmith.core.errors import InvalidInput
from tunesmith.core.words import plural
from tunesmith.recipes.tabular.artifact import read_model
from tunesmith.recipes.tabular.ensemble import answers_of_classes
from tunesmith.recipes.tabular.values import EXAMPLES, read_value

MAX_PROBLEMS = 100
PARAMETERS = ("unknown_columns", "top", "unsure_below")


def load(path: Path | str, threads: int = 1) -> TabularPredictor:
    """Read a model's folder. Raises `NotFound`, `BadData` or `UnsupportedFormat` naming the file that cannot be used."""
    return TabularPredictor(Path(path), threads)


class TabularPredictor:
    """Answers rows of a table, each an object of column and value."""

    def __init__(self, folder: Path, threads: int) -> None:
        self._told, self._model = read_model(folder, threads)
        self.task: str = self._told["task"]
        self.target: str = self._told["target"]
        self.classes: list[Any] = self._told.get("classes") or []
        self.columns: list[dict[str, Any]] = self._told["columns"]
        self.unseen: Counter[str] = Counter()
        """Categories by column that were not among those learned from and so counted as missing, over all calls."""
        self.ignored: Counter[str] = Counter()
        """Unknown columns that were given and ignored, where that was asked for."""
        self._known = {column["name"] for column in self.columns}
        self._passed_over = {self.target, *self._told.get("left_out", {})}
        """Columns of the training data that the model does not see: they may be given, and change nothing."""

    def predict(self, inputs: Sequence[Any], parameters: Mapping[str, Any] | None = None) -> list[Any]:
        """One answer for each row, in the form of `core.tasks`: labels with probabilities, or a number with its 90 % bounds.

        A missing key is a missing value; an unseen category counts as missing and is counted in `unseen`. Parameters:
        `unknown_columns` (`refuse` or `ignore`), `top` (most labels), `unsure_below` (instead of the model's own). Raises
        `InvalidInput` naming places such as `inputs.3.age`.
        """
        unknown, top, unsure_below = self._read_parameters(parameters or {})
        rows = self._checked(inputs, ignores_unknown=unknown == "ignore")
        if not rows:
            return []
        return self.answers(self._values(rows), top, unsure_below)

    def answers(
        self, values: Mapping[str, np.ndarray], top: int | None = None, unsure_below: float | None = None
    ) -> list[Any]:
        """The same from columns of typed values."""
        self.unseen.update(self._model.encoding.num_unseen(values))
        found = self._model.predict(values)
        if self.classes:
            limit = self._told.get("unsure_below", 0.0) if unsure_below is None else unsure_below
            return answers_of_classes(found, self.classes, limit, top)
        bound = self._told.get("bound")
        bounds = (
            (lambda value: {"low": value - bound, "high": value + bound}) if bound is not None else (lambda value: {})
        )
        return [{"value": float(value), **bounds(float(value))} for value in found]

    def probabilities(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """(rows, classes), or (rows,) numbers: what the answers are made of."""
        return self._model.predict(values)

    def read_row(self, row: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, str]]:
        """`(typed values, what is wrong by column)` of one row. Columns that are not given are missing."""
        found, wrong = {}, {}
        for column in self.columns:
            name, kind = column["name"], column["type"]
            try:
                found[name] = read_value(row.get(name), kind)
            except ValueError as error:
                wrong[name] = f"{error}; {name} is a {kind}, such as {EXAMPLES[kind]}"
        return found, wrong

    def _values(self, rows: Sequence[Mapping[str, Any]]) -> dict[str, np.ndarray]:
        values = {}
        for column in self.columns:
            is_float = column["type"] in ("number", "date")
            array = np.empty(len(rows), dtype=np.float64 if is_float else object)
            array[:] = [row[column["name"]] for row in rows]
            values[column["name"]] = array
        return values

    def _checked(self, inputs: Sequence[Any], *, ignores_unknown: bool) -> list[dict[str, Any]]:
        problems: list[dict[str, Any]] = []
        rows = []
        for place, row in enumerate(inputs):
            if not isinstance(row, Mapping):
                problems.append({"loc": f"inputs.{place}", "message": "is no object of column and value"})
                continue
            for name in row:
                if name in self._known or name in self._passed_over:
                    continue
                if ignores_unknown:
                    self.ignored[name] += 1
                else:
                    problems.append({"loc": f"inputs.{place}.{name}", "message": f"the model knows no column {name!r}"})
            found, wrong = self.read_row(row)
            problems += [{"loc": f"inputs.{place}.{name}", "message": message} for name, message in wrong.items()]
            rows.append(found)
        if problems:
            named = ", ".join(problem["loc"] for problem in problems[:5])
            raise InvalidInput(
                f"{plural(len(problems), 'value')} cannot be used: {named}{' …' if len(problems) > 5 else ''}.",
                hint=f"Columns: {', '.join(sorted(self._known))[:500]}.", details=problems[:MAX_PROBLEMS],
            )  # fmt: skip
        return rows

    def _read_parameters(self, parameters: Mapping[str, Any]) -> tuple[str, int | None, float | None]:
        details = [
            {"loc": f"parameters.{name}", "message": f"one of {', '.join(PARAMETERS)}"}
            for name in parameters
            if name not in PARAMETERS
        ]
        unknown, top, unsure = (parameters.get(name) for name in PARAMETERS)
        if unknown not in (None, "refuse", "ignore"):
            details.append({"loc": "parameters.unknown_columns", "message": "refuse or ignore"})
        if top is not None and (type(top) is not int or top < 1):
            details.append({"loc": "parameters.top", "message": "a whole number from 1"})
        is_share = (
            isinstance(unsure, int | float)
            and not isinstance(unsure, bool)
            and 0 <= unsure < 1
            and math.isfinite(unsure)
        )
        if unsure is not None and not is_share:
            details.append({"loc": "parameters.unsure_below", "message": "a number from 0, below 1"})
        if details:
            raise InvalidInput(
                "Some parameters cannot be used.", hint="Each is named with what it may be.", details=details
            )
        return unknown or "refuse", top, unsure
