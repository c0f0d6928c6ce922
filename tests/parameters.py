"""docs/hyperparameters.md, made from the methods' own parameter classes: `python -m tests.parameters` writes it."""

from __future__ import annotations

import json
from pathlib import Path

from tunesmith.recipes.catalog import RECIPES
from tunesmith.recipes.describing import GROUPS, Setting, describe

PAGE = Path(__file__).parent.parent / "docs" / "hyperparameters.md"
TOP = """# Methods and their hyperparameters

Made from the parameter classes in `src/tunesmith/recipes` by `python -m tests.parameters`; the page for new jobs and
`tunesmith jobs methods lora` show the same.

| method | what it is | leaves |
|---|---|---|
"""
AUTO = """
What is left out of a job is chosen by `auto` from the model's size, the number and length of rows and the free memory; the job says why in
`reasons`. Evaluations and checkpoints get about a tenth of the time; what they took is in the metrics `evaluation_s` and `checkpoint_s`. With
`auto: false` the defaults below hold. Names with a dot are parts of one setting, `early_stopping`: `early_stopping: {enabled: true, patience: 5}`; so are those of `judge` and of `held_out`.
"""


def page() -> str:
    """The whole page."""
    methods = [f"| `{r.name}` | {r.title}: {r.sentence} | `{r.produces or r.kind}/` |" for r in RECIPES]
    found: dict[Setting, list[str]] = {}
    for recipe in RECIPES:
        for setting in describe(recipe.params):
            plain = setting._replace(default=json.dumps(setting.default))
            found.setdefault(plain, []).append(recipe.name)
    parts = [TOP + "\n".join(methods), AUTO.strip()]
    for group, title in GROUPS.items():
        mine = [(setting, names) for setting, names in found.items() if setting.group == group]
        order = [setting.name for setting, _ in mine]
        rows = [_row(*each) for each in sorted(mine, key=lambda each: order.index(each[0].name))]
        head = "| setting | default | range | unit | methods | meaning |\n|---|---|---|---|---|---|"
        parts.append(f"## {title}\n\n{head}\n" + "\n".join(rows))
    return "\n\n".join(parts) + "\n"


def _row(setting: Setting, methods: list[str]) -> str:
    default = "required" if setting.required else f"`{setting.default}`"
    meaning = " ".join(setting.doc.split())
    usual = " Usually {:g} to {:g}.".format(*setting.usual) if setting.usual else ""
    return f"| `{setting.name}` | {default} | {_range(setting)} | {setting.unit} | {', '.join(methods)} | {meaning}{usual} |"


def _range(setting: Setting) -> str:
    if setting.choices:
        return ", ".join(f"`{choice}`" for choice in setting.choices) + (" or names" if setting.kind == "names" else "")
    low = f"above {setting.above:g}" if setting.above is not None else ""
    low = f"{setting.minimum:,.12g}" if setting.minimum is not None else low
    high = f"below {setting.below:g}" if setting.below is not None else ""
    high = f"to {setting.maximum:,.12g}" if setting.maximum is not None else high
    return f"{low} {high}".strip() if high else f"{low} or more" if low else ""


if __name__ == "__main__":
    PAGE.write_text(page())
