"""Every query on accounts."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime

from sqlalchemy import Select, delete, func, or_, select, text, update
from sqlalchemy.exc import IntegrityError

from tunesmith.core.errors import Conflict
from tunesmith.features.accounts.tables import KeyRow, LinkRow, LoginRow, PastUseRow, UserRow
from tunesmith.storage.database import EVERYONES
from tunesmith.storage.repository import Repository, contains
from tunesmith.storage.tables import Base, Owned

ACCOUNTS_LOCK = 7461003
"""PostgreSQL advisory lock under which the first account is made."""


class UserRepository(Repository[UserRow]):
    row = UserRow
    noun = "user"

    def named(self, name: str) -> UserRow | None:
        """By name or e-mail address, whatever the case."""
        low = name.lower()
        query = self.query().where(or_(func.lower(UserRow.username) == low, func.lower(UserRow.email) == low))
        return self.session.scalars(query.order_by(func.lower(UserRow.username) == low).limit(2)).first()

    def add_named(self, row: UserRow) -> UserRow:
        """Raises `Conflict` when the name or the address is taken, whoever else is making an account now."""
        try:
            with self.session.begin_nested():
                return self.add(row)
        except IntegrityError:
            loc = "username" if self.named(row.username) else "email"
        raise Conflict(
            f"There is an account with this {loc} already.",
            hint="Log in, or choose another.",
            details=[{"loc": loc, "message": "taken"}],
        )

    def of_subject(self, subject: str) -> UserRow | None:
        return self.session.scalars(self.query().where(UserRow.oidc_subject == subject)).one_or_none()

    def connect(self, row: UserRow, subject: str) -> None:
        """Let somebody whom another service knows log in to this account. Raises `Conflict` when they have another."""
        try:
            with self.session.begin_nested():
                row.oidc_subject = subject
                self.session.flush()
        except IntegrityError:
            raise Conflict("Another account is connected to that login.", hint="Log in with it instead.") from None

    def filtered(self, *, role: str | None, text_like: str | None) -> Select[tuple[UserRow]]:
        query = self.query()
        if role:
            query = query.where(UserRow.role == role)
        if text_like:
            query = query.where(contains(text_like, UserRow.username, UserRow.full_name, UserRow.email))
        return query

    def count(self) -> int:
        return self.session.scalar(select(func.count()).select_from(UserRow)) or 0

    def is_empty(self) -> bool:
        return self.session.scalar(select(UserRow.id).limit(1)) is None

    def active_admins(self) -> list[int]:
        query = select(UserRow.id).where(UserRow.role == "admin", UserRow.disabled.is_(False))
        return list(self.session.scalars(query))

    def lock(self) -> None:
        """One at a time from here on (PostgreSQL; with SQLite writers are)."""
        if self.session.get_bind().dialect.name == "postgresql":
            self.session.execute(text(f"SELECT pg_advisory_xact_lock({ACCOUNTS_LOCK})"))

    def give(self, from_id: int | None, to: UserRow) -> None:
        """All that is one owner's, or nobody's, becomes another's."""
        for mapper in Base.registry.mappers:
            if issubclass(table := mapper.class_, Owned):
                whose = table.owner_id.is_(None) if from_id is None else table.owner_id == from_id
                change = update(table).where(whose).values(owner_id=to.id, owner=to.username)
                self.session.execute(change.execution_options(synchronize_session=False))

    def stored_bytes(self, user_id: int) -> int:
        """Disk space of all that is an account's: each kind of thing that has a size counts."""
        kinds = [
            m.class_ for m in Base.registry.mappers if issubclass(m.class_, Owned) and hasattr(m.class_, "size_bytes")
        ]
        sums = [select(func.sum(kind.size_bytes)).where(kind.owner_id == user_id) for kind in kinds]
        return sum(self.session.scalar(query, execution_options=EVERYONES) or 0 for query in sums)

    def change_email(self, row: UserRow, email: str | None) -> None:
        """Raises `Conflict` when it is another account's."""
        try:
            with self.session.begin_nested():
                row.email = email
                self.session.flush()
        except IntegrityError:
            raise Conflict(
                "There is an account with this email already.", details=[{"loc": "email", "message": "taken"}]
            ) from None

    # -- logins -----------------------------------------------------------------------------------------------------

    def login(self, login_id: str, *, for_update: bool = False) -> LoginRow | None:
        return self.session.get(LoginRow, login_id, with_for_update=for_update)

    def logins(self, user_id: int) -> list[LoginRow]:
        query = select(LoginRow).where(LoginRow.user_id == user_id)
        return list(self.session.scalars(query.order_by(LoginRow.last_used_at.desc()).limit(200)))

    def end_logins(self, user_id: int, *, but: str | None = None) -> None:
        query = delete(LoginRow).where(LoginRow.user_id == user_id)
        self.session.execute(query.where(LoginRow.id != but) if but else query)

    def end_login(self, login_id: str) -> None:
        self.session.execute(delete(LoginRow).where(LoginRow.id == login_id))

    def forget_expired(self, now: datetime) -> None:
        self.session.execute(delete(LoginRow).where(LoginRow.expires_at < now))
        self.session.execute(delete(LinkRow).where(LinkRow.expires_at < now))

    # -- GPU time of jobs that are gone -------------------------------------------------------------------------------

    def past_gpu_seconds(self, user_id: int, month: str) -> float:
        query = select(PastUseRow.gpu_seconds).where(PastUseRow.user_id == user_id, PastUseRow.month == month)
        return self.session.scalar(query) or 0.0

    def add_past_use(self, user_id: int, month: str, gpu_seconds: float) -> None:
        row = self.session.get(PastUseRow, (user_id, month), with_for_update=True)
        if row is None:
            self.session.add(PastUseRow(user_id=user_id, month=month, gpu_seconds=gpu_seconds))
        else:
            row.gpu_seconds += gpu_seconds


class KeyRepository(Repository[KeyRow]):
    row = KeyRow
    noun = "API key"

    def with_prefix(self, prefix: str) -> KeyRow | None:
        return self.session.scalars(self.query().where(KeyRow.prefix == prefix)).one_or_none()

    def of(self, user_id: int) -> Sequence[KeyRow]:
        return self.session.scalars(self.query().where(KeyRow.user_id == user_id).order_by(KeyRow.id.desc())).all()

    def revoke_all(self, user_id: int) -> None:
        self.session.execute(delete(KeyRow).where(KeyRow.user_id == user_id))


class LinkRepository(Repository[LinkRow]):
    row = LinkRow
    noun = "invitation"

    def good(self, kind: str, sha256: str, now: datetime) -> LinkRow | None:
        query = self.query().where(LinkRow.kind == kind, LinkRow.sha256 == sha256, LinkRow.expires_at > now)
        return self.session.scalars(query.with_for_update()).one_or_none()

    def invitations(self) -> Select[tuple[LinkRow]]:
        return self.query().where(LinkRow.kind == "invitation")

    def drop_invitation(self, link_id: int) -> None:
        """Raises `NotFound`."""
        self.session.delete(self.get(link_id))

    def drop_invitations(self) -> None:
        self.session.execute(delete(LinkRow).where(LinkRow.kind == "invitation"))

    def drop(self, user_id: int) -> None:
        """Links to a new password for that account."""
        self.session.execute(delete(LinkRow).where(LinkRow.user_id == user_id))
