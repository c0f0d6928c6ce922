"""From typed columns to the numbers that models learn from. Learned without the target, kept as JSON and safetensors, and
applied by the same code in training, in answers and in files."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from tunesmith.recipes.tabular.columns import Column
from tunesmith.recipes.tabular.texts import TextEncoder

JSON_FILE, ARRAYS_FILE = "encoding.json", "encoding.safetensors"
DATE_PARTS = ("days", "year", "month", "day", "weekday")
TIME_PARTS = ("hour",)
DAY_S = 86_400


class Feature(NamedTuple):
    """One column of the matrix."""

    name: str
    column: str
    num_categories: int = 0
    """0 for a number."""


class Encoding:
    """Columns → matrix. Categories become their place in `choices`, missing and unseen ones NaN."""

    def __init__(self, columns: Sequence[Column], texts: Mapping[str, TextEncoder]) -> None:
        self.columns, self.texts = tuple(columns), dict(texts)
        self._places = {
            c.name: {name: i for i, name in enumerate(c.choices)} for c in self.columns if c.type == "category"
        }
        self.features: list[Feature] = []
        for column in self.columns:
            self.features += self._features(column)

    @classmethod
    def fit(cls, columns: Sequence[Column], values: Mapping[str, np.ndarray], train: np.ndarray, seed: int) -> Encoding:
        """Learn the texts' numbers from the rows `train` (bool). A text column that holds nothing gets no feature."""
        texts = {}
        for column in columns:
            if column.type == "text" and (encoder := TextEncoder.fit(values[column.name][train], seed)):
                texts[column.name] = encoder
        return cls(columns, texts)

    def _features(self, column: Column) -> list[Feature]:
        if column.type == "number":
            return [Feature(column.name, column.name)]
        if column.type == "category":
            return [Feature(column.name, column.name, len(column.choices))]
        if column.type == "date":
            parts = DATE_PARTS + (TIME_PARTS if column.has_time else ())
            return [Feature(f"{column.name}: {part}", column.name) for part in parts]
        width = self.texts[column.name].width if column.name in self.texts else 0
        return [Feature(f"{column.name}: text {i}", column.name) for i in range(width)]

    @property
    def categories(self) -> list[int]:
        """Places of the features that are categories."""
        return [place for place, feature in enumerate(self.features) if feature.num_categories]

    def transform(self, values: Mapping[str, np.ndarray]) -> np.ndarray:
        """(rows, features) float64, from columns as `columns.read_column` gives them."""
        rows = len(next(iter(values.values())))
        parts = [np.asarray(self._part(column, values[column.name])).reshape(rows, -1) for column in self.columns]
        return np.ascontiguousarray(np.concatenate(parts, axis=1), dtype=np.float64)

    def _part(self, column: Column, values: np.ndarray) -> np.ndarray:
        if column.type == "number":
            return values.astype(np.float64)
        if column.type == "category":
            places = self._places[column.name]
            return np.asarray([places.get(value, np.nan) for value in values], dtype=np.float64)
        if column.type == "date":
            return _date_parts(values, column.has_time)
        if column.name not in self.texts:
            return np.zeros((len(values), 0))
        return self.texts[column.name].transform(values)

    def num_unseen(self, values: Mapping[str, np.ndarray]) -> dict[str, int]:
        """Values by column whose category was not among those learned from."""
        counts = {
            name: sum(value is not None and value not in places for value in values[name])
            for name, places in self._places.items()
        }
        return {name: count for name, count in counts.items() if count}

    def save(self, folder: Path) -> None:
        """Write `encoding.json` and, where there are texts, `encoding.safetensors`."""
        from safetensors.numpy import save_file

        told = {
            "columns": [column.as_json() for column in self.columns],
            "texts": {name: encoder.as_json() for name, encoder in self.texts.items()},
        }
        (folder / JSON_FILE).write_text(json.dumps(told, ensure_ascii=False, indent=1))
        order = {name: place for place, name in enumerate(self.texts)}
        arrays = {f"{order[n]}.{key}": array for n, e in self.texts.items() for key, array in e.arrays().items()}
        save_file(arrays, folder / ARRAYS_FILE)

    @classmethod
    def load(cls, folder: Path) -> Encoding:
        """What `save` has written. Raises `KeyError`, `TypeError` or `ValueError` for anything else."""
        from safetensors.numpy import load_file

        told: dict[str, Any] = json.loads((folder / JSON_FILE).read_bytes())
        arrays = load_file(folder / ARRAYS_FILE)
        texts = {}
        for place, (name, each) in enumerate(told["texts"].items()):
            mine = {
                key.partition(".")[2]: array for key, array in arrays.items() if key.partition(".")[0] == str(place)
            }
            texts[name] = TextEncoder.of(each, mine)
        return cls([Column.of_json(column) for column in told["columns"]], texts)


def _date_parts(seconds: np.ndarray, has_time: bool) -> np.ndarray:
    """(rows, parts), NaN where the date is missing."""
    there = ~np.isnan(seconds)
    whole = np.where(there, seconds, 0).astype("datetime64[s]")
    days = whole.astype("datetime64[D]")
    months, years = days.astype("datetime64[M]"), days.astype("datetime64[Y]")
    parts = [
        days.astype(np.int64),
        years.astype(np.int64) + 1970,
        (months - years.astype("datetime64[M]")).astype(np.int64) + 1,
        (days - months.astype("datetime64[D]")).astype(np.int64) + 1,
        (days.astype(np.int64) + 3) % 7,  # Monday is 0
    ]
    if has_time:
        parts.append((np.where(there, seconds, 0) % DAY_S) // 3600)
    found = np.stack([np.asarray(part, dtype=np.float64) for part in parts], axis=1)
    found[~there] = np.nan
    return found
