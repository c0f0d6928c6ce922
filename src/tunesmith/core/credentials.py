"""Names of variables with tokens, and which job needs which: a token goes to whom it is for."""

from __future__ import annotations

from pathlib import Path

from tunesmith.core.job_spec import JobSpec

HUB_TOKEN = ("HF_TOKEN",)
OF_TRACKERS = {
    "wandb": ("WANDB_API_KEY", "WANDB_BASE_URL", "WANDB_MODE"),
    "mlflow": ("MLFLOW_TRACKING_URI", "MLFLOW_TRACKING_TOKEN"),
    "trackio": ("TRACKIO_SPACE_ID", *HUB_TOKEN),
}
"""What a worker gets besides when its job reports to that tracker."""


def of_job(spec: JobSpec) -> set[str]:
    """What most jobs need: of the trackers that they report to, and of the hub where their model comes from it."""
    reports_to = spec.params.get("report_to") or ()
    wanted = {name for tracker in reports_to for name in OF_TRACKERS.get(tracker, ())}
    if spec.model and not spec.offline and is_hub_id(spec.model.path):
        wanted.update(HUB_TOKEN)
    return wanted


def is_hub_id(path: str) -> bool:
    """Whether a model must be asked for at the hub: everything that is here has an absolute path."""
    return not Path(path).is_absolute()
