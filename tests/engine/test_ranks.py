"""Gradients of two real processes, added up in buckets."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

RANK = """
import torch
from torch import distributed, nn
from tunesmith.engine import ranks as module
module.BUCKET_BYTES = 64
ranks = module.Ranks()
torch.manual_seed(ranks.rank)
formats = [torch.float32, torch.bfloat16, torch.float32, torch.float32, torch.bfloat16, torch.float32]
params = [nn.Parameter(torch.zeros(3, size, dtype=dtype)) for size, dtype in zip((2, 5, 3, 40, 1, 2), formats)]
for param in params[:-1]:
    param.grad = torch.randn(param.shape[::-1], dtype=torch.float32).to(param.dtype).T
expected = [torch.zeros_like(p) if p.grad is None else p.grad.clone().contiguous() for p in params]
for gradient in expected:
    distributed.all_reduce(gradient)
calls = []
all_reduce = distributed.all_reduce
distributed.all_reduce = lambda tensor: (calls.append(tensor.numel()), all_reduce(tensor))
ranks.sum_gradients(params)
distributed.all_reduce = all_reduce
assert all(torch.equal(p.grad, e) for p, e in zip(params, expected)), (params, expected)
assert sorted(calls) == [6, 15, 18, 120], calls  # bf16 in one, fp32 by size, the large one by itself
assert ranks.sum(1.0, ranks.rank) == [2.0, 1.0] and ranks.least(3.0, ranks.rank) == [3.0, 0.0]
distributed.destroy_process_group()
"""
LAUNCH = "import sys\nfrom tunesmith.worker.ranks import launch_ranks\nsys.exit(launch_ranks([sys.executable, sys.argv[1]], 2))"


def test_buckets_add_up_as_one_by_one(tmp_path: Path) -> None:
    (tmp_path / "rank.py").write_text(RANK)
    done = subprocess.run([sys.executable, "-c", LAUNCH, str(tmp_path / "rank.py")], capture_output=True, timeout=100)
    assert done.returncode == 0, done.stderr.decode()
