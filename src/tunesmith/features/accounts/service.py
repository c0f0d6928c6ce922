"""What can be done with accounts. Each function works in its caller's unit of work."""

from __future__ import annotations

import uuid
from datetime import datetime, timedelta
from typing import Any, NamedTuple

from pydantic import SecretStr

from tunesmith.core.acting import ROLE_SCOPES, Identity, Role, Scope, current, current_act
from tunesmith.core.clock import utc_now
from tunesmith.core.errors import Conflict, InvalidInput, NotFound, NotLoggedIn, PermissionDenied
from tunesmith.core.plain_text import one_line
from tunesmith.features.accounts import tokens
from tunesmith.features.accounts.repository import KeyRepository, LinkRepository, UserRepository
from tunesmith.features.accounts.tables import KeyRow, LinkRow, LoginRow, UserRow
from tunesmith.schemas.accounts import InvitationCreate, KeyCreate, Register, Tokens, UserCreate, UserUpdate
from tunesmith.settings import Settings
from tunesmith.storage.database import Session

PASSWORD_LINK_FOR = timedelta(hours=24)
TOUCHED_EVERY = timedelta(minutes=1)
"""How exactly it is known when a login or key was last used."""
IMPLIED = {Scope.TRAIN: {Scope.READ}, Scope.DEPLOY: {Scope.READ}, Scope.ADMIN: set(Scope)}


class Made(NamedTuple):
    """A link that works once."""

    row: LinkRow
    token: str


class Accounts:
    """Accounts within one unit of work."""

    def __init__(self, settings: Settings, session: Session, secret: bytes) -> None:
        self.settings, self.session, self.secret = settings, session, secret
        self.users, self.keys, self.links = UserRepository(session), KeyRepository(session), LinkRepository(session)

    # -- making accounts --------------------------------------------------------------------------------------------

    def register(self, body: Register, password_hash: str, *, is_local: bool) -> UserRow:
        """An account for who asks. The first one is the administrator's: without an invitation only from this machine.

        Raises `PermissionDenied` where registration does not allow it, `Conflict` for a name that is taken.
        """
        self.users.lock()
        invitation = self._invitation(body.invitation.get_secret_value()) if body.invitation else None
        is_first = self.users.is_empty()
        if invitation is None and not (is_local if is_first else self.settings.registration == "open"):
            raise PermissionDenied(
                "An invitation is needed to register here.",
                hint="The first one is in the link that the server printed when it started."
                if is_first
                else "Ask an administrator for one.",
            )
        if self.settings.registration == "closed" and not is_first:
            raise PermissionDenied("Nobody can register here.", hint="Ask an administrator for an account.")
        role = Role.ADMIN if is_first else Role(invitation.role) if invitation and invitation.role else Role.MEMBER
        user = self._add(body.username, body.email, body.full_name, role, password_hash)
        if invitation:
            self.session.delete(invitation)
            self.session.flush()
        return self._given_all(user) if is_first else user

    def create(self, body: UserCreate, password_hash: str | None) -> UserRow:
        """An account that an administrator makes; without a password nobody can log in to it yet."""
        self.users.lock()
        is_first = self.users.is_empty()
        role = Role.ADMIN if is_first else body.role
        user = self._add(body.username, body.email, body.full_name, role, password_hash)
        return self._given_all(user) if is_first else user

    def of_subject(self, subject: str, username: str, email: str | None, full_name: str) -> UserRow:
        """The account of somebody whom another service knows; made at their first visit where registration is open."""
        if found := self.users.of_subject(subject):
            return found
        if self.users.is_empty() or self.settings.registration != "open":
            raise PermissionDenied(
                "Nobody has given you an account here yet.",
                hint="Ask an administrator for an invitation; once you have logged in with a password, this login can be connected.",
            )
        user = self._add(username, email, full_name, Role.MEMBER, None)
        user.oidc_subject = subject
        return user

    def _given_all(self, user: UserRow) -> UserRow:
        """The first account gets what was there before; the link that the server printed for it stops working."""
        self.links.drop_invitations()
        self.users.give(None, user)
        return user

    def _add(self, username: str, email: str | None, full_name: str, role: Role, password_hash: str | None) -> UserRow:
        """Raises `Conflict` for a name or an address that is taken."""
        return self.users.add_named(
            UserRow(
                username=username, email=email, full_name=full_name, role=role, password_hash=password_hash,
                disabled=False, created_at=utc_now(),
            )
        )  # fmt: skip

    def update(self, user_id: int, body: UserUpdate) -> UserRow:
        """What an administrator changes. One administrator always stays."""
        self.users.lock()
        row = self.users.get(user_id, for_update=True)
        given = body.model_dump(exclude_unset=True)
        for name in ("role", "disabled"):
            if name in given and given[name] is None:
                raise InvalidInput(details=[{"loc": name, "message": "must not be null; leave it out"}])
        if given.get("disabled") or given.get("role", Role.ADMIN) != Role.ADMIN:
            self._keep_an_admin(row)
        for name, value in given.items():
            setattr(row, name, value)
        if given.get("disabled"):
            self.users.end_logins(row.id)
        self.session.flush()
        return row

    def delete(self, user_id: int) -> None:
        """Remove an account; what it owned becomes that of the administrator who removes it."""
        row = self.users.get(user_id, for_update=True)
        self._keep_an_admin(row)
        heir = current().user_id
        if heir == row.id:
            raise Conflict("You cannot remove your own account.", hint="Another administrator can.")
        if heir is not None:
            self.users.give(row.id, self.users.get(heir))
        self.session.delete(row)

    def _keep_an_admin(self, row: UserRow) -> None:
        if self.users.active_admins() == [row.id]:
            raise Conflict("This is the only administrator.", hint="Make somebody else one first.")

    # -- links that work once ---------------------------------------------------------------------------------------

    def invite(self, body: InvitationCreate) -> Made:
        expires = utc_now() + timedelta(days=body.expires_in_days)
        return self._link("invitation", expires, role=body.role, email=body.email)

    def first_invitation(self) -> Made:
        """For the first account; those before it stop working."""
        self.links.drop_invitations()
        return self.invite(InvitationCreate(role=Role.ADMIN))

    def password_link(self, user: UserRow, *, ends_others: bool = True) -> Made:
        """A link to a new password; those before it stop working, unless anybody may have asked for this one."""
        if ends_others:
            self.links.drop(user.id)
        return self._link("password", utc_now() + PASSWORD_LINK_FOR, user_id=user.id, email=user.email)

    def _link(self, kind: str, expires_at: datetime, **fields: Any) -> Made:
        token = tokens.random_token()
        row = LinkRow(
            kind=kind, sha256=tokens.fingerprint(token), created_by=current().name, created_at=utc_now(),
            expires_at=expires_at, **fields,
        )  # fmt: skip
        return Made(self.links.add(row), token)

    def good_invitation(self, token: SecretStr | None) -> str | None:
        """What is kept of an invitation that can be used; None for none, and for one that cannot."""
        sha256 = tokens.fingerprint(token.get_secret_value()) if token else ""
        return sha256 if sha256 and self.links.good("invitation", sha256, utc_now()) else None

    def _invitation(self, token: str) -> LinkRow:
        found = self.links.good("invitation", tokens.fingerprint(token), utc_now())
        if found is None:
            raise PermissionDenied("This invitation was used, or has expired.", hint="Ask for another one.")
        return found

    # -- passwords --------------------------------------------------------------------------------------------------

    def set_password(self, user: UserRow, password_hash: str) -> None:
        """Whoever has logged in with the old one has to do so again."""
        user.password_hash = password_hash
        self.users.end_logins(user.id)
        self.links.drop(user.id)

    def of_link(self, token: str) -> UserRow:
        """Whose password a link lets be changed. Raises `PermissionDenied` for a link that is not good."""
        user = self.find_link_owner(token)
        if user is None:
            raise no_link()
        return user

    def find_link_owner(self, token: str) -> UserRow | None:
        """None for a link that is not good."""
        link = self.links.good("password", tokens.fingerprint(token), utc_now())
        user = self.session.get(UserRow, link.user_id) if link else None
        return None if user is None or user.disabled else user

    # -- logging in and out -----------------------------------------------------------------------------------------

    def begin_login(self, user: UserRow, kind: str, address: str, agent: str) -> LoginRow:
        now = utc_now()
        self.users.forget_expired(now)
        user.last_login_at = now
        row = LoginRow(
            id=str(uuid.uuid4()), user_id=user.id, kind=kind, generation=0, created_at=now, last_used_at=now,
            expires_at=now + timedelta(seconds=self.settings.session_s), address=address[:64], agent=one_line(agent)[:200],
        )  # fmt: skip
        self.session.add(row)
        self.session.flush()
        current_act().who = identity(user, "session" if kind == "session" else "token", row.id)
        return row

    def tokens(self, login: LoginRow) -> Tokens:
        """The access token, and the one that renews it."""
        life_s = self.settings.access_token_s
        refresh = tokens.sign(self.secret, "refresh", self.settings.session_s, sid=login.id, gen=login.generation)
        access = tokens.sign(self.secret, "access", life_s, sub=str(login.user_id), sid=login.id)
        return Tokens(access_token=access, refresh_token=refresh, expires_in=life_s)

    def renew(self, refresh_token: str) -> Tokens | None:
        """New tokens for a refresh token that was not used before. One that was is a copy in the wrong hands: the login
        ends, and None is returned, so that this is kept."""
        claims = tokens.read(self.secret, "refresh", refresh_token)
        login = self.users.login(str(claims["sid"]), for_update=True)
        user = self._owner(login)
        if login is None or user is None:
            raise NotLoggedIn("This login has ended.", hint="Log in again.")
        if claims.get("gen") != login.generation:
            self.users.end_login(login.id)
            current_act().objects.append(f"user {user.username}")
            return None
        login.generation += 1
        self._touch(login)
        current_act().who = identity(user, "token", login.id)
        return self.tokens(login)

    def cookie(self, login: LoginRow) -> str:
        """What a browser keeps."""
        return tokens.sign(self.secret, "session", self.settings.session_s, sid=login.id)

    def of_login(self, login_id: str, kind: str) -> tuple[UserRow, LoginRow] | None:
        """Whose login it is, unless it has ended."""
        login = self.users.login(login_id)
        user = self._owner(login)
        return (user, login) if user and login and login.kind == kind else None

    def _owner(self, login: LoginRow | None) -> UserRow | None:
        if login is None or login.expires_at < utc_now():
            return None
        user = self.session.get(UserRow, login.user_id)
        return None if user is None or user.disabled else user

    def touch(self, login_id: str) -> None:
        """It is being used, and so lasts longer."""
        if login := self.users.login(login_id):
            self._touch(login)

    def _touch(self, login: LoginRow) -> None:
        login.last_used_at = utc_now()
        login.expires_at = login.last_used_at + timedelta(seconds=self.settings.session_s)

    # -- API keys ---------------------------------------------------------------------------------------------------

    def create_key(self, user: UserRow, body: KeyCreate) -> tuple[KeyRow, str]:
        """The row, and the key itself, which is not kept. Raises `PermissionDenied` for more than the role has."""
        too_much = [scope for scope in body.scopes if scope not in ROLE_SCOPES[Role(user.role)]]
        if too_much:
            raise PermissionDenied(
                f"Your role {user.role} has no scope {too_much[0].value}.", hint="Leave it out of the key."
            )
        key, prefix = tokens.new_key()
        expires = utc_now() + timedelta(days=body.expires_in_days) if body.expires_in_days else None
        row = KeyRow(
            user_id=user.id, name=body.name, prefix=prefix, sha256=tokens.fingerprint(key),
            scopes=sorted({scope.value for scope in body.scopes}), created_at=utc_now(), expires_at=expires,
        )  # fmt: skip
        return self.keys.add(row), key

    def touch_key(self, key_id: int, address: str) -> None:
        """It is being used."""
        if row := self.keys.find(key_id):
            row.last_used_at, row.last_used_from = utc_now(), address[:64]

    def revoke_key(self, user_id: int | None, key_id: int) -> None:
        """With `user_id` only one of that account's. Raises `NotFound`."""
        row = self.keys.get(key_id)
        if user_id is not None and row.user_id != user_id:
            raise NotFound(f"There is no API key {key_id}.", hint="List them to see which keys exist.")
        self.session.delete(row)


def no_link() -> PermissionDenied:
    return PermissionDenied("This link was used, or has expired.", hint="Ask for another one.")


def identity(user: UserRow, via: Any, credential: str, scopes: list[str] | None = None) -> Identity:
    """Somebody with an account; a key's scopes never reach beyond the role's."""
    role = Role(user.role)
    allowed = ROLE_SCOPES[role]
    if scopes is not None:
        given = {Scope(scope) for scope in scopes}
        allowed = allowed & frozenset(given.union(*(IMPLIED.get(scope, set()) for scope in given)))
    return Identity(user.id, user.username, role, allowed, via, credential)


def me(users: UserRepository) -> UserRow:
    """The account that asks. Raises `Conflict` where there are no accounts."""
    who = current()
    if who.user_id is None:
        raise Conflict("This server has no accounts.", hint="Start it with TUNESMITH_AUTH=on to have people log in.")
    return users.get(who.user_id, for_update=True)
