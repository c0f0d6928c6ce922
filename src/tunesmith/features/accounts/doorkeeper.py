"""Who is at the door: tells the gate whose cookie, token or key it was shown, and lets people log in."""

from __future__ import annotations

import dataclasses
import hmac
import logging
import secrets
from collections.abc import Callable
from typing import Any

from tunesmith.core.acting import Act, Identity, current, current_act, everything_seen
from tunesmith.core.clock import utc_now
from tunesmith.core.errors import InvalidInput, NotLoggedIn, TooMany
from tunesmith.features.accounts import passwords, tokens
from tunesmith.features.accounts.service import TOUCHED_EVERY, Accounts, identity, no_link
from tunesmith.features.accounts.tables import UserRow
from tunesmith.features.accounts.throttle import (
    FROM_ONE_ADDRESS,
    MAILS,
    REGISTRATIONS,
    Place,
    Throttle,
    guesses,
    network_of,
)
from tunesmith.schemas.accounts import Register, Tokens
from tunesmith.settings import Settings
from tunesmith.storage.database import Database, Session

log = logging.getLogger(__name__)

DEVICE_S = 365 * 86_400
"""How long a browser is known that nobody logs in with."""


class Doorkeeper:
    """One for the server; thread-safe."""

    def __init__(
        self, settings: Settings, database: Database, secret: bytes, *,
        jobs_seen: Callable[[Session], frozenset[int]], record: Callable[[Act, int], None],
    ) -> None:  # fmt: skip
        self.settings, self.database, self.secret = settings, database, secret
        self._jobs_seen, self.record = jobs_seen, record
        self.is_on = settings.auth == "on"
        self.is_secure = bool(settings.public_url and settings.public_url.startswith("https://"))
        self.cookie = "__Host-tunesmith" if self.is_secure else "tunesmith"
        self.device_cookie = f"{self.cookie}-device"
        self.throttle = Throttle()

    def accounts(self, session: Session) -> Accounts:
        return Accounts(self.settings, session, self.secret)

    # -- for the gate -----------------------------------------------------------------------------------------------

    def identify(self, bearer: str | None, cookie: str | None, address: str) -> Identity | None:
        """Raises `NotLoggedIn` for a token or key that is not good; a cookie that is not is as none."""
        if bearer is not None:
            who = self._of_key(bearer, address) if bearer.startswith(tokens.KEY_PREFIX) else self._of_token(bearer)
            return self._with_jobs(who)
        if cookie:
            try:
                claims = tokens.read(self.secret, "session", cookie)
            except NotLoggedIn:
                return None
            found = self._of_login(str(claims.get("sid")), "session")
            return self._with_jobs(found) if found else None
        return None

    def csrf_token(self, who: Identity) -> str:
        """Good for as long as the login lasts; nobody can make it who cannot read the pages. Another one each time, so that the
        size of compressed pages tells nothing of it."""
        salt = secrets.token_hex(16)
        return f"{salt}.{self._csrf_mark(who, salt)}"

    def is_csrf_token(self, who: Identity, sent: str) -> bool:
        salt, _, mark = sent.partition(".")
        return hmac.compare_digest(mark.encode(), self._csrf_mark(who, salt).encode())

    def _csrf_mark(self, who: Identity, salt: str) -> str:
        return hmac.new(tokens.derive(self.secret, "csrf"), f"{who.credential} {salt}".encode(), "sha256").hexdigest()

    def is_still_good(self, who: Identity) -> bool:
        if who.via in ("session", "token"):
            return self._of_login(who.credential, who.via) is not None
        if who.via == "key":
            with everything_seen(), self.database.unit_of_work(readonly=True) as session:
                return self._key_owner(session, int(who.credential)) is not None
        return True

    def _of_token(self, token: str) -> Identity:
        claims = tokens.read(self.secret, "access", token)
        found = self._of_login(str(claims.get("sid")), "token")
        if found is None or str(found.user_id) != claims.get("sub"):
            raise NotLoggedIn("This login has ended.", hint="Log in again.")
        return found

    def _of_login(self, login_id: str, kind: Any) -> Identity | None:
        with everything_seen(), self.database.unit_of_work(readonly=True) as session:
            found = self.accounts(session).of_login(login_id, kind)
        if found is None:
            return None
        user, login = found
        if kind == "session" and utc_now() - login.last_used_at > TOUCHED_EVERY:
            with everything_seen(), self.database.unit_of_work() as session:
                self.accounts(session).touch(login_id)
        return identity(user, kind, login.id)

    def _of_key(self, key: str, address: str) -> Identity:
        with everything_seen(), self.database.unit_of_work(readonly=True) as session:
            row = self.accounts(session).keys.with_prefix(key[: tokens.PREFIX_CHARS])
            user = self._key_owner(session, row.id) if row else None
        if row is None or not hmac.compare_digest(row.sha256, tokens.fingerprint(key)) or user is None:
            raise NotLoggedIn(
                "The API key is not good.", hint="It may have expired or been revoked; make another in your profile."
            )
        if row.last_used_at is None or utc_now() - row.last_used_at > TOUCHED_EVERY:
            with everything_seen(), self.database.unit_of_work() as session:
                self.accounts(session).touch_key(row.id, address)
        return identity(user, "key", str(row.id), row.scopes)

    def _key_owner(self, session: Session, key_id: int) -> UserRow | None:
        """None for a key that is gone or has expired, or an account that is disabled."""
        accounts = self.accounts(session)
        row = accounts.keys.find(key_id)
        if row is None or (row.expires_at and row.expires_at < utc_now()):
            return None
        user = accounts.users.find(row.user_id)
        return None if user is None or user.disabled else user

    def _with_jobs(self, who: Identity) -> Identity:
        """Who knows which jobs they may see, asked for when it is needed."""
        if who.sees_all:
            return who

        def seen() -> frozenset[int]:
            with self.database.unit_of_work(readonly=True) as session:
                return self._jobs_seen(session)

        return dataclasses.replace(who, jobs_seen=seen)

    # -- logging in -------------------------------------------------------------------------------------------------

    def check_password(self, name: str, password: str, device: str = "") -> int:
        """The account's id. `device`: the cookie of a browser that has logged in before. Raises `NotLoggedIn`, which says the
        same and takes the same time whatever is wrong, and `TooMany` (see `throttle.py`)."""
        with everything_seen(), self.database.unit_of_work(readonly=True) as session:
            user = self.accounts(session).users.named(name)
        known = self._known_device(user, device)
        # By the name as it was given: one count for a name and its address would tell that they belong together.
        account = str(user.id) if user and known else name.lower()
        taken = self.throttle.take(*guesses("login", account, current_act().address, known))
        good = passwords.verify(password, user.password_hash if user else None)
        current_act().objects.append(f"user {user.username}" if user else "user unknown")
        if user is None or not good or user.disabled:
            raise NotLoggedIn("The name or the password is wrong.", hint="Your e-mail address will do for the name.")
        self.throttle.give_back(taken)
        return user.id

    def device_of(self, user_id: int, device: str = "") -> str:
        """What a browser keeps to be known by the next time; one that is known already keeps its number. It lets nobody in."""
        with everything_seen(), self.database.unit_of_work(readonly=True) as session:
            user = self.accounts(session).users.get(user_id)
        number = self._known_device(user, device) or secrets.token_hex(16)
        return tokens.sign(
            self.secret, "device", DEVICE_S, sub=str(user.id), did=number, pwd=self._password_stamp(user)
        )

    def _known_device(self, user: UserRow | None, device: str) -> str | None:
        """The device's number, when somebody has logged in there to this account with the password that it has now."""
        stamp = self._password_stamp(user)
        try:
            claims = tokens.read(self.secret, "device", device)
        except NotLoggedIn:
            return None
        is_known = user is not None and claims.get("sub") == str(user.id) and claims.get("pwd") == stamp
        return str(claims.get("did")) if is_known else None

    def _password_stamp(self, user: UserRow | None) -> str:
        hashed = (user.password_hash if user else None) or ""
        return hmac.new(tokens.derive(self.secret, "device"), hashed.encode(), "sha256").hexdigest()

    def begin(self, user_id: int, agent: str) -> str:
        """Log a browser in; what its cookie holds. A login that it has already ends."""
        before = current()
        with self.database.unit_of_work() as session:
            accounts = self.accounts(session)
            if before.via == "session":
                accounts.users.end_login(before.credential)
            login = accounts.begin_login(accounts.users.get(user_id), "session", current_act().address, agent)
            return accounts.cookie(login)

    def begin_tokens(self, user_id: int, agent: str) -> Tokens:
        """Log a program in."""
        with self.database.unit_of_work() as session:
            accounts = self.accounts(session)
            return accounts.tokens(
                accounts.begin_login(accounts.users.get(user_id), "token", current_act().address, agent)
            )

    def renew(self, refresh_token: str) -> Tokens:
        """Raises `NotLoggedIn`."""
        with self.database.unit_of_work() as session:
            found = self.accounts(session).renew(refresh_token)
        if found is None:
            log.warning("a refresh token was used twice; that login has been ended")
            raise NotLoggedIn("This token was used before, so the login has been ended.", hint="Log in again.")
        return found

    def register(self, body: Register) -> UserRow:
        """A new account. Raises as `Accounts.register`, and `TooMany`."""
        act = current_act()
        with self.database.unit_of_work(readonly=True) as session:
            invitation = self.accounts(session).good_invitation(body.invitation)
        self.count_try((REGISTRATIONS, f"invitation {invitation}" if invitation else self.here("register")))
        hashed = self.new_hash(body.password.get_secret_value(), body.username, body.email)
        with self.database.unit_of_work() as session:
            user = self.accounts(session).register(body, hashed, is_local=act.is_local)
            act.who = identity(user, "anonymous", "")
            return user

    def count_try(self, *places: Place) -> None:
        """Raises `TooMany` when one of them is full."""
        self.throttle.take(places)

    def here(self, what: str) -> str:
        """The place of what is counted by address."""
        return f"{what} {network_of(current_act().address)}"

    def new_hash(self, password: str, *names: str | None) -> str:
        return passwords.hash_new(password, self.settings.password_min_length, *names)

    def change_password(self, user_id: int, current_password: str, password: str, device: str = "") -> None:
        """Raises `InvalidInput` when the present one is another, and `TooMany`."""
        with self.database.unit_of_work(readonly=True) as session:
            user = self.accounts(session).users.get(user_id)
        known = self._known_device(user, device)
        taken = self.throttle.take(*guesses("change", str(user_id), current_act().address, known))
        if not passwords.verify(current_password, user.password_hash):
            raise InvalidInput(
                "The present password is another.", details=[{"loc": "current_password", "message": "not this one"}]
            )
        self.throttle.give_back(taken)
        hashed = self.new_hash(password, user.username, user.email)
        with self.database.unit_of_work() as session:
            accounts = self.accounts(session)
            accounts.set_password(accounts.users.get(user_id, for_update=True), hashed)

    def reset_password(self, token: str, password: str, *, keep_api_keys: bool = False) -> None:
        """With a link that works once; one that is good is never held up. Ends the account's logins, and its API keys unless
        they are kept. Raises `PermissionDenied` for a link that is not good, `TooMany` for many of those."""
        with self.database.unit_of_work(readonly=True) as session:
            user = self.accounts(session).find_link_owner(token)
        if user is None:
            self.count_try((FROM_ONE_ADDRESS, self.here("reset")))
            raise no_link()
        hashed = self.new_hash(password, user.username, user.email)
        with self.database.unit_of_work() as session:
            accounts = self.accounts(session)
            user = accounts.of_link(token)
            current_act().objects.append(f"user {user.username}")
            accounts.set_password(user, hashed)
            if not keep_api_keys:
                accounts.keys.revoke_all(user.id)

    def may_mail(self, user_id: int) -> bool:
        """Whether the account has not had enough mail with links for now."""
        try:
            self.count_try((MAILS, f"mail {user_id}"))
        except TooMany:
            return False
        return True

    def first_link(self) -> str | None:
        """Where the first account is made; None when there is one. Each call makes another link and ends those before."""
        with self.database.unit_of_work() as session:
            accounts = self.accounts(session)
            if not accounts.users.is_empty():
                return None
            return self.link("register", invitation=accounts.first_invitation().token)

    def link(self, page: str, **query: str) -> str:
        """An address of this server for people; secrets stand after the #, which no server ever sees or logs."""
        base = self.settings.public_url or f"http://{self.settings.host}:{self.settings.port}"
        return f"{base.rstrip('/')}/{page}#{'&'.join(f'{name}={value}' for name, value in query.items())}"
