"""The numbers of a step, on their way from the device to those who want to read them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch

from tunesmith.core.errors import FailureCode, JobFailure


class Place(NamedTuple):
    """Where the run stands after a step, which is known before the step is computed."""

    step: int
    learning_rate: float
    tokens_seen: int
    rows_seen: int


@dataclass(frozen=True)
class StepNumbers:
    """Loss, what else is measured, and gradient norm of one step."""

    place: Place
    _values: torch.Tensor
    _copied: torch.cuda.Event | None

    @classmethod
    def of(cls, place: Place, values: torch.Tensor, norm: torch.Tensor) -> StepNumbers:
        """Begin to bring them over; on a GPU nobody waits for it until `read`. `values` (1 + others,): the loss first."""
        values = torch.cat((values.double(), norm.to(values.device).double().reshape(1)))
        if values.device.type != "cuda":
            return cls(place, values, None)
        copied = torch.cuda.Event()
        host = torch.empty(values.shape, dtype=values.dtype, pin_memory=True)
        host.copy_(values, non_blocking=True)
        copied.record(torch.cuda.current_stream(values.device))
        return cls(place, host, copied)

    def read(self) -> tuple[list[float], float]:
        """`(loss and others, norm)`."""
        if self._copied is not None:
            self._copied.synchronize()
        *values, norm = self._values.tolist()
        return values, norm

    def check(self, *, norm_too: bool = True) -> None:
        """Raises `JobFailure` when the loss, or the norm, is not a number."""
        values, norm = self.read()
        for name, value in (("loss", values[0]), ("gradients", norm))[: 1 + norm_too]:
            if not math.isfinite(value):
                raise JobFailure(FailureCode.NAN_LOSS, f"The {name} became {value} at step {self.place.step}.")
