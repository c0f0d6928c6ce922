"""Live curves over the whole job: iterations of all fits in a row. Also decides when a fit ends: no gain, no time, or somebody asks."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from tunesmith.core.clock import monotonic_s
from tunesmith.core.events import EvaluationEvent, StepEvent
from tunesmith.core.recipe import Outcome, RunContext

LOOK_EVERY_S = 0.1
"""Least time between two looks at what is asked of the job."""
GROWTH = 1.2
"""A point is drawn when a fit has this many times the iterations of the last one: 10,000 iterations are about 45 points."""
LEAST_SHARE = 0.2
"""Of the time limit: what all fits get together even where reading and trials have taken the rest."""
FIT_SHARE = 0.85
"""Of the time limit; the rest is for scores and what the columns matter."""


@dataclass
class State:
    """What a run that goes on must know of the fits that are finished."""

    fingerprint: str
    step: int = 0
    """Iterations of finished fits."""
    elapsed_s: float = 0.0
    best_loss: float | None = None
    fits: list[dict[str, Any]] = field(default_factory=list)
    """`model`, `fold`, `file`, `iterations` (kept), `run` (all), `seconds`, `ended` (why), and the fold's `loss`."""
    schedule: list[list[Any]] | None = None
    """Model and fold of every fit of the job, in order; None until it is decided."""
    rates: dict[str, float] = field(default_factory=dict)
    """Learning rate by model."""
    weights: dict[str, float] = field(default_factory=dict)
    """How the time that is left is shared out over the fits to come, by model."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


class Halted(Exception):
    """Somebody has asked the job to pause or to stop."""

    def __init__(self, outcome: str) -> None:
        super().__init__(outcome)
        self.outcome = outcome


class Curves:
    """One for a job. `values(train, valid)` of a fit are what the library measures; the events also carry `loss`."""

    def __init__(
        self, run: RunContext, state: State, *, spread: float, patience: int,
        max_iterations: int, time_limit_s: float | None, fit_share: float = FIT_SHARE,
    ) -> None:  # fmt: skip
        """`spread`: what an RMSE is divided by to be the loss."""
        self.run, self.state, self.spread, self.patience = run, state, spread, patience
        self.max_iterations, self.time_limit_s, self.fit_share = max_iterations, time_limit_s, fit_share
        self._started_s = monotonic_s()
        self._elapsed_before_s = state.elapsed_s
        self._next_look_s = 0.0
        self.outcome: str | None = None
        """Why everything should end; None while it goes on."""

    @property
    def fits(self) -> list[list[Any]]:
        """All of the job, in order; none before they are decided."""
        return self.state.schedule or []

    @property
    def elapsed_s(self) -> float:
        return self._elapsed_before_s + monotonic_s() - self._started_s

    def budget_s(self) -> float | None:
        """Seconds that the next fit may take; None without a limit."""
        left_s = self.left_s()
        if left_s is None:
            return None
        weights = [self.state.weights.get(model, 1.0) for model, _ in self.fits[len(self.state.fits) :]]
        assert self.time_limit_s is not None
        least_s = LEAST_SHARE * self.time_limit_s / len(self.fits)
        return max(left_s * weights[0] / sum(weights), least_s)

    def left_s(self) -> float | None:
        """Seconds for all fits to come; None without a limit."""
        return None if self.time_limit_s is None else max(0.0, self.time_limit_s * self.fit_share - self.elapsed_s)

    def look(self) -> bool:
        """Whether to go on; remembers why not."""
        now = monotonic_s()
        if self.outcome is None and now >= self._next_look_s:
            self._next_look_s = now + LOOK_EVERY_S
            control = self.run.control()
            if control.stop or control.pause:
                self.outcome = Outcome.CANCELLED if control.stop else Outcome.PAUSED
            if self.fits:
                self.run.progress(len(self.state.fits), len(self.fits), "fits")
        return self.outcome is None

    def check(self) -> None:
        """Raises `Halted` when the job should end now."""
        self._next_look_s = 0.0
        if not self.look():
            assert self.outcome
            raise Halted(self.outcome)

    def of_fit(
        self, model: str, rate: float | None, max_iterations: int, budget_s: float | None, *, stops: bool
    ) -> Watch:
        """The watch of the next fit. `stops`: whether it ends early where the held-out rows gain nothing more."""
        return Watch(self, model, rate, max_iterations, budget_s, stops)

    def expected(self, model: str) -> int:
        """Iterations that a fit will take: as many as others of its kind took, else the most. A guess."""
        if model == "linear":
            return 1
        took = [fit["run"] for fit in self.state.fits if fit["model"] == model]
        return round(sum(took) / len(took)) if took else self.max_iterations

    def total(self, now: int, of_this: int) -> int:
        """Steps of the whole job, as far as it can be guessed."""
        to_come = self.fits[len(self.state.fits) + 1 :]
        return self.state.step + max(now, of_this) + sum(self.expected(model) for model, _ in to_come)

    def loss(self, values: dict[str, float]) -> float | None:
        """Log loss, or RMSE in standard deviations of the target."""
        return values.get("log_loss", values["rmse"] / self.spread if "rmse" in values else None)

    def shown(self, values: dict[str, float]) -> dict[str, float]:
        """What an event carries."""
        loss = self.loss(values)
        if loss is None:
            return {}
        return {"loss": loss, **values, **({"r2": 1 - loss**2} if "rmse" in values else {})}


class Watch:
    """Sees each iteration of one fit, and answers whether to go on."""

    def __init__(
        self, curves: Curves, model: str, rate: float | None, max_iterations: int, budget_s: float | None, stops: bool
    ) -> None:
        self._curves, self._model, self._rate, self._max, self._stops = curves, model, rate, max_iterations, stops
        self._started_s = monotonic_s()
        self._ends_s = None if budget_s is None else self._started_s + budget_s
        self._next_point = 1
        self._best, self._best_at = float("inf"), 0
        self.done = 0
        self.ended = "maximum iterations"

    def __call__(self, iteration: int, train: dict[str, float], valid: dict[str, float]) -> bool:
        self.done = iteration
        loss = self._curves.loss(valid)
        if loss is not None and loss < self._best:
            self._best, self._best_at = loss, iteration
        goes_on = self._goes_on(iteration)
        if iteration >= self._next_point or not goes_on or iteration >= self._max:
            self._next_point = max(iteration + 1, int(iteration * GROWTH))
            self._report(iteration, train, valid, is_last=not goes_on or iteration >= self._max)
        return goes_on

    def _goes_on(self, iteration: int) -> bool:
        if not self._curves.look():
            self.ended = "asked to"
            return False
        if self._stops and iteration - self._best_at >= self._curves.patience:
            self.ended = "no gain"
            return False
        if self._ends_s is not None and monotonic_s() > self._ends_s:
            self.ended = "time limit"
            return False
        return True

    def _report(self, iteration: int, train: dict[str, float], valid: dict[str, float], *, is_last: bool) -> None:
        curves = self._curves
        step = curves.state.step + iteration
        total = curves.total(iteration, iteration if is_last else min(self._max, curves.expected(self._model)))
        elapsed_s = curves.elapsed_s
        if shown := curves.shown(train):
            curves.run.report(
                StepEvent(
                    step=step,
                    total_steps=total,
                    values=shown,
                    learning_rate=self._rate,
                    elapsed_s=elapsed_s,
                    remaining_s=elapsed_s / step * (total - step),
                )
            )
        if shown := curves.shown(valid):
            best = curves.state.best_loss
            is_best = best is None or shown["loss"] < best
            if is_best:
                curves.state.best_loss = shown["loss"]
            curves.run.report(EvaluationEvent(step=step, values=shown, is_best=is_best))
