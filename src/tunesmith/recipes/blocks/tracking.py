"""The curve for other trackers too (`report_to`): TensorBoard, MLflow, Weights & Biases, Trackio. Trouble there is told once
and never stops the training."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from tunesmith.core.events import EvaluationEvent, StepEvent
from tunesmith.core.recipe import RunContext


class Trackers:
    """Those of `names` that could be started; each is left out once it fails."""

    def __init__(self, run: RunContext, names: Iterable[str], settings: dict[str, Any]) -> None:
        from accelerate.state import PartialState
        from accelerate.tracking import LOGGER_TYPE_TO_CLASS

        PartialState()
        self._run = run
        self._open: dict[str, Any] = {}
        plain = {
            key: value if isinstance(value, bool | int | float | str) else str(value) for key, value in settings.items()
        }
        for name in names:
            self._open[name] = tracker = LOGGER_TYPE_TO_CLASS[name](**_place(run, name))
            self._call(name, tracker.start)
            if name in self._open:
                self._call(name, tracker.store_init_configuration, plain)

    def tell(self, event: Any) -> None:
        """Pass a step or an evaluation on; other events are not for trackers."""
        values: dict[str, float | None] = {}
        if isinstance(event, StepEvent):
            values = {
                "train/loss": event.loss, "train/learning_rate": event.learning_rate, "train/grad_norm": event.grad_norm,
                "train/epoch": event.epoch, "train/tokens_per_s": event.tokens_per_s,
            }  # fmt: skip
        elif isinstance(event, EvaluationEvent):
            values = {"eval/loss": event.loss, "eval/perplexity": event.perplexity}
        known = {key: value for key, value in values.items() if value is not None}
        for name, tracker in list(self._open.items()) if known else ():
            self._call(name, tracker.log, known, event.step)

    def finish(self) -> None:
        for name, tracker in list(self._open.items()):
            self._call(name, tracker.finish)

    def _call(self, name: str, call: Callable[..., Any], *arguments: Any) -> None:
        try:
            call(*arguments)
        except Exception as error:  # whatever a tracker or its server does, the training goes on
            self._open.pop(name, None)
            self._run.notice(
                f"{name} takes no more of the curve: {str(error).partition(chr(10))[0][:300]}",
                hint="The curve is complete here.", level="warning", code="tracker_failed",
            )  # fmt: skip


@contextmanager
def tracked(run: RunContext, names: Iterable[str], settings: dict[str, Any]) -> Iterator[None]:
    """Within this block, what `run` reports goes to the trackers in `names` as well."""
    names = list(names)
    if not names or not run.is_main:
        yield
        return
    trackers = Trackers(run, names, settings)
    run.observe(trackers.tell)
    try:
        yield
    finally:
        trackers.finish()


def _place(run: RunContext, name: str) -> dict[str, Any]:
    """Where a tracker writes, and under which name: TensorBoard's files lie in the job's folder."""
    label = f"{run.spec.name} ({run.spec.job_id})"
    if name == "tensorboard":
        return {"run_name": "tensorboard", "logging_dir": str(run.dir.path)}
    if name == "mlflow":
        return {"experiment_name": "tunesmith", "run_name": label}
    return {"run_name": "tunesmith", "name": label}
