"""What a job leaves: the model with its card, and the report."""

from __future__ import annotations

import json
from typing import Any

from tunesmith.core.recipe import RunContext
from tunesmith.recipes.blocks.model_card import config_yaml
from tunesmith.recipes.tabular.artifact import TabularModel, write_model
from tunesmith.recipes.tabular.kind import USAGE
from tunesmith.recipes.tabular.report import render
from tunesmith.recipes.tabular.spec import TabularParams
from tunesmith.recipes.tabular.store import Store
from tunesmith.recipes.tabular.table import Table


def leave_model(
    run: RunContext, params: TabularParams, store: Store, model: TabularModel, table: Table, found: dict[str, Any]
) -> None:
    """`artifacts/tabular_model/`."""
    told = {
        "task": table.task,
        "target": table.target,
        "classes": table.classes,
        "class_type": table.class_type,
        "columns": [column.as_json() for column in table.columns],
        "left_out": table.left_out,
        "unsure_below": params.unsure_below,
        "bound": found["bound"],
        "metric": found["metric"],
        "weights": found["weights"],
        "metrics": found["metrics"],
        "measured_on": found["final"]["measured_on"],
    }
    with run.artifact("tabular_model") as folder:
        write_model(folder, store.folder, told, model)
        (folder / "README.md").write_text(_card(run, params, table, found))
        (folder / "training_config.yaml").write_text(config_yaml(run.spec, params.model_dump(mode="json")))


def leave_report(
    run: RunContext, params: TabularParams, store: Store, model: TabularModel, table: Table, found: dict[str, Any]
) -> None:
    """`artifacts/report/`: `report.json`, and `report.html`, which needs nothing else."""
    told = {
        "task": table.task, "target": table.target, "classes": table.classes, "metric": found["metric"],
        "final": found["final"], "cv": found["cv"], "by_model": found["by_model"], "weights": found["weights"],
        "calibration": {"log_loss": found["calibration"], "used": model.calibration}, "bound": found["bound"],
        "importance": found["importance"], "fits": store.state.fits, "learning_rates": store.state.rates,
        "columns": [column.as_json() | {"choices": len(column.choices)} for column in table.columns], "left_out": table.left_out,
        "metrics": found["metrics"],
    }  # fmt: skip
    with run.artifact("report") as folder:
        (folder / "report.json").write_text(json.dumps(told, indent=1, ensure_ascii=False))
        (folder / "report.html").write_text(render(run.spec, params.model_dump(mode="json"), told, run.dir.events))


def _card(run: RunContext, params: TabularParams, table: Table, found: dict[str, Any]) -> str:
    spec, data = run.spec, run.spec.dataset
    assert data is not None
    front = ["---", f"pipeline_tag: {table.task}", "library_name: tunesmith", "tags: [tunesmith, tabular]", "---"]
    columns = [f"| {_plain(c.name)} | {c.type} | {_values(c.as_json())} |" for c in table.columns]
    final = found["final"]
    lines = [
        *front, "", f"# {_plain(spec.name)}", "", f"Predicts `{_plain(table.target)}` from the other columns of a table: a mixture of "
        f"{', '.join(f'{name} ({weight:.0%})' for name, weight in found['weights'].items())}.",
        "", "## Use", "", "```python", USAGE.replace("{folder}", "path/to/this/folder").strip(), "```", "",
        "## Columns", "", "| column | type | values |", "|---|---|---|", *columns, "",
        *(["Not used: " + "; ".join(f"{_plain(n)} ({why})" for n, why in table.left_out.items()) + ".", ""] if table.left_out else []),
        "## Training data", "", f"{_plain(data.name)}, {data.num_rows} rows, version `{data.digest}`.", "",
        "## Results", "", f"Measured on {final['measured_on']}.", "", "| metric | value |", "|---|---|",
        *(f"| {name} | {value:.6g} |" for name, value in final["scores"].items()), "",
        "## Settings", "", "| setting | value |", "|---|---|",
        *(f"| {name} | {_plain(str(value))} |" for name, value in params.model_dump(mode="json").items()), "",
    ]  # fmt: skip
    return "\n".join(lines)


def _values(column: dict[str, Any]) -> str:
    if column["type"] == "category":
        shown = ", ".join(_plain(choice) for choice in column["choices"][:8])
        return shown + (f" and {len(column['choices']) - 8} more" if len(column["choices"]) > 8 else "")
    if column["low"] is None or column["type"] == "date":
        return ""
    return f"{column['low']:g} to {column['high']:g}"


def _plain(text: str) -> str:
    """One line that cannot break a table or open a tag."""
    return " ".join(text.split()).replace("|", "\\|").replace("<", "&lt;").replace("`", "'")
