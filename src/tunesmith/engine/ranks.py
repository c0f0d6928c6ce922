"""Several processes that train together, one a device. Unless their model is sharded, each holds all of it and adds up the gradients."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from itertools import groupby
from typing import Any

import torch
from torch import distributed, nn

BUCKET_BYTES = 64 * 2**20
"""Gradients that are added up in one go: large enough for the full rate between devices, small beside the weights."""


class Ranks:
    """This process among the others; alone unless it was started as a rank.

    What stands on a GPU is exchanged by NCCL; plain numbers and what is offloaded by gloo, which waits for no GPU.
    """

    def __init__(self) -> None:
        self.count = int(os.environ.get("WORLD_SIZE", "1"))
        self.rank = int(os.environ.get("RANK", "0"))
        if self.count > 1 and not distributed.is_initialized():
            if torch.cuda.is_available():
                torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))
            distributed.init_process_group("cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo")

    def sum(self, *values: float) -> list[float]:
        """The sum of each of `values` over all ranks, the same numbers on each."""
        return self._reduced(values, distributed.ReduceOp.SUM)

    def least(self, *values: float) -> list[float]:
        """The smallest of each of `values` of all ranks."""
        return self._reduced(values, distributed.ReduceOp.MIN)

    def _reduced(self, values: Sequence[float], operation: Any) -> list[float]:
        if self.count == 1:
            return list(values)
        found = torch.tensor(values, dtype=torch.float64)
        distributed.all_reduce(found, op=operation)
        return found.tolist()  # type: ignore[no-any-return]

    def sum_tensor(self, tensor: torch.Tensor) -> torch.Tensor:
        """`tensor` summed over all ranks, in place. On a GPU nobody waits for it."""
        if self.count > 1:
            distributed.all_reduce(tensor)
        return tensor

    def sum_gradients(self, params: list[nn.Parameter]) -> None:
        """Add up the gradients of all ranks, in place."""
        if self.count == 1:
            return
        for param in params:
            if param.grad is None:
                param.grad = torch.zeros_like(param)
        for bucket in _buckets([param.grad for param in params if param.grad is not None]):
            if len(bucket) == 1 and bucket[0].is_contiguous():
                distributed.all_reduce(bucket[0])
                continue
            flat = torch.cat([gradient.reshape(-1) for gradient in bucket])
            distributed.all_reduce(flat)
            parts = flat.split([gradient.numel() for gradient in bucket])
            for gradient, part in zip(bucket, parts, strict=True):
                gradient.copy_(part.view_as(gradient))


def _buckets(gradients: list[torch.Tensor]) -> Iterator[list[torch.Tensor]]:
    """`gradients` in groups of one format and at most `BUCKET_BYTES`; a larger one is a group of its own."""
    for _, alike in groupby(sorted(gradients, key=lambda g: str(g.dtype)), key=lambda g: g.dtype):
        bucket: list[torch.Tensor] = []
        num_bytes = 0
        for gradient in alike:
            num_bytes += gradient.nbytes
            if bucket and num_bytes > BUCKET_BYTES:
                yield bucket
                bucket, num_bytes = [], gradient.nbytes
            bucket.append(gradient)
        yield bucket
