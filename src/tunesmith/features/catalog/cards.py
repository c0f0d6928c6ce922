"""Model cards: the README of a model folder, told apart into facts and text, and drawn as HTML that can do nothing."""

from __future__ import annotations

import os
import re
from functools import cache
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from markdown_it import MarkdownIt

MAX_CARD_BYTES = 512 * 1024
"""Most that is read of a card."""
FRONT = re.compile(r"\A\ufeff?---\r?\n(.*?)\r?\n---[ \t]*(?:\r?\n|\Z)", re.S)
DESCRIPTION_CHARS = 280
NO_PROSE = re.compile(r"^\s*(#|[-*+>|<!\[]|\d+\.|```|---|===|\$|:{3})")
"""Lines of a card that are no sentences: headings, lists, tables, pictures, code."""
MARKS = re.compile(r"!?\[([^\]]*)\]\([^)]*\)|<[^>]*>|[*_`]{1,3}")
"""Links, pictures, HTML and emphasis within a line."""
HEADINGS_DOWN = 2
"""The page has its own h1 and h2."""


def read_card(path: Path) -> str:
    """The beginning of a card; empty for what is no plain file of its folder, or of the hub's cache around it."""
    try:
        if path.is_symlink() and path.resolve().parent == path.parent.parent.parent.resolve() / "blobs":
            path = path.resolve()
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), "rb") as file:
            return file.read(MAX_CARD_BYTES).decode(errors="replace")
    except OSError:
        return ""


def front_matter(card: str) -> dict[str, Any]:
    """The YAML block on top, as plain text and lists of it; empty when there is none or it cannot be read."""
    import yaml  # the server imports this module and seldom comes here

    found = FRONT.match(card)
    if not found:
        return {}
    try:
        values = yaml.safe_load(found[1])
    except (yaml.YAMLError, ValueError, RecursionError):  # also dates and numbers that cannot be
        return {}
    return {str(key): _plain(value) for key, value in values.items()} if isinstance(values, dict) else {}


def _plain(value: Any) -> str | list[str]:
    """Deeper nesting is left out: aliases could make it endless."""
    if isinstance(value, list):
        return [str(item) for item in value[:50] if isinstance(item, str | int | float)]
    return str(value)[:500] if isinstance(value, str | int | float) else ""


def description(card: str) -> str:
    """The first paragraph of prose of a card as plain text, cut at `DESCRIPTION_CHARS`; empty when there is none."""
    in_code = False
    paragraph: list[str] = []
    for line in FRONT.sub("", card, count=1).splitlines():
        if line.lstrip().startswith("```"):
            in_code = not in_code
        is_prose = bool(line.strip()) and not in_code and not NO_PROSE.match(line)
        if is_prose:
            paragraph.append(line.strip())
        elif len(" ".join(paragraph)) >= 40:
            break
        else:
            paragraph = []
    text = re.sub(r"\s+", " ", MARKS.sub(lambda found: found[1] or "", " ".join(paragraph))).strip()
    if len(text) <= DESCRIPTION_CHARS:
        return text
    return f"{text[:DESCRIPTION_CHARS].rpartition(' ')[0].rstrip('.,;:')}…"


def card_html(card: str) -> str:
    """CommonMark and tables without the front matter. HTML in the card is shown as text, pictures by their description,
    links only when they lead to another site over https."""
    return str(_renderer().render(FRONT.sub("", card, count=1)))


@cache
def _renderer() -> MarkdownIt:
    from markdown_it import MarkdownIt

    made = MarkdownIt("commonmark", {"html": False}).enable("table")
    made.add_render_rule("heading_open", _lower_heading)
    made.add_render_rule("heading_close", _lower_heading)
    made.add_render_rule("link_open", _link)
    made.add_render_rule("image", lambda _self, tokens, index, *_: escape(tokens[index].content))
    made.add_render_rule("table_open", lambda *_: '<div class="card-table"><table>')
    made.add_render_rule("table_close", lambda *_: "</table></div>")
    # No style attributes: the page's policy refuses them.
    for part in ("th_open", "td_open"):
        made.add_render_rule(part, lambda _self, tokens, index, *_: f"<{tokens[index].tag}>")
    return made


def _lower_heading(_self: Any, tokens: Any, index: int, *_: Any) -> str:
    token = tokens[index]
    level = min(6, int(token.tag[1]) + HEADINGS_DOWN)
    return f"<h{level}>" if token.nesting == 1 else f"</h{level}>\n"


def _link(renderer: Any, tokens: Any, index: int, options: Any, env: Any) -> str:
    token = tokens[index]
    if not str(token.attrs.get("href", "")).startswith(("https://", "http://")):
        token.attrs = {}
    else:
        token.attrs = {"href": token.attrs["href"], "rel": "noopener noreferrer nofollow", "target": "_blank"}
    return str(renderer.renderToken(tokens, index, options, env))
