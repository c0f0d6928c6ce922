"""The entries of the side bar, of the command palette and of the shortcuts: one list."""

from __future__ import annotations

from typing import NamedTuple

from tunesmith.core.acting import Identity, Scope


class Entry(NamedTuple):
    section: str
    title: str
    href: str
    icon: str
    """A lucide icon."""
    key: str
    """`g` and then this key leads there."""
    needs: Scope = Scope.READ
    """Those who lack it do not see the entry."""


NAVIGATION: tuple[tuple[str, tuple[Entry, ...]], ...] = (
    (
        "Build",
        (
            Entry("dashboard", "Dashboard", "/", "layout-dashboard", "h"),
            Entry("datasets", "Datasets", "/datasets", "database", "d"),
            Entry("jobs", "Training jobs", "/jobs", "activity", "j"),
            Entry("models", "Models", "/models", "box", "m"),
            Entry("registry", "Registry", "/registry", "library", "r"),
            Entry("evaluations", "Evaluations", "/evaluations", "gauge", "v"),
            Entry("deployments", "Deployments", "/deployments", "rocket", "y"),
            Entry("playground", "Playground", "/playground", "message-square", "p"),
        ),
    ),
    (
        "Manage",
        (
            Entry("system", "System", "/system", "cpu", "s"),
            Entry("settings", "Settings", "/settings", "settings", "e", Scope.ADMIN),
            Entry("docs", "API", "/docs", "braces", "a"),
        ),
    ),
    (
        "Team",
        (
            Entry("users", "Users", "/users", "users", "u", Scope.ADMIN),
            Entry("audit", "Audit log", "/audit", "scroll-text", "l", Scope.ADMIN),
        ),
    ),
)


def navigation(who: Identity) -> list[tuple[str, list[Entry]]]:
    """What `who` may go to, by group."""
    seen = [(group, [entry for entry in entries if who.may(entry.needs)]) for group, entries in NAVIGATION]
    return [(group, entries) for group, entries in seen if entries]
