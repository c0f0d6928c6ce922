"""One job, written out in the four ways in which it can be made without the web page: YAML, cURL, Python, command line.

They hold what the request holds and nothing else: no token, no setting of the server.
"""

from __future__ import annotations

import json
import shlex
from typing import Any

from tunesmith.schemas.jobs import JobCreate, JobTexts

DEFAULT_URL = "http://127.0.0.1:8000"
"""What command line and SDK take when they are told nothing (`tunesmith.sdk.connection`)."""
SCHEDULE = ("priority", "start", "not_before", "after_job_id", "after_failure", "timeout_s")
FLAGS = {
    "name": "--name",
    "method": "--method",
    "model": "--model",
    "dataset_id": "--dataset",
    "dataset_version": "--dataset-version",
    "eval_dataset_id": "--eval-dataset",
    "priority": "--priority",
    "start": "--start",
    "not_before": "--not-before",
    "after_job_id": "--after",
    "timeout_s": "--timeout",
    "num_gpus": "--gpus",
    "cpu_threads": "--cpu-threads",
    "memory_bytes": "--memory-bytes",
}
"""Fields that are an option of `tunesmith jobs create` each."""


def write_out(body: JobCreate, url: str = DEFAULT_URL) -> JobTexts:
    """`body` as texts that make the same job on the server at `url`. Values that are the default anyway are left out."""
    fields: dict[str, Any] = {"method": body.method, **body.model_dump(mode="json", exclude_defaults=True)}
    if body.resources is not None:  # none asked for is not the same as none said
        fields["resources"] = body.resources.model_dump(exclude_none=True)
    return JobTexts(yaml=_yaml(fields), curl=_curl(fields, url), python=_python(fields, url), cli=_cli(fields, url))


def _yaml(fields: dict[str, Any]) -> str:
    """As `tunesmith train --config` reads it."""
    import yaml  # the server imports this module and seldom comes here

    data = {
        "dataset": fields.get("dataset_id"),
        "version": fields.get("dataset_version"),
        "validation_dataset": fields.get("eval_dataset_id"),
    }
    config: dict[str, Any] = {
        "name": fields.get("name"),
        "method": fields["method"],
        "model": {"name": fields["model"]} if "model" in fields else None,
        "training_data": _given(data),
        "hyperparameters": fields.get("hyperparameters"),
        "auto": fields.get("auto"),
        "tags": fields.get("tags"),
        "schedule": {name: fields[name] for name in SCHEDULE if name in fields},
        "resources": fields.get("resources"),
    }
    kept = {name: value for name, value in config.items() if value not in (None, {})}
    return yaml.safe_dump(kept, sort_keys=False, allow_unicode=True, width=100)


def _curl(fields: dict[str, Any], url: str) -> str:
    body = json.dumps(fields, indent=2, ensure_ascii=False)
    return _shell(
        [["curl", "--fail-with-body", "-X", "POST", f"{url}/api/v1/jobs/"], ["-H", "Content-Type: application/json"],
         ["-d", body]]
    )  # fmt: skip


def _python(fields: dict[str, Any], url: str) -> str:
    address = "" if url == DEFAULT_URL else repr(url)
    lines = [f"    {name}={_python_value(value)}," for name, value in fields.items()]
    return "\n".join(
        ["from tunesmith import Client", "", f"client = Client({address})", "job = client.jobs.create(", *lines, ")",
         "print(job.id, job.info.status)", ""]
    )  # fmt: skip


def _python_value(value: Any) -> str:
    """Mappings of more than one entry on lines of their own."""
    if not isinstance(value, dict) or len(value) < 2:
        return repr(value)
    inner = "".join(f"        {name!r}: {item!r},\n" for name, item in value.items())
    return f"{{\n{inner}    }}"


def _cli(fields: dict[str, Any], url: str) -> str:
    parts = [["tunesmith", "jobs", "create"]]
    options = {**fields, **fields.get("resources", {})}
    parts += [[flag, str(options[name])] for name, flag in FLAGS.items() if name in options]
    parts += [["--only-after-success"]] if fields.get("after_failure") is False else []
    parts += [["--no-auto"]] if fields.get("auto") is False else []
    parts += [["--tag", tag] for tag in fields.get("tags", [])]
    parts += [["--set", f"{name}={_cli_value(value)}"] for name, value in fields.get("hyperparameters", {}).items()]
    where = "" if url == DEFAULT_URL else f"TUNESMITH_URL={shlex.quote(url)} "
    return where + _shell(parts)


def _cli_value(value: Any) -> str:
    """What `--set` reads as `value`: JSON, or plain text where that cannot be taken for JSON or for a file's name."""
    if isinstance(value, str) and not value.startswith("@"):
        try:
            json.loads(value)
        except (ValueError, RecursionError):
            return value
    return json.dumps(value, ensure_ascii=False)


def _shell(parts: list[list[str]]) -> str:
    """A command over several lines."""
    return " \\\n  ".join(shlex.join(part) for part in parts) + "\n"


def _given(values: dict[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in values.items() if value is not None}
