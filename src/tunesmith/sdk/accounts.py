"""`client.account`, `client.users` and `client.audit`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from tunesmith.schemas.accounts import (
    AuditCheck,
    AuditEntry,
    InvitationMade,
    InvitationRead,
    KeyMade,
    KeyRead,
    Me,
    PasswordLink,
    Quota,
    Tokens,
    UserMade,
    UserRead,
)
from tunesmith.sdk.connection import Connection, Progress, pages


class Account:
    """`client.account`: one's own."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def me(self) -> Me:
        return Me.model_validate(self._connection.get("/auth/me"))

    def register(self, username: str, email: str, password: str, *, invitation: str | None = None) -> UserRead:
        body = {"username": username, "email": email, "password": password, "invitation": invitation}
        return UserRead.model_validate(self._connection.post("/auth/register", body))

    def login(self, username: str, password: str) -> Tokens:
        """Log in with a password; what this client sends from now on carries the access token, for as long as that lasts."""
        tokens = Tokens.model_validate(
            self._connection.post("/auth/login", {"username": username, "password": password})
        )
        self._connection.use_token(tokens.access_token)
        return tokens

    def logout(self) -> None:
        """End this login, or revoke the key that this client uses."""
        self._connection.post("/auth/logout")

    def quotas(self) -> list[Quota]:
        return [Quota.model_validate(item) for item in self._connection.get("/auth/quotas")]

    def keys(self) -> list[KeyRead]:
        """One's own keys; this needs a login with a password."""
        return [KeyRead.model_validate(item) for item in self._connection.get("/auth/keys")]

    def create_key(self, name: str, scopes: Sequence[str], *, expires_in_days: int | None = 90) -> KeyMade:
        """A new key, whose text the answer alone has; this needs a login with a password."""
        body = {"name": name, "scopes": list(scopes), "expires_in_days": expires_in_days}
        return KeyMade.model_validate(self._connection.post("/auth/keys", body))

    def revoke_key(self, key_id: int) -> None:
        self._connection.request("DELETE", f"/auth/keys/{key_id}")


class Users:
    """`client.users`: for administrators."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, **filters: Any) -> Iterator[UserRead]:
        """All accounts, newest first; `role` and `q` filter."""
        return (UserRead.model_validate(item) for item in pages(self._connection, "/users/", filters))

    def create(self, username: str, **fields: Any) -> UserMade:
        """`email`, `full_name`, `role`, `password`; without a password the answer has a link to choose one."""
        return UserMade.model_validate(self._connection.post("/users/", {"username": username, **fields}))

    def update(self, user_id: int, **changes: Any) -> UserRead:
        """`role`, `disabled`, `quota_storage_bytes`, `quota_jobs`, `quota_gpu_hours`."""
        answer = self._connection.request("PATCH", f"/users/{user_id}", json=changes)
        return UserRead.model_validate(answer.json())

    def delete(self, user_id: int) -> None:
        self._connection.request("DELETE", f"/users/{user_id}")

    def password_link(self, user_id: int) -> PasswordLink:
        return PasswordLink.model_validate(self._connection.post(f"/users/{user_id}/password-link"))

    def invite(self, *, role: str = "member", email: str | None = None, expires_in_days: int = 7) -> InvitationMade:
        body = {"role": role, "email": email, "expires_in_days": expires_in_days}
        return InvitationMade.model_validate(self._connection.post("/invitations/", body))

    def invitations(self) -> Iterator[InvitationRead]:
        return (InvitationRead.model_validate(item) for item in pages(self._connection, "/invitations/", {}))


class Audit:
    """`client.audit`: for administrators."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def list(self, **filters: Any) -> Iterator[AuditEntry]:
        """Newest first; `username`, `action`, `about`, `result`, `since`, `until` filter."""
        return (AuditEntry.model_validate(item) for item in pages(self._connection, "/audit/", filters))

    def verify(self) -> AuditCheck:
        return AuditCheck.model_validate(self._connection.get("/audit/verify"))

    def export(
        self, target: str | Path, *, kind: str = "jsonl", progress: Progress | None = None, **filters: Any
    ) -> Path:
        """Write the log to a file, oldest first; `kind` is `jsonl` or `csv`."""
        return self._connection.download("/audit/export", Path(target), progress, format=kind, **filters)
