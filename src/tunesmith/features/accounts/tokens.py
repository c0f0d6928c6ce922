"""Tokens: signed (RFC 7519, with the precautions of RFC 8725), or random and kept as a hash."""

from __future__ import annotations

import hashlib
import hmac
import os
import secrets
import time
from pathlib import Path
from typing import Any, Literal

import jwt

from tunesmith.core.errors import NotLoggedIn
from tunesmith.core.job_dir import fsync_dir

ISSUER = "tunesmith"
ALGORITHM = "HS256"
MAX_TOKEN_CHARS = 4096
KEY_PREFIX = "tsk_"
"""Every API key begins so, which is how scanners of leaked secrets know it."""
PREFIX_CHARS = 14
"""As many characters of it are kept, to find it by."""
Kind = Literal["access", "refresh", "session", "device", "oidc"]
TYPES: dict[Kind, str] = {
    "access": "at+jwt", "refresh": "rt+jwt", "session": "st+jwt", "device": "dt+jwt", "oidc": "oidc+jwt",
}  # fmt: skip


def load_secret(home: Path, given: str | None) -> bytes:
    """What tokens are signed with: `given`, else a file in the home folder that is made once and only its owner reads."""
    if given:
        return given.encode()
    path = home / "secret.key"
    while True:
        try:
            return bytes.fromhex(path.read_text())
        except FileNotFoundError:
            temporary = path.with_suffix(f".{os.getpid()}.tmp")
            with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
                file.write(secrets.token_hex(32))
                file.flush()
                os.fsync(file.fileno())
            try:
                os.link(temporary, path)  # the first of two servers wins, and both read what it wrote
                fsync_dir(home)
            except FileExistsError:
                pass
            finally:
                temporary.unlink(missing_ok=True)


def derive(secret: bytes, purpose: str) -> bytes:
    """A key for one purpose alone, so that nothing signed for one is good for another."""
    return hmac.digest(secret, purpose.encode(), "sha256")


def sign(secret: bytes, kind: Kind, lifetime_s: float, **claims: Any) -> str:
    now = int(time.time())
    body = {"iss": ISSUER, "aud": kind, "iat": now, "exp": now + int(lifetime_s), **claims}
    return jwt.encode(body, derive(secret, f"jwt {kind}"), ALGORITHM, headers={"typ": TYPES[kind]})


def read(secret: bytes, kind: Kind, token: str) -> dict[str, Any]:
    """The claims of a good token. Raises `NotLoggedIn` for any other, whatever is wrong with it."""
    try:
        if len(token) > MAX_TOKEN_CHARS:
            raise jwt.InvalidTokenError
        header = jwt.get_unverified_header(token)
        if header.get("typ") != TYPES[kind] or set(header) - {"typ", "alg"}:
            raise jwt.InvalidTokenError
        return jwt.decode(
            token, derive(secret, f"jwt {kind}"), algorithms=[ALGORITHM], audience=kind, issuer=ISSUER,
            options={"require": ["exp", "iat", "iss", "aud"], "strict_aud": True},
        )  # fmt: skip
    except jwt.ExpiredSignatureError:
        raise NotLoggedIn("The token has expired.", hint="Renew it, or log in again.") from None
    except (jwt.InvalidTokenError, ValueError, TypeError, RecursionError):
        raise NotLoggedIn("The token is not good.", hint="Log in again.") from None


def random_token() -> str:
    """256 bits."""
    return secrets.token_urlsafe(32)


def fingerprint(token: str) -> str:
    """What is kept of a random token."""
    return hashlib.sha256(token.encode()).hexdigest()


def new_key() -> tuple[str, str]:
    """An API key and the beginning by which it is found."""
    prefix = KEY_PREFIX + secrets.token_hex((PREFIX_CHARS - len(KEY_PREFIX)) // 2)
    return f"{prefix}_{random_token()}", prefix
