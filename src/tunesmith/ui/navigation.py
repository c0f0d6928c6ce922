"""The entries of the side bar, of the command palette and of the shortcuts: one list."""

from __future__ import annotations

from typing import NamedTuple


class Entry(NamedTuple):
    section: str
    title: str
    href: str
    icon: str
    """A lucide icon."""
    key: str
    """`g` and then this key leads there."""


NAVIGATION: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "Build",
        (
            Entry("dashboard", "Dashboard", "/", "layout-dashboard", "h"),
            Entry("datasets", "Datasets", "/datasets", "database", "d"),
            Entry("jobs", "Training jobs", "/jobs", "activity", "j"),
            Entry("models", "Models", "/models", "box", "m"),
            Entry("playground", "Playground", "/playground", "message-square", "p"),
        ),
    ),
    (
        "Manage",
        (
            Entry("system", "System", "/system", "cpu", "s"),
            Entry("settings", "Settings", "/settings", "settings", "e"),
            Entry("docs", "API", "/docs", "braces", "a"),
        ),
    ),
)
