"""Passwords: Argon2id, a list of common ones, and the same time for a name that does not exist."""

from __future__ import annotations

import threading
from functools import cache

from pwdlib import PasswordHash

from tunesmith.core.errors import InvalidInput

MAX_LENGTH = 200
_one_at_a_time = threading.Semaphore(2)
"""Each hash takes 64 MB and all of a core for a moment."""


@cache
def _hasher() -> PasswordHash:
    return PasswordHash.recommended()


def hash_new(password: str, min_length: int, *names: str | None) -> str:
    """What is kept of a new password. Slow by intent: no transaction should be open. Raises as `check_new`."""
    check_new(password, min_length, *names)
    with _one_at_a_time:
        return _hasher().hash(password)


def verify(password: str, hashed: str | None) -> bool:
    """Whether it is the one; takes as long for an account without a password, or none at all."""
    with _one_at_a_time:
        nobody = _nobody()  # made at the first call, whoever it is for
        good = _hasher().verify(password[:MAX_LENGTH], hashed or nobody)
    return good and hashed is not None


@cache
def _nobody() -> str:
    return _hasher().hash("the password of nobody")


@cache
def _common() -> frozenset[str]:
    """Passwords that people use most, from leaked lists."""
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    return frozenset(FREQUENCY_LISTS["passwords"])


def check_new(password: str, min_length: int, *names: str | None) -> None:
    """Raise `InvalidInput` for a password that is too short, too common, or the account's own name."""
    why = None
    if len(password) < min_length:
        why = f"must have at least {min_length} characters"
    elif len(password) > MAX_LENGTH:
        why = f"must have at most {MAX_LENGTH} characters"
    elif password.lower() in _common() or len(set(password)) < 3:
        why = "is one of the most common passwords, which are tried first"
    elif password.lower() in {name.lower() for name in names if name}:
        why = "must not be your name or address"
    if why:
        raise InvalidInput(
            f"The password {why}.",
            hint="Three or four unrelated words make a good one.",
            details=[{"loc": "password", "message": why}],
        )
