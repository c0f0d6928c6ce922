"""The card of a model on a hub: what it was made from, how, how good it is, what it is not."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any, NamedTuple

import yaml

from tunesmith.features.deployments.targets.base import TargetWork

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]+")
RELATIONS = {"adapter": "adapter", "model": "finetune", "gguf": "quantized"}
"""The kind of a model → the hub's word for how it comes from its base model."""
TASK = {"type": "text-generation", "name": "Text Generation"}
LIMITS = """It answers in the way of its training data and its base model: it can be wrong, and it can repeat what is unfair or harmful in them. The scores
above were taken on the data named beside them and say nothing about other uses. Have a person check what matters."""


class Score(NamedTuple):
    """One number of one evaluation."""

    suite: str
    name: str
    value: float
    low: float | None = None
    high: float | None = None
    num_samples: int | None = None


def model_card(work: TargetWork, kind: str, repo: str, licence: str | None) -> str:
    """Markdown with the hub's front matter. `kind`: adapter, model or gguf."""
    lineage = work.facts.get("lineage") or {}
    base = str(lineage.get("base_model") or work.facts.get("base_model") or "")
    scores = list(scores_of(work.facts.get("scores") or {}))
    front: dict[str, Any] = {}
    if licence or work.facts.get("licence"):
        front["license"] = licence or str(work.facts["licence"])
    if HUB_ID.fullmatch(base):
        front |= {"base_model": base, "base_model_relation": RELATIONS[kind]}
    data = str(lineage.get("dataset_name") or "")
    if HUB_ID.fullmatch(data):
        front["datasets"] = [data]
    front |= {
        "library_name": {"adapter": "peft", "gguf": "gguf"}.get(kind, "transformers"),
        "pipeline_tag": "text-generation",
    }
    method = str(lineage.get("method") or "")
    front["tags"] = [
        "tunesmith",
        *([method] if re.fullmatch(r"[a-z0-9_-]+", method) else []),
        *(["lora"] if kind == "adapter" else []),
    ]
    if scores:
        front["model-index"] = [{"name": repo.rpartition("/")[2], "results": _results(scores)}]
    parts = [
        f"---\n{yaml.safe_dump(front, sort_keys=False, allow_unicode=True)}---",
        f"# {plain(work.title)}",
        _what(work, kind, base, method),
        "## Training data\n\n" + _data(lineage),
        "## Scores\n\n" + _score_table(scores, work.facts.get("metrics") or {}),
        "## Settings\n\n" + _table(("setting", "value"), (work.facts.get("tuned_with") or {}).items()),
        "## Use\n\n" + _use(work),
        "## Limits\n\n" + LIMITS + (f"\n\n{plain(work.facts['notes'])}" if work.facts.get("notes") else ""),
        "## Where it comes from\n\n"
        + _table(("", ""), ((key.replace("_", " "), value) for key, value in lineage.items())),
    ]
    return "\n\n".join(parts) + "\n"


def scores_of(told: dict[str, Any]) -> Iterator[Score]:
    """Every number in the scores of a version: by evaluation and metric, each a number or an object with `value`."""
    for suite, metrics in told.items():
        inner = metrics.get("scores", metrics) if isinstance(metrics, dict) else {"": metrics}
        if "value" in inner:
            inner = {"": inner}
        for name, value in inner.items():
            full = value if isinstance(value, dict) else {"value": value}
            if isinstance(full.get("value"), int | float) and not isinstance(full["value"], bool):
                title = name or suite
                yield Score(
                    suite, title, float(full["value"]), full.get("low"), full.get("high"), full.get("num_samples")
                )


def plain(text: Any) -> str:
    """One line that cannot break a table or open a tag."""
    return " ".join(str(text).split()).replace("|", "\\|").replace("<", "&lt;")


def _results(scores: list[Score]) -> list[dict[str, Any]]:
    """The hub's form: one entry an evaluation."""
    suites: dict[str, list[Score]] = {}
    for score in scores:
        suites.setdefault(score.suite, []).append(score)
    return [
        {
            "task": TASK,
            "dataset": {"name": suite, "type": re.sub(r"[^\w.-]+", "-", suite).lower() or "own"},
            "metrics": [{"type": s.name, "name": s.name, "value": s.value} for s in found],
        }
        for suite, found in suites.items()
    ]


def _what(work: TargetWork, kind: str, base: str, method: str) -> str:
    what = {"adapter": "A LoRA adapter for", "gguf": "A GGUF file made from", "model": "Made from"}[kind]
    size = work.facts.get("num_parameters")
    text = f"{what} {plain(base) or 'a model of our own'}" + (
        f", tuned with the `{plain(method)}` method" if method else ""
    )
    return f"{text}. {size:,} parameters." if isinstance(size, int) and size else f"{text}."


def _data(lineage: dict[str, Any]) -> str:
    name, digest = lineage.get("dataset_name"), lineage.get("dataset_digest")
    if not name:
        return "Not recorded."
    return f"{plain(name)}" + (f", version `{plain(digest)}`." if digest else ".")


def _score_table(scores: list[Score], metrics: dict[str, Any]) -> str:
    if not scores:
        numbers = [(name, f"{value:.4g}") for name, value in metrics.items() if isinstance(value, int | float)]
        return _table(("metric of the training", "value"), numbers) if numbers else "It was not evaluated."
    rows = []
    for score in scores:
        between = f"{score.low:.4g} to {score.high:.4g}" if score.low is not None and score.high is not None else ""
        rows.append((score.suite, score.name, f"{score.value:.4g}", between, score.num_samples or ""))
    return _table(("evaluation", "metric", "value", "95 % interval", "samples"), rows)


def _use(work: TargetWork) -> str:
    text = "Ask it in its own chat template (`tokenizer.apply_chat_template`)."
    given = {name: value for name, value in work.sampling.items() if value not in (None, [])}
    text += f" Sampling it was tried with: `{plain(given)}`." if given else ""
    return text + (f"\n\nSystem prompt:\n\n> {plain(work.system_prompt)}" if work.system_prompt else "")


def _table(head: tuple[str, ...], rows: Any) -> str:
    lines = [
        "| " + " | ".join(plain(cell) for cell in row) + " |" for row in rows if any(str(cell) for cell in row[1:])
    ]
    if not lines:
        return "Not recorded."
    return "\n".join(["| " + " | ".join(head) + " |", "|" + "---|" * len(head), *lines])
