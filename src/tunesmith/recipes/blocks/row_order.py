"""In which order a training run reads its rows: a function of seed, data and step alone."""

from __future__ import annotations

import math

import numpy as np


class RowOrder:
    """Rows of each optimizer step, over all ranks. Every pass is a permutation of its own."""

    def __init__(self, num_rows: int, rows_per_step: int, seed: int, digest: str) -> None:
        """`digest`: of the data, hexadecimal; empty where there is none."""
        self.num_rows, self.rows_per_step = num_rows, rows_per_step
        self.steps_per_epoch = max(1, math.ceil(num_rows / rows_per_step))
        self._seed, self._digest = seed, int(digest[:16] or "0", 16)
        self._drawn: tuple[int, np.ndarray] = (-1, np.zeros(0, np.int64))

    def rows_of(self, step: int) -> np.ndarray:
        """(rows,): places of the rows of `step`, counted from 0."""
        epoch, within = divmod(step, self.steps_per_epoch)
        if self._drawn[0] != epoch:
            order = np.random.default_rng([self._seed, epoch, self._digest]).permutation(self.num_rows)
            self._drawn = (epoch, order)
        return self._drawn[1][within * self.rows_per_step : (within + 1) * self.rows_per_step]
