"""The training report: charts as PNG and SVG, and one HTML page that needs nothing else."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from jinja2 import Environment
from markupsafe import Markup
from pydantic import ValidationError

from tunesmith.core.events import parse_event
from tunesmith.core.job_spec import JobSpec
from tunesmith.core.metrics import HELD_OUT, MetricSpec
from tunesmith.recipes.blocks.score_text import places, value_text
from tunesmith.recipes.language_models import LANGUAGE_METRICS

MAX_POINTS = 2000
"""Points drawn of one curve; longer ones are thinned."""

BAR_WIDTH = 160.0
"""Of the line on which a score stands, in units of its picture."""
EVALUATIONS_HERE = "<!-- evaluations -->"
"""Where the page has room for what is measured after the training."""

OTHER_CHARTS = (
    ("learning_rate", "Learning rate", ""),
    ("grad_norm", "Gradient norm", ""),
    ("tokens_per_s", "Speed", "tokens a second"),
)
"""Field of a step, title, unit: drawn where there are values."""

Series = list[tuple[float, float]]

PAGE = """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">
<title>{{ name }} – training report</title>
<style>
:root { color-scheme: light dark; } body { font: 16px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem; }
figure { margin: 1.5rem 0; background: #fff; border-radius: .5rem; padding: .5rem; } figure svg { width: 100%; height: auto; }
figcaption { color: #444; padding: 0 .5rem; } table { border-collapse: collapse; width: 100%; }
.pre { white-space: pre-wrap; } td { vertical-align: top; }
th, td { text-align: left; border-bottom: 1px solid #8884; padding: .25rem .5rem; overflow-wrap: anywhere; }
</style></head><body>
<h1>{{ name }}</h1>
<p>{{ spec.model.name ~ " tuned" if spec.model else "Made" }} with the {{ spec.recipe }} method{% if spec.dataset %} on
{{ spec.dataset.name }} ({{ spec.dataset.num_rows }} rows, version {{ spec.dataset.digest[:12] }}){% endif %}.</p>
<h2>Results</h2>
<table><thead><tr><th scope="col">Metric</th><th scope="col">Value</th></tr></thead><tbody>
{% for key, value in metrics.items() %}<tr><th scope="row">{{ key }}</th><td>{{ "%.6g" | format(value) }}</td></tr>{% endfor %}
</tbody></table>
<!-- evaluations -->
{% if compared %}<h2>Before and after</h2>
{% if compared.reason %}<p>{{ compared.reason }} {{ compared.hint }}</p>{% endif %}
{% if compared.questions %}<p>Held-out rows of {{ compared.dataset }}, which were not trained on. Both models give their likeliest answer, cut after {{ compared.answer_limit }} tokens.
Loss and perplexity are of the expected answer; chrF compares the answer given with the expected one (0 to 100, higher is better).</p>{% endif %}
{% for one in compared.questions %}<h3>Row {{ one.row }}</h3>
{% for turn in one.turns %}<p><strong>{{ turn.role }}</strong></p><p class="pre" dir="auto">{{ turn.content }}</p>{% endfor %}
<table><thead><tr><th scope="col">Score</th><th scope="col">Base: {{ compared.base_model }}</th><th scope="col">Tuned</th><th scope="col">Expected</th></tr></thead><tbody>
<tr><th scope="row">Answer</th>{% for side in (one.base, one.tuned) %}<td class="pre" dir="auto">{{ side.answer }}{{ " …" if side.is_cut }}</td>{% endfor %}<td class="pre" dir="auto">{{ one.expected }}</td></tr>
<tr><th scope="row">Loss on the expected answer, nats a token</th><td>{{ number(one.base.loss) }}</td><td>{{ number(one.tuned.loss) }}</td><td></td></tr>
<tr><th scope="row">Perplexity of the expected answer ({{ one.expected_tokens }} tokens)</th><td>{{ number(one.base.perplexity) }}</td><td>{{ number(one.tuned.perplexity) }}</td><td></td></tr>
<tr><th scope="row">chrF of the answer</th><td>{{ number(one.base.chrf) }}</td><td>{{ number(one.tuned.chrf) }}</td><td></td></tr>
</tbody></table>{% endfor %}{% endif %}
{{ sections }}
<h2>Curves</h2>
{% for title, sentence, svg in charts %}<figure role="img" aria-label="{{ title }}. {{ sentence }}">{{ svg }}
<figcaption>{{ title }}. {{ sentence }}</figcaption></figure>{% else %}<p>No steps were recorded.</p>{% endfor %}
{% if notices %}<h2>Notices</h2><ul>{% for notice in notices %}<li>{{ notice.message }} {{ notice.hint }}</li>{% endfor %}</ul>{% endif %}
<h2>Settings</h2>
<table><thead><tr><th scope="col">Setting</th><th scope="col">Value</th></tr></thead><tbody>
{% for key, value in params.items() %}<tr><th scope="row">{{ key }}</th><td>{{ value }}</td></tr>{% endfor %}
</tbody></table>
</body></html>
"""
EVALUATIONS = """<h2>Evaluations</h2>
{% for one in evaluations %}<h3>{{ one.title }}</h3>{% if one.sentence %}<p>{{ one.sentence }}</p>{% endif %}
<table><thead><tr><th scope="col">Score</th><th scope="col">Value</th><th scope="col">95 % interval</th><th scope="col">Picture</th><th scope="col">Samples</th></tr></thead><tbody>
{% for score in one.scores %}{% set bar = score.bar %}<tr><th scope="row">{{ score.title }}{% if score.lower_is_better %} <small>lower is better</small>{% endif %}</th><td>{{ score.value }}</td><td>{{ score.low }} to {{ score.high }}</td><td>{% if bar %}<svg width="168" height="18" viewBox="-4 0 168 18" role="img" aria-label="{{ score.title }} {{ score.value }}, between {{ score.low }} and {{ score.high }}"><path d="M0 9H160" stroke="#8886" stroke-width="2"/><path d="M{{ bar.low }} 9H{{ bar.high }}M{{ bar.low }} 4V14M{{ bar.high }} 4V14" fill="none" stroke="#5b7cfa" stroke-width="2"/><circle cx="{{ bar.value }}" cy="9" r="4" fill="#5b7cfa"/></svg>{% endif %}</td><td>{{ score.num_samples }}</td></tr>
{% endfor %}</tbody></table>
{% for title, svg in one.pictures %}<figure role="img" aria-label="{{ title }}">{{ svg }}<figcaption>{{ title }}.</figcaption></figure>{% endfor %}
{% endfor %}"""


class Evaluated(NamedTuple):
    """One evaluation of the model, as the report tells it."""

    title: str
    sentence: str
    scores: Sequence[Mapping[str, Any]]
    """Each with name, and where known title, unit, value, low, high, num_samples, higher_is_better."""
    pictures: Sequence[tuple[str, str]] = ()
    """`(title, SVG)`, as `plots` has drawn them."""


def with_evaluations(page: str, evaluations: Sequence[Evaluated]) -> str:
    """A report with the scores of what was measured since, each with its samples and interval. The same evaluations give the
    same page."""
    told = [
        {
            "title": one.title, "sentence": one.sentence, "scores": [_score(score) for score in one.scores],
            "pictures": [(title, Markup(svg)) for title, svg in one.pictures],
        }
        for one in evaluations
    ]  # fmt: skip
    part = Environment(autoescape=True).from_string(EVALUATIONS).render(evaluations=told)
    mark = EVALUATIONS_HERE if EVALUATIONS_HERE in page else "</body>"
    before, found, after = page.rpartition(mark)
    return f"{before}{part}\n{found}{after}" if found else f"{page}{part}"


def _score(score: Mapping[str, Any]) -> dict[str, Any]:
    """As the table shows it."""
    unit = score.get("unit", "")
    ends = {name: score.get(name) for name in ("value", "low", "high")}
    bar = places(**ends, unit=unit, width=BAR_WIDTH)
    return {
        "title": score.get("title") or score["name"],
        **{name: value_text(end, unit) for name, end in ends.items()},
        "bar": {name: f"{place:.1f}" for name, place in bar.items()} if bar else None,
        "num_samples": score.get("num_samples", ""),
        "lower_is_better": score.get("higher_is_better") is False,
    }


def write_report(
    folder: Path,
    run_name: str,
    spec: JobSpec,
    params: dict[str, Any],
    events_path: Path,
    metrics: dict[str, float],
    compared: dict[str, Any] | None = None,
    measured: Sequence[MetricSpec] = LANGUAGE_METRICS,
    sections: str = "",
) -> None:
    """Write `report.html`, and each chart as `.png` and `.svg`, to `folder`. `compared`: what `before_after` has found;
    `measured`: what the recipe reports, each drawn as one chart; `sections`: HTML of the recipe's own, already escaped."""
    series, notices = _read(events_path)
    drawn = []
    charts = [(metric.name, metric.title, metric.unit) for metric in measured if metric.name != "perplexity"]
    for file_name, title, unit in (*charts, *OTHER_CHARTS):
        named = {"training": file_name, "held out": f"{HELD_OUT}{file_name}"}
        curves = {name: _thinned(series[key]) for name, key in named.items() if series.get(key)}
        if curves:
            svg = _draw(folder, file_name, title, curves, unit)
            drawn.append((title, _sentence(curves), Markup(svg)))
    page = Environment(autoescape=True).from_string(PAGE)
    html = page.render(
        name=run_name, spec=spec, params=params, metrics=metrics, charts=drawn, notices=notices, compared=compared,
        sections=Markup(sections),
        number=lambda value: value_text(value, ""),
    )  # fmt: skip
    (folder / "report.html").write_text(html)


def _read(events_path: Path) -> tuple[dict[str, Series], list[Any]]:
    """Curves by name, and the notices; a resumed run's later word on a step counts."""
    curves: dict[str, dict[int, float]] = {}
    notices = []
    with events_path.open("rb") as lines:
        for line in lines:
            try:
                event = parse_event(line)
            except ValidationError:
                continue
            if event.type == "step":
                others = {name: getattr(event, name) for name, _, _ in OTHER_CHARTS}
                for name, value in {**event.values, **others}.items():
                    if value is not None:
                        curves.setdefault(name, {})[event.step] = value
            elif event.type == "evaluation":
                for name, value in event.values.items():
                    curves.setdefault(f"{HELD_OUT}{name}", {})[event.step] = value
            elif event.type == "notice":
                notices.append(event)
    return {name: sorted(points.items()) for name, points in curves.items()}, notices  # type: ignore[misc]


def _thinned(points: Series) -> Series:
    """At most `MAX_POINTS`, keeping the first and the last; values that are not finite are left out."""
    finite = [(x, y) for x, y in points if math.isfinite(y)]
    every = max(1, math.ceil(len(finite) / MAX_POINTS))
    return finite[::every] + (finite[-1:] if (len(finite) - 1) % every else [])


def _sentence(curves: dict[str, Series]) -> str:
    """What a reader who cannot see the chart needs."""
    parts = [
        f"{name} goes from {points[0][1]:.4g} to {points[-1][1]:.4g} over {int(points[-1][0])} steps"
        for name, points in curves.items()
        if points
    ]
    return "; ".join(parts).capitalize() + "." if parts else ""


def _draw(folder: Path, file_name: str, title: str, curves: dict[str, Series], unit: str) -> str:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "tunesmith", "svg.fonttype": "path"}):
        figure, axes = plt.subplots(figsize=(8, 3.2), layout="constrained")
        for name, points in curves.items():
            marker = "o" if len(points) < 30 else ""
            axes.plot([x for x, _ in points], [y for _, y in points], marker=marker, markersize=3, label=name)
        axes.set_title(title)
        axes.set_xlabel("step")
        axes.set_ylabel(unit)
        axes.grid(alpha=0.3)
        if len(curves) > 1:
            axes.legend()
        figure.savefig(folder / f"{file_name}.png", dpi=110, metadata={"Software": None})
        figure.savefig(folder / f"{file_name}.svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
    svg = (folder / f"{file_name}.svg").read_text()
    return svg[svg.index("<svg") :]
