"""Pictures of an evaluation: scores with their intervals, the confusion of labels, the time to the first token."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from tunesmith.recipes.blocks.scoring import METRICS

MOST_LABELS = 30
"""Labels of a confusion that still can be read."""
COLOUR = "#2563eb"


def draw_all(folder: Path, told: dict[str, Any], first_token_s: list[float]) -> list[str]:
    """Names of the pictures, without their endings; each is written as `.png` and `.svg`."""
    drawn = []
    for unit, name, title in (
        ("share", "scores", "Scores (share of 1)"),
        ("of 100", "scores_of_100", "Scores (of 100)"),
    ):
        shown = {
            key: score for key, score in told["scores"].items() if _unit(key) == unit and score["value"] is not None
        }
        if shown:
            _draw(folder, name, lambda axes, shown=shown: _bars(axes, shown), title, height=0.6 + 0.42 * len(shown))
            drawn.append(name)
    labels, table = told.get("labels") or [], told.get("confusion")
    if table and len(labels) <= MOST_LABELS:
        size = max(3.2, 0.45 * len(labels) + 1.6)
        _draw(folder, "confusion", lambda axes: _table(axes, labels, table), "Right label and answer", height=size)
        drawn.append("confusion")
    if len(first_token_s) > 1:
        _draw(folder, "latency", lambda axes: _histogram(axes, first_token_s), "Time to the first token", height=3.0)
        drawn.append("latency")
    return drawn


def _unit(name: str) -> str:
    if "/" in name:  # a benchmark
        return "share" if name.rpartition("/")[2].startswith(("acc", "exact_match", "f1")) else ""
    return METRICS[name].unit if name in METRICS else ""


def _bars(axes: Any, scores: dict[str, Any]) -> None:
    names = list(scores)[::-1]
    values = [scores[name]["value"] for name in names]
    errors = [
        [max(0.0, scores[n]["value"] - (scores[n]["low"] or 0.0)) for n in names],
        [max(0.0, (scores[n]["high"] or 0.0) - scores[n]["value"]) for n in names],
    ]
    titles = [METRICS[name].title if name in METRICS else name for name in names]
    axes.errorbar(values, range(len(names)), xerr=errors, fmt="o", color=COLOUR, capsize=3, markersize=5)
    axes.set_yticks(
        range(len(names)), [f"{t} (n={scores[n]['num_samples']})" for t, n in zip(titles, names, strict=True)]
    )
    axes.set_ylim(-0.6, len(names) - 0.4)
    axes.set_xlim(left=0)
    axes.grid(axis="x", alpha=0.3)


def _table(axes: Any, labels: list[str], table: list[list[int]]) -> None:
    other = any(row[-1] for row in table)
    shown = table if other else [row[:-1] for row in table]
    axes.imshow(shown, cmap="Blues", aspect="auto")
    axes.set_xticks(range(len(shown[0])), [*labels, *(["(none)"] if other else [])], rotation=45, ha="right")
    axes.set_yticks(range(len(labels)), labels)
    axes.set_xlabel("answer")
    axes.set_ylabel("right label")
    highest = max(max(row) for row in shown) or 1
    for y, row in enumerate(shown):
        for x, count in enumerate(row):
            if count:
                axes.text(
                    x, y, count, ha="center", va="center", color="white" if count > highest / 2 else "black", fontsize=8
                )


def _histogram(axes: Any, values: list[float]) -> None:
    axes.hist(values, bins=min(30, max(5, len(values) // 2)), color=COLOUR)
    axes.set_xlabel("seconds")
    axes.set_ylabel("answers")
    axes.grid(axis="y", alpha=0.3)


def _draw(folder: Path, name: str, draw: Any, title: str, *, height: float) -> None:
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "tunesmith", "svg.fonttype": "path"}):
        figure, axes = plt.subplots(figsize=(8, max(1.6, height)), layout="constrained")
        draw(axes)
        axes.set_title(title)
        figure.savefig(folder / f"{name}.png", dpi=110, metadata={"Software": None})
        figure.savefig(folder / f"{name}.svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
