"""The report of a model of a table: one HTML page that needs nothing else. Every number says what it was measured on."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from jinja2 import Environment
from markupsafe import Markup, escape
from pydantic import ValidationError

from tunesmith.core.events import parse_event
from tunesmith.core.job_spec import JobSpec
from tunesmith.recipes.blocks.report import EVALUATIONS_HERE

WIDTH, HEIGHT = 640, 240
SHOWN_COLUMNS, SHOWN_CLASSES, SHOWN_MISTAKES = 30, 20, 30
INK, SOFT, ACCENT, SECOND = "#333", "#8888", "#5b7cfa", "#d9822b"

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ spec.name }} – training report</title>
<style>
:root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1.5rem 0; background: #fff; color: #333; border-radius: .5rem; padding: .5rem; } figure svg { width: 100%; height: auto; }
figcaption { color: #444; padding: 0 .5rem; } table { border-collapse: collapse; width: 100%; }
th, td { text-align: left; border-bottom: 1px solid #8884; padding: .25rem .5rem; overflow-wrap: anywhere; } .wide { overflow-x: auto; }
</style></head><body>
<h1 dir="auto">{{ spec.name }}</h1>
<p>Predicts <strong dir="auto">{{ told.target }}</strong>{% if spec.dataset %} from {{ spec.dataset.name }} ({{ spec.dataset.num_rows }} rows, version {{ spec.dataset.digest[:12] }}){% endif %}.
The answer is a mixture of {% for name, weight in told.weights.items() %}{{ name }} ({{ "%.0f" | format(100 * weight) }} %){{ ", " if not loop.last }}{% endfor %}.</p>
<h2>Results</h2>
<p>Measured on {{ told.final.measured_on }}. {{ told.metric }} has a 95 % interval of {{ number(told.final.interval[0]) }} to {{ number(told.final.interval[1]) }} (bootstrap over these rows).</p>
{{ table(["Metric", "Value", "Out of fold"], scores) }}
<p>Out of fold: each row by models that did not learn it; iterations, weights and calibration were chosen on these rows, so these numbers are slightly too good.</p>
{{ evaluations }}
<h2>Models</h2>
<p>Out-of-fold scores of each model alone, on {{ told.cv.rows }} rows.</p>
{{ table(["Model", "Weight"] + model_scores, models) }}
{{ table(["Model", "Fold", "Iterations kept", "of", "Loss on the fold's held-out rows", "Seconds", "Ended by"], fits) }}
<h2>Curves</h2>
{{ curves }}
{% if importance %}<h2>What the columns matter</h2>
<p>Each column was shuffled among {{ told.importance.measured_on }}: {{ told.importance.unit }}, with 95 % intervals over rows. Columns that say the same share what they matter.</p>
{{ importance }}{% if told.importance.not_measured %}<p>Not measured for want of time: {{ told.importance.not_measured | join(", ") }}.</p>{% endif %}{% endif %}
{% if per_class %}<h2>Classes</h2>
{{ table(["Class", "Rows", "Precision", "Recall", "F1"], per_class) }}
{% if confusion %}<h3>Expected and answered</h3><div class="wide">{{ confusion }}</div>{% endif %}
{% if mistakes %}<h3>Mistakes</h3><p>With the rows that were most surely wrong, by their number in the data.</p>
{{ table(["Expected", "Answered", "Rows", "Examples"], mistakes) }}{% endif %}
<h3>Calibration</h3><p>{{ calibration }}</p>{{ reliability }}{% endif %}
{% if worst %}<h2>Bounds and largest errors</h2>
<p>Low and high are {{ number(told.bound) }} below and above the value: the bound that holds 90 % of the out-of-fold residuals.
{{ "%.1f" | format(100 * told.final.scores.interval_coverage) }} % of the rows above lie inside. It is the same everywhere: where the model is less sure, it is too narrow.</p>
{{ table(["Row", "Expected", "Predicted"], worst) }}{% endif %}
<h2>Columns</h2>
{{ table(["Column", "Type", "Missing", "Categories"], columns) }}
{% if told.left_out %}<p>Not used: {% for name, why in told.left_out.items() %}{{ name }} ({{ why }}){{ "; " if not loop.last }}{% endfor %}.</p>{% endif %}
{% if notices %}<h2>Notices</h2><ul>{% for notice in notices %}<li>{{ notice.message }} {{ notice.hint }}</li>{% endfor %}</ul>{% endif %}
<h2>Settings</h2>
{{ table(["Setting", "Value"], params.items()) }}
</body></html>
"""


def render(spec: JobSpec, params: dict[str, Any], told: dict[str, Any], events_path: Path) -> str:
    """The whole page. `told` is what `report.json` holds."""
    curves, notices = _read(events_path)
    final = told["final"]
    names = list(next(iter(told["by_model"].values())))
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(
        spec=spec, params=params, told=told, notices=notices, number=number, table=table, evaluations=Markup(EVALUATIONS_HERE),
        scores=[(name, number(value), number(told["cv"]["scores"].get(name))) for name, value in final["scores"].items()],
        model_scores=names,
        models=[
            (model, f"{100 * told['weights'].get(model, 0):.0f} %", *(number(found.get(name)) for name in names))
            for model, found in told["by_model"].items()
        ],
        fits=[
            (f["model"], f["fold"] + 1, f["iterations"], f["run"], number(f["loss"]), f"{f['seconds']:.1f}", f["ended"])
            for f in told["fits"]
        ],
        curves=draw_curves(curves),
        importance=draw_importance(told["importance"]["columns"]) if told["importance"] else "",
        per_class=[
            (c["label"], c["rows"], number(c["precision"]), number(c["recall"]), number(c["f1"])) for c in final.get("per_class", ())
        ],
        confusion=_confusion(final.get("confusion"), told["classes"]),
        mistakes=[
            (m["expected"], m["answered"], m["rows"], ", ".join(map(str, m["examples"])))
            for m in final.get("mistakes", ())[:SHOWN_MISTAKES]
        ],
        calibration=_calibration_sentence(told), reliability=draw_reliability(final.get("reliability", [])),
        worst=[(w["row"], number(w["expected"]), number(w["predicted"])) for w in final.get("worst", ())],
        columns=[(c["name"], c["type"], c["num_missing"], c["choices"] or "") for c in told["columns"]],
    )  # fmt: skip


def number(value: float | None) -> str:
    """Four digits that say something; nothing for what is not known."""
    return "" if value is None or not math.isfinite(value) else f"{value:.4g}" if abs(value) < 1e4 else f"{value:,.0f}"


def table(head: list[str], rows: Any) -> Markup:
    """An HTML table; every cell is escaped."""
    top = "".join(f'<th scope="col">{escape(name)}</th>' for name in head)
    body = "".join("<tr>" + "".join(f'<td dir="auto">{escape(cell)}</td>' for cell in row) + "</tr>" for row in rows)
    return Markup(f"<table><thead><tr>{top}</tr></thead><tbody>{body}</tbody></table>")


def _read(events_path: Path) -> tuple[dict[str, list[tuple[float, float]]], list[Any]]:
    """Curves of the loss, and the notices; a resumed run's later word on a step counts."""
    found: dict[str, dict[int, float]] = {"rows learned from": {}, "fold's held-out rows": {}}
    notices = []
    with events_path.open("rb") as lines:
        for line in lines:
            try:
                event = parse_event(line)
            except ValidationError:
                continue
            if event.type in ("step", "evaluation") and "loss" in event.values:
                name = "rows learned from" if event.type == "step" else "fold's held-out rows"
                found[name][event.step] = event.values["loss"]
            elif event.type == "notice":
                notices.append(event)
    return {name: sorted(points.items()) for name, points in found.items() if points}, notices


def _figure(svg: str, sentence: str) -> Markup:
    text = escape(sentence)
    return Markup(f'<figure role="img" aria-label="{text}">{svg}<figcaption>{text}</figcaption></figure>')


def draw_curves(curves: dict[str, list[tuple[float, float]]]) -> Markup:
    """Loss over the iterations of all fits in a row; where a new fit begins, the curve jumps up."""
    points = [point for curve in curves.values() for point in curve if math.isfinite(point[1])]
    if not points:
        return Markup("<p>No steps were recorded.</p>")
    high_x, low_y, high_y = max(x for x, _ in points) or 1, min(y for _, y in points), max(y for _, y in points)
    span = (high_y - low_y) or 1.0
    parts = [f'<path d="M50 10V{HEIGHT - 30}H{WIDTH - 10}" fill="none" stroke="{SOFT}"/>']
    for (name, curve), color, y in zip(curves.items(), (ACCENT, SECOND), (20, 38), strict=False):
        path = "".join(
            f"{'L' if i else 'M'}{50 + x / high_x * (WIDTH - 60):.1f} {10 + (high_y - v) / span * (HEIGHT - 40):.1f}"
            for i, (x, v) in enumerate(curve)
        )
        parts.append(f'<path d="{path}" fill="none" stroke="{color}" stroke-width="1.5"/>')
        parts.append(f'<text x="{WIDTH - 180}" y="{y}" fill="{color}" font-size="12">{escape(name)}</text>')
    parts += [
        f'<text x="2" y="18" font-size="11" fill="{INK}">{number(high_y)}</text>',
        f'<text x="2" y="{HEIGHT - 32}" font-size="11" fill="{INK}">{number(low_y)}</text>',
        f'<text x="{WIDTH - 120}" y="{HEIGHT - 12}" font-size="11" fill="{INK}">iteration {int(high_x):,}</text>',
    ]
    sentence = "Loss over the iterations of all models and folds, one after another; each fit begins anew."
    return _figure(f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>', sentence)


def draw_importance(columns: list[dict[str, Any]]) -> Markup:
    """Bars with intervals, the largest first; of many columns the first ones, and then a table of none."""
    shown = columns[:SHOWN_COLUMNS]
    if not shown:
        return Markup("")
    low, high = min(0.0, *(c["low"] for c in shown)), max(1e-12, *(c["high"] for c in shown))
    scale = 330 / (high - low)
    zero = 200 - low * scale
    parts = []
    for place, c in enumerate(shown):
        y = 12 + 20 * place
        left, width = zero + min(0.0, c["value"]) * scale, abs(c["value"]) * scale
        name = c["column"] if len(c["column"]) <= 28 else c["column"][:27] + "…"
        parts.append(
            f'<text x="190" y="{y + 5}" font-size="12" text-anchor="end" fill="{INK}">{escape(name)}</text>'
            f'<rect x="{left:.1f}" y="{y - 5}" width="{width:.1f}" height="10" fill="{ACCENT}"/>'
            f'<path d="M{zero + c["low"] * scale:.1f} {y}H{zero + c["high"] * scale:.1f}" stroke="{INK}"/>'
            f'<text x="545" y="{y + 5}" font-size="11" fill="{INK}">{number(c["value"])}</text>'
        )
    height = 24 + 20 * len(shown)
    more = f" The first {SHOWN_COLUMNS} of {len(columns)} columns." if len(columns) > SHOWN_COLUMNS else ""
    sentence = f"{shown[0]['column']} matters most.{more} All are in report.json."
    return _figure(
        f'<svg viewBox="0 0 {WIDTH} {height}"><path d="M{zero:.1f} 0V{height}" stroke="{SOFT}"/>{"".join(parts)}</svg>',
        sentence,
    )


def draw_reliability(bins: list[dict[str, float]]) -> Markup:
    """How often an answer is right, by how sure it is."""
    if not bins:
        return Markup("")

    def at(value: float) -> float:
        return 10 + value * (HEIGHT - 40)

    parts = [
        f'<path d="M50 10V{HEIGHT - 30}H{50 + HEIGHT - 40}M50 {HEIGHT - 30}L{50 + HEIGHT - 40} 10" fill="none" stroke="{SOFT}"/>'
    ]
    for b in bins:
        x, y = 40 + at(b["confidence"]), HEIGHT - 20 - at(b["accuracy"])
        parts.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="4" fill="{ACCENT}"><title>{b["rows"]} rows</title></circle>'
        )
    parts.append(f'<text x="{60 + HEIGHT - 40}" y="{HEIGHT - 26}" font-size="12" fill="{INK}">how sure, 0 to 1</text>')
    parts.append(f'<text x="2" y="20" font-size="12" fill="{INK}">right</text>')
    sentence = "How often the answer is right (up), by its probability (across); on the line both are equal."
    rows = [
        (f"{b['low']:.1f} to {b['high']:.1f}", b["rows"], number(b["confidence"]), number(b["accuracy"])) for b in bins
    ]
    svg = f'<svg viewBox="0 0 {WIDTH} {HEIGHT}">{"".join(parts)}</svg>'
    return _figure(svg, sentence) + table(["Probability", "Rows", "Mean probability", "Share right"], rows)


def _confusion(counts: list[list[int]] | None, classes: list[Any]) -> Markup:
    """A table for few classes; of many the mistakes below say more."""
    if not counts or len(classes) > SHOWN_CLASSES:
        return Markup("")
    return table(
        ["expected \\ answered", *map(str, classes)],
        [(label, *row) for label, row in zip(classes, counts, strict=True)],
    )


def _calibration_sentence(told: dict[str, Any]) -> str:
    tried, used = told["calibration"]["log_loss"], told["calibration"]["used"]
    said = ", ".join(f"{name} {number(value)}" for name, value in tried.items())
    return (
        f"Used: {used['method'] if used else 'none'}. Log loss of each way on parts that it was not chosen on: {said}."
    )
