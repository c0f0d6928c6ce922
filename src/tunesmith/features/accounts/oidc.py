"""Logging in through an OpenID Connect provider: authorization code with PKCE (OpenID Connect Core 1.0, RFC 7636, RFC 9700)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from typing import Any, NamedTuple
from urllib.parse import urlencode
from urllib.request import getproxies

import httpx
import jwt

from tunesmith.core import outbound
from tunesmith.core.acting import current
from tunesmith.core.errors import NotLoggedIn, TunesmithError, Unavailable
from tunesmith.features.accounts import tokens
from tunesmith.features.accounts.doorkeeper import Doorkeeper

ALGORITHMS = ["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "EdDSA"]
"""Those with a public key alone: a secret that both sides know would let the provider's word be forged here."""
ON_THE_WAY_S = 600
"""How long a person may take at the provider."""
TIMEOUT_S = 10.0
CALLBACK = "login/oidc/callback"


class Start(NamedTuple):
    """Where to send the browser, and what it keeps until it comes back."""

    url: str
    cookie: str


class Provider:
    """The provider that the settings name. Each call asks it anew: keys change, and people log in seldom."""

    def __init__(self, door: Doorkeeper) -> None:
        """Raises `Unavailable` where none is set up."""
        settings = door.settings
        if not (door.is_on and settings.oidc_issuer and settings.oidc_client_id):
            raise Unavailable("No other service to log in with is set up.", hint="See docs/accounts.md.")
        self.door, self.issuer, self.client_id = door, settings.oidc_issuer.rstrip("/"), settings.oidc_client_id
        self._secret = settings.oidc_client_secret.get_secret_value() if settings.oidc_client_secret else ""

    def start(self, next_path: str) -> Start:
        """Raises `Unavailable` when the provider does not answer."""
        state, nonce, verifier = (tokens.random_token() for _ in range(3))
        query = {
            "response_type": "code", "client_id": self.client_id, "redirect_uri": self._callback(),
            "scope": "openid email profile", "state": state, "nonce": nonce, "code_challenge_method": "S256",
            "code_challenge": base64.urlsafe_b64encode(hashlib.sha256(verifier.encode()).digest()).rstrip(b"=").decode(),
        }  # fmt: skip
        kept = tokens.sign(
            self.door.secret, "oidc", ON_THE_WAY_S, state=state, nonce=nonce, verifier=verifier, next=next_path
        )
        address = self._configuration()["authorization_endpoint"]
        return Start(f"{address}{'&' if '?' in address else '?'}{urlencode(query)}", kept)

    def finish(self, cookie: str, code: str, state: str) -> tuple[int, str]:
        """The account of who has come back, and where they wanted to go. Who is logged in already connects their account.

        Raises `NotLoggedIn` for what the provider has not said, `PermissionDenied` for people without an account here.
        """
        kept = tokens.read(self.door.secret, "oidc", cookie)
        if not hmac.compare_digest(str(kept.get("state")).encode(), state.encode()):
            raise NotLoggedIn("This answer belongs to another login.", hint="Begin again on the login page.")
        claims = self._claims(code, str(kept["verifier"]), str(kept["nonce"]))
        subject = f"{self.issuer} {claims['sub']}"[:600]
        email = claims.get("email") if claims.get("email_verified") is True else None
        with self.door.database.unit_of_work() as session:
            accounts = self.door.accounts(session)
            if current().via == "session":
                user = accounts.users.get(current().user_id or 0, for_update=True)
                accounts.users.connect(user, subject)
            else:
                user = accounts.of_subject(subject, _username(claims), email, str(claims.get("name", ""))[:200])
            if user.disabled:
                raise NotLoggedIn("Your account is switched off.", hint="Ask an administrator.")
            return user.id, str(kept["next"])

    def _claims(self, code: str, verifier: str, nonce: str) -> dict[str, Any]:
        """What the provider says of the person, with its signature checked."""
        found = self._configuration()
        body = {
            "grant_type": "authorization_code", "code": code, "redirect_uri": self._callback(), "code_verifier": verifier,
            "client_id": self.client_id,
        }  # fmt: skip
        told = self._ask("POST", found["token_endpoint"], data=body, auth=(self.client_id, self._secret))
        try:
            id_token = str(told["id_token"])
            keys = jwt.PyJWKSet.from_dict(self._ask("GET", found["jwks_uri"])).keys
            name = jwt.get_unverified_header(id_token).get("kid")
            key = next(key for key in keys if name is None or key.key_id == name)
            claims: dict[str, Any] = jwt.decode(
                id_token, key, algorithms=ALGORITHMS, audience=self.client_id, issuer=found["issuer"], leeway=30,
                options={"require": ["exp", "iat", "iss", "aud", "sub"]},
            )  # fmt: skip
        except (jwt.PyJWTError, KeyError, StopIteration, TypeError, AttributeError):
            raise NotLoggedIn("What the other service says cannot be believed.", hint="Begin again.") from None
        if not hmac.compare_digest(str(claims.get("nonce")).encode(), nonce.encode()):
            raise NotLoggedIn("This answer belongs to another login.", hint="Begin again on the login page.")
        return claims

    def _configuration(self) -> dict[str, Any]:
        found = self._ask("GET", f"{self.issuer}/.well-known/openid-configuration")
        if str(found.get("issuer", "")).rstrip("/") != self.issuer:
            raise Unavailable(f"{self.issuer} says that it is another.", hint="Check TUNESMITH_OIDC_ISSUER.")
        return found

    def _ask(self, method: str, url: str, **options: Any) -> dict[str, Any]:
        """An answer in JSON; redirects are not followed. Raises `Unavailable`."""
        try:
            with httpx.Client(timeout=TIMEOUT_S, transport=self._way_out()) as client:
                answer = client.request(method, url, **options)
            answer.raise_for_status()
            return dict(answer.json())
        except (httpx.HTTPError, httpx.InvalidURL, TunesmithError, ValueError, TypeError):
            raise Unavailable(
                f"{self.door.settings.oidc_name} does not answer as it should.", hint="Try again, or use your password."
            ) from None

    def _way_out(self) -> httpx.BaseTransport | None:
        """The provider may stand inside; what it names besides itself may not. None where a proxy makes the connections."""
        proxies = getproxies()
        if proxies.get("http") or proxies.get("https") or proxies.get("all"):
            return None
        own = httpx.URL(self.issuer).host
        return outbound.CheckedTransport([own, *self.door.settings.allowed_addresses], TIMEOUT_S)

    def _callback(self) -> str:
        base = self.door.settings.public_url or f"http://{self.door.settings.host}:{self.door.settings.port}"
        return f"{base.rstrip('/')}/{CALLBACK}"


def _username(claims: dict[str, Any]) -> str:
    """A name for the account, from what the provider calls the person."""
    told = str(claims.get("preferred_username") or str(claims.get("email", "")).partition("@")[0] or "user")
    plain = re.sub(r"[^A-Za-z0-9._-]+", "-", told).strip("-._")[:50]
    return plain if len(plain) >= 2 else f"user-{hashlib.sha256(str(claims['sub']).encode()).hexdigest()[:8]}"
