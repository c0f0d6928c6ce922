"""`python -m tests.permissions` writes docs/permissions.md: what every route needs."""

from __future__ import annotations

from pathlib import Path

from tunesmith.http.policy import Policy

FILE = Path(__file__).parent.parent / "docs" / "permissions.md"
BEGINS = "| method | route | needs | in the audit log as |\n|---|---|---|---|\n"


def table(policies: list[Policy]) -> str:
    rows = [
        f"| {'/'.join(sorted(p.methods)) or 'WebSocket'} | `{p.path}` | {p.needs.value} | {f'`{p.action}`' if p.changes else ''} |"
        for p in policies
    ]
    return BEGINS + "\n".join(rows) + "\n"


if __name__ == "__main__":
    from tests.accounts.test_matrix import POLICIES

    text = FILE.read_text()
    FILE.write_text(text.partition(BEGINS)[0] + table(POLICIES))
