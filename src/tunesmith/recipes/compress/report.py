"""What a compression leaves besides the files: `report.json`, a picture, and a card in each folder."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import yaml

from tunesmith.core.job_dir import write_atomic

COLOURS = ("#2563eb", "#d97706")


def write_report(
    folder: Path, source: dict[str, Any], formats: list[dict[str, Any]], failed: list[dict[str, str]]
) -> None:
    """`report.json` and `compression.png`/`.svg` in `artifacts/compressed`."""
    drawn = [entry for entry in formats if entry["perplexity_ratio"] is not None]
    told = {"source": source, "formats": formats, "failed": failed, "plots": ["compression"] if drawn else []}
    if drawn:
        _draw(folder, source, drawn)
    write_atomic(folder / "report.json", json.dumps(told, indent=1, ensure_ascii=False))


def write_card(folder: Path, base: str, entry: dict[str, Any]) -> None:
    """`README.md` with the hub's front matter."""
    front = {
        "base_model": base,
        "base_model_relation": "merge" if entry["format"] == "merged" else "quantized",
        "library_name": "gguf" if entry["file"].endswith(".gguf") else "transformers",
        "tags": ["tunesmith", entry["format"]],
    }
    ratio = entry["perplexity_ratio"]
    quality = (
        f"Perplexity is {100 * (ratio - 1):+.1f} % against the source." if ratio else "Its quality was not measured."
    )
    text = f"---\n{yaml.safe_dump(front, sort_keys=False)}---\n\n# {base} as {entry['format']}\n\n{entry['size_bytes'] / 1e6:.0f} MB. {quality}\n"
    (folder / "README.md").write_text(text)


def _draw(folder: Path, source: dict[str, Any], formats: list[dict[str, Any]]) -> None:
    """Size against perplexity, one point a format, the source among them."""
    import matplotlib as mpl

    mpl.use("Agg")
    from matplotlib import pyplot as plt

    with mpl.rc_context({"svg.hashsalt": "tunesmith", "svg.fonttype": "path"}):
        figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
        points = [("source", source["size_bytes"], source["perplexity"], COLOURS[1])]
        points += [(entry["format"], entry["size_bytes"], entry["perplexity"], COLOURS[0]) for entry in formats]
        for name, size_bytes, perplexity, colour in points:
            left.plot(size_bytes / 1e6, perplexity, "o", color=colour)
            left.annotate(name, (size_bytes / 1e6, perplexity), textcoords="offset points", xytext=(5, 4), fontsize=8)
        left.set(xlabel="size, MB", ylabel="perplexity (lower is better)", title="Size and quality")
        left.margins(0.2)
        left.grid(alpha=0.3)
        names = ["source", *(entry["format"] for entry in formats)]
        speeds = [source["tokens_per_s"] or 0.0, *(entry["tokens_per_s"] or 0.0 for entry in formats)]
        right.barh(names[::-1], speeds[::-1], color=[COLOURS[0]] * len(formats) + [COLOURS[1]])
        right.set(xlabel="tokens a second, one stream", title="Speed")
        figure.savefig(folder / "compression.png", dpi=110, metadata={"Software": None})
        figure.savefig(folder / "compression.svg", metadata={"Date": None, "Creator": None})
        plt.close(figure)
