"""Names and versions: `support-bot@1.2.0`, `support-bot@champion`, `support-bot@latest`."""

from __future__ import annotations

import re
from typing import Literal, NamedTuple

from tunesmith.core.errors import InvalidInput

NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]{0,118}[A-Za-z0-9])?")
"""Of a registered model."""
ALIAS = re.compile(r"[a-z][a-z0-9-]{0,59}")
SEMANTIC = re.compile(r"(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})\.(0|[1-9][0-9]{0,5})")
RESERVED = frozenset({"search", "compare", "health", "verify", "clean", "import", "new"})
"""What addresses of the registry use for themselves."""
LATEST = "latest"
"""Always the highest version; nobody moves it."""
FIRST = "1.0.0"
Bump = Literal["major", "minor", "patch"]
PART = 10**6


class Ref(NamedTuple):
    """What a user has asked for."""

    name: str
    which: str
    """A version, an alias, `latest`, or empty: the champion, else the latest."""


def parse_ref(text: str) -> Ref:
    """Raises `InvalidInput` for what cannot be the name of a version."""
    name, at, which = text.partition("@")
    if is_name(name) and (SEMANTIC.fullmatch(which) or ALIAS.fullmatch(which) or not at):
        return Ref(name, which)
    raise InvalidInput(
        f"{text[:120]!r} is not the name of a registered model.",
        hint="Use a name such as support-bot, with a version or an alias: support-bot@1.2.0, support-bot@champion.",
        details=[{"loc": "model", "message": "not name, name@version or name@alias"}],
    )


def is_name(name: str) -> bool:
    return bool(NAME.fullmatch(name)) and ".." not in name


def check_name(name: str) -> str:
    """Raises `InvalidInput`."""
    if is_name(name) and name not in RESERVED:
        return name
    raise InvalidInput(
        f"{name[:120]!r} cannot be the name of a registered model.",
        hint="Letters, digits, dots, dashes and underscores, up to 120 of them; it begins and ends with a letter or digit. "
        f"Not {', '.join(sorted(RESERVED))}.",
        details=[{"loc": "name", "message": "not a name"}],
    )


def check_alias(alias: str) -> str:
    """Raises `InvalidInput`, also for `latest`."""
    if ALIAS.fullmatch(alias) and alias != LATEST:
        return alias
    why = "latest is always the highest version" if alias == LATEST else "not an alias"
    raise InvalidInput(
        f"{alias[:80]!r} cannot be an alias.",
        hint="Small letters, digits and dashes, such as champion or staging. latest is always the highest version.",
        details=[{"loc": "alias", "message": why}],
    )


def number_of(version: str) -> int:
    """A semantic version as one number, which orders as versions do. Raises `InvalidInput`."""
    found = SEMANTIC.fullmatch(version)
    if found is None:
        raise InvalidInput(
            f"{version[:40]!r} is not a semantic version.",
            hint="Three numbers, such as 1.2.0.",
            details=[{"loc": "version", "message": "not a semantic version"}],
        )
    major, minor, patch = (int(part) for part in found.groups())
    return (major * PART + minor) * PART + patch


def next_version(last: str | None, bump: Bump) -> str:
    """The version after `last`: the first when there is none. Raises `InvalidInput` where the numbers end."""
    if last is None:
        return FIRST
    major, minor, patch = (int(part) for part in last.split("."))
    made = {"major": (major + 1, 0, 0), "minor": (major, minor + 1, 0), "patch": (major, minor, patch + 1)}[bump]
    version = "{}.{}.{}".format(*made)
    number_of(version)
    return version
