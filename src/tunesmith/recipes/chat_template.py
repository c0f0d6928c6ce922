"""The chat template that a model's or an adapter's folder brings, as text. Nothing is rendered here."""

from __future__ import annotations

import json
from pathlib import Path

PLAIN_TEMPLATE = (
    "{% for message in messages %}{% if message['role'] == 'assistant' %}"
    "{{ 'Assistant: ' + message['content'] + eos_token + '\n' }}"
    "{% else %}{{ message['role'].capitalize() + ': ' + message['content'] + '\n' }}{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}{{ 'Assistant:' }}{% endif %}"
)
"""For base models whose tokenizer brings no chat template."""


def template_text(folder: Path) -> str:
    """The Jinja text, from its own file or from the tokenizer's configuration; empty when there is none."""
    try:
        return (folder / "chat_template.jinja").read_text(errors="replace")
    except OSError:
        pass
    try:
        told = json.loads((folder / "tokenizer_config.json").read_bytes()).get("chat_template")
    except (OSError, ValueError, AttributeError):
        return ""
    if isinstance(told, list):
        told = next((one.get("template") for one in told if isinstance(one, dict) and one.get("name") == "default"), "")
    return told if isinstance(told, str) else ""


def own_template(adapter: str | Path | None, base: str | Path) -> str:
    """The template that an adapter was trained with, where it is another than its base's; else empty. Adapters that were
    trained with `tool_calls: ready` have one."""
    theirs, ours = template_text(Path(adapter)) if adapter else "", template_text(Path(base))
    is_plain = not ours and theirs.endswith(PLAIN_TEMPLATE)
    return "" if theirs == ours or is_plain else theirs
