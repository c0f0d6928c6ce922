"""How fast the training goes, and how much of the device it uses."""

from __future__ import annotations

from collections import deque

import torch
from torch import nn

from tunesmith.core.clock import monotonic_s

WINDOW = 20
"""Steps over which rates are averaged."""
PEAK_TFLOPS = {
    "H200": 989,
    "H100": 989,
    "A100": 312,
    "L40S": 362,
    "L4": 121,
    "A10": 125,
    "4090": 165,
    "3090": 71,
    "T4": 65,
}
"""Dense bf16 (fp16 where there is no bf16) peak rates from the makers' data sheets."""


class Speed:
    """Steps, tokens and rows a second over the last steps; time spent on checkpoints and evaluations is left out."""

    def __init__(self, model: nn.Module, device: torch.device) -> None:
        trained = sum(p.numel() for p in model.parameters() if p.requires_grad)
        total = sum(_num_weights(p) for p in model.parameters())
        # Forward and input gradient cost 2 FLOP a weight and token each; so does the gradient of each trained weight.
        self.flop_per_token = 4 * total + 2 * trained
        self.peak_flops = peak_flops(device, next(model.parameters()).dtype)
        self.elapsed_s = 0.0
        self._began_s = self._skipped_s = 0.0
        self._marks: deque[tuple[float, int, int]] = deque(maxlen=WINDOW + 1)

    def start(self, elapsed_s: float) -> None:
        """Begin to count, with what earlier attempts took."""
        self.elapsed_s = elapsed_s
        self._began_s, self._skipped_s = monotonic_s() - elapsed_s, 0.0
        self._marks.clear()

    def skip(self, seconds: float) -> None:
        """Leave out time that was not spent training."""
        self._skipped_s += seconds

    def step(self, tokens_seen: int, rows_seen: int) -> None:
        """Note the end of a step, with running totals."""
        now = monotonic_s()
        self.elapsed_s = now - self._began_s
        self._marks.append((now - self._skipped_s, tokens_seen, rows_seen))

    def read(self, steps_left: int) -> dict[str, float | None]:
        """`tokens_per_s`, `samples_per_s`, `mfu` and `remaining_s`; None until two steps are done."""
        if len(self._marks) < 2:
            return {"tokens_per_s": None, "samples_per_s": None, "mfu": None, "remaining_s": None}
        (first_s, tokens_a, rows_a), (last_s, tokens_b, rows_b) = self._marks[0], self._marks[-1]
        seconds = max(1e-9, last_s - first_s)
        tokens_per_s = (tokens_b - tokens_a) / seconds
        share = tokens_per_s * self.flop_per_token / self.peak_flops if self.peak_flops else None
        return {
            "tokens_per_s": tokens_per_s,
            "samples_per_s": (rows_b - rows_a) / seconds,
            "mfu": share
            if share is not None and share <= 1
            else None,  # more than the peak: the peak was measured too low
            "remaining_s": steps_left * seconds / (len(self._marks) - 1),
        }


def _num_weights(param: nn.Parameter) -> int:
    """How many weights a parameter stands for; one of bitsandbytes holds two 4-bit weights a byte."""
    quantised = getattr(param, "quant_state", None)
    return int(quantised.shape.numel()) if quantised is not None else param.numel()


def peak_flops(device: torch.device, dtype: torch.dtype) -> float:
    """The device's peak rate, FLOP/s: from the table for known GPUs, measured with a matrix product on CPUs, else 0."""
    if device.type == "cuda":
        name = torch.cuda.get_device_name(device)
        return next((tera * 1e12 for key, tera in PEAK_TFLOPS.items() if key in name), 0.0)
    side = 1024
    a = torch.ones(side, side, dtype=dtype if dtype.is_floating_point else torch.float32)
    torch.mm(a, a)
    best_s = min(_timed(a) for _ in range(3))
    return 2 * side**3 / best_s


def _timed(a: torch.Tensor) -> float:
    began_s = monotonic_s()
    torch.mm(a, a)
    return max(1e-9, monotonic_s() - began_s)
