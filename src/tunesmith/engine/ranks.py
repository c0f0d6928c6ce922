"""Several processes that train together, one a device: they hold equal weights and add up their gradients."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import distributed, nn


class Ranks:
    """This process among the others; alone unless torchrun started it."""

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.count > 1 and not distributed.is_initialized():
            distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")

    def sum(self, value: float) -> float:
        """The sum of `value` over all ranks, the same number on each."""
        return self._reduced(value, distributed.ReduceOp.SUM)

    def least(self, value: float) -> float:
        """The smallest `value` of all ranks."""
        return self._reduced(value, distributed.ReduceOp.MIN)

    def _reduced(self, value: float, operation: Any) -> float:
        if self.count == 1:
            return value
        device = torch.device("cuda", torch.cuda.current_device()) if torch.cuda.is_available() else torch.device("cpu")
        total = torch.tensor(value, dtype=torch.float64, device=device)
        distributed.all_reduce(total, op=operation)
        return float(total)

    def sum_gradients(self, params: list[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, in place."""
        if self.count == 1:
            return
        for param in params:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
            distributed.all_reduce(param.grad)
