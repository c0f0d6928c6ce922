"""The part of the report that is about labels, as HTML."""

from __future__ import annotations

from typing import Any

from jinja2 import Environment

from tunesmith.core.words import plural

MOST_CLASSES, MOST_ERRORS = 200, 100

PAGE = """
{% if found.per_class %}<h2>Labels</h2>
<table><thead><tr><th scope="col">Label</th><th scope="col">Training rows</th><th scope="col">Held-out rows</th><th scope="col">Precision</th><th scope="col">Recall</th><th scope="col">F1</th></tr></thead><tbody>
{% for one in found.per_class[:most_classes] %}<tr><th scope="row" dir="auto">{{ one.label }}</th><td>{{ one.training_rows }}</td><td>{{ one.held_out_rows }}</td><td>{{ share(one.precision) }}</td><td>{{ share(one.recall) }}</td><td>{{ share(one.f1) }}</td></tr>
{% endfor %}</tbody></table>{% if found.per_class | length > most_classes %}<p>The first {{ most_classes }} of {{ found.per_class | length }} labels; report.json has all.</p>{% endif %}{% endif %}
{% if found.confusions %}<h2>Most frequent mistakes</h2>
<table><thead><tr><th scope="col">Label</th><th scope="col">Predicted</th><th scope="col">Rows</th><th scope="col">Examples</th></tr></thead><tbody>
{% for one in found.confusions %}<tr><th scope="row" dir="auto">{{ one.label or "(none)" }}</th><td dir="auto">{{ one.predicted or "(missing)" }}</td><td>{{ one.count }}</td><td>{% for example in one.examples %}<div dir="auto">Row {{ example.row }}: {{ example.text }}</div>{% endfor %}</td></tr>
{% endfor %}</tbody></table>{% endif %}
{% if found.calibration %}<h2>Calibration</h2>
<p>Expected calibration error on held-out rows: {{ share(found.calibration.ece_before) }} before, {{ share(found.calibration.ece_after) }} after dividing the logits by the temperature
{{ "%.3f" | format(found.calibration.temperature) }}, which is folded into the weights of the last layer, so every program that loads the model gets calibrated probabilities.</p>
<table><thead><tr><th scope="col">Probability of the likeliest label</th><th scope="col">Held-out rows</th><th scope="col">Mean probability</th><th scope="col">Right</th></tr></thead><tbody>
{% for one in found.calibration.reliability %}<tr><th scope="row">{{ "%.1f" | format(one.from) }} to {{ "%.1f" | format(one.to) }}</th><td>{{ one.rows }}</td><td>{{ share(one.probability) }}</td><td>{{ share(one.right) }}</td></tr>
{% endfor %}</tbody></table>{% endif %}
{% if found.unsure %}<h2>When the model is unsure</h2>
<p>{% if found.unsure.threshold is not none %}Answers with a probability below {{ "%.4f" | format(found.unsure.threshold) }} are marked unsure. {% endif %}{{ found.unsure.how }}</p>
<table><thead><tr><th scope="col">Threshold</th><th scope="col">Rows answered</th><th scope="col">Right of these</th></tr></thead><tbody>
{% for one in found.unsure.coverage %}<tr><th scope="row">{{ "%.4g" | format(one.threshold) }}</th><td>{{ share(one.answered) }}</td><td>{{ share(one.accuracy) }}</td></tr>
{% endfor %}</tbody></table>{% endif %}
{% if found.label_errors %}<h2>Labels that are probably wrong</h2>
<p>{{ rows(found.label_errors.total) }}: the model finds another label likelier. This is a guess; look at each before you change it. On rows that were trained on the model
tends to believe the label it was given, so more may be wrong there than is listed.</p>
{% if found.label_errors.rows %}<table><thead><tr><th scope="col">Row</th><th scope="col">Text</th><th scope="col">Label</th><th scope="col">Likelier</th><th scope="col">Trained on</th></tr></thead><tbody>
{% for one in found.label_errors.rows[:most_errors] %}<tr><th scope="row">{{ one.row }}</th><td dir="auto">{{ one.text }}</td><td dir="auto">{{ one.label or "(missing)" }} {{ share(one.label_score) }}</td><td dir="auto">{{ one.likelier or "(too many)" }} {{ share(one.likelier_score) }}</td><td>{{ "yes" if one.learned else "no" }}</td></tr>
{% endfor %}</tbody></table>{% endif %}{% endif %}
{% if found.contradictions %}<h2>Equal texts with different labels</h2>
<p>{{ found.contradictions | length }}{{ " or more" if found.contradictions | length >= 100 }}:</p><ul>{% for one in found.contradictions[:20] %}<li>Rows {{ one[:20] | join(", ") }}</li>{% endfor %}</ul>{% endif %}
"""


def sections(found: dict[str, Any]) -> str:
    """`found` is what `report.json` holds."""
    page = Environment(autoescape=True).from_string(PAGE)
    return page.render(
        found=found, most_classes=MOST_CLASSES, most_errors=MOST_ERRORS, share=_share, rows=lambda n: plural(n, "row")
    )


def _share(value: float | None) -> str:
    return "" if value is None else f"{100 * value:.1f} %"
