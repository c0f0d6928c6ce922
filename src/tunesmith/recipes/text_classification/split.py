"""Which rows are learned and which are held out, so that every label that can be is on both sides."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

import numpy as np

from tunesmith.core.job_spec import DatasetRef
from tunesmith.recipes.blocks.split import contents_of, split_of_file, split_usable

MOST_MOVED = 2.0
"""The held-out side never grows to more than so many times the share that was asked for."""
Labels = Sequence[tuple[str, ...] | None]


def split(
    data: DatasetRef, labels: Labels, bad: np.ndarray, share: float, seed: int, by: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """`(training rows, held-out rows, contents (rows,))`, numbers from 0, ascending. Equal texts are on one side, unless `by` is
    `rows`; what the data itself holds out stays as it is."""
    contents = contents_of(data.path, {"text": data.mapping["text"]})
    train, held_out = split_usable(data, contents, bad, share, seed, by=by)
    if not len(held_out) or (by == "file" and split_of_file(data) is not None):
        return train, held_out, contents
    groups = np.arange(len(contents)) if by == "rows" else contents
    sides = _Sides(labels, groups, train, held_out)
    sides.bring_to_training()
    sides.bring_to_held_out(int(MOST_MOVED * max(1, len(held_out))))
    return *sides.rows(), contents


class _Sides:
    """Rows on two sides, moved by groups of equal content."""

    def __init__(self, labels: Labels, groups: np.ndarray, train: np.ndarray, held_out: np.ndarray) -> None:
        self.labels = labels
        self.usable = np.sort(np.concatenate([train, held_out]))
        self.held_out = np.zeros(len(groups), dtype=bool)
        self.held_out[held_out] = True
        self.members: dict[int, list[int]] = {}
        for row in self.usable.tolist():
            self.members.setdefault(int(groups[row]), []).append(row)
        self.groups_of: dict[str, list[int]] = {}
        for group, rows in self.members.items():
            for name in {name for row in rows for name in labels[row] or ()}:
                self.groups_of.setdefault(name, []).append(group)

    def bring_to_training(self) -> None:
        """A label without a training row gets its first group back."""
        for name in sorted(self.groups_of):
            if not self._count(False)[name]:
                self._move(self.groups_of[name][0], held_out=False)

    def bring_to_held_out(self, most: int) -> None:
        """A label without a held-out row gives its smallest group, where that leaves no label without training rows."""
        training, there = self._count(False), self._count(True)
        for name in sorted(self.groups_of):
            if there[name] or int(self.held_out.sum()) >= most:
                continue
            for group in sorted(self.groups_of[name], key=lambda g: len(self.members[g])):
                counts = Counter(n for row in self.members[group] for n in self.labels[row] or ())
                if all(training[n] > count for n, count in counts.items()):
                    self._move(group, held_out=True)
                    training -= counts
                    there += counts
                    break

    def rows(self) -> tuple[np.ndarray, np.ndarray]:
        is_held_out = self.held_out[self.usable]
        return self.usable[~is_held_out], self.usable[is_held_out]

    def _move(self, group: int, *, held_out: bool) -> None:
        self.held_out[self.members[group]] = held_out

    def _count(self, held_out: bool) -> Counter[str]:
        rows = self.usable[self.held_out[self.usable] == held_out].tolist()
        return Counter(name for row in rows for name in self.labels[row] or ())
