"""Accounts, logins, API keys, invitations and the audit log on the wire."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, SecretStr

from tunesmith.core.acting import Role, Scope
from tunesmith.schemas.common import Wire


def _email(text: str) -> str:
    name, at, host = text.strip().rpartition("@")
    if not (name and at and host) or any(char.isspace() or char in '<>"\\,;:()[]' for char in text):
        raise ValueError("an address such as ada@example.org is wanted")
    return text.strip()


Username = Annotated[str, Field(min_length=2, max_length=64, pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]*$", examples=["ada"])]
"""Letters, digits, dots and dashes."""
Email = Annotated[str, Field(max_length=254, examples=["ada@example.org"]), AfterValidator(_email)]
Password = Annotated[SecretStr, Field(min_length=1, max_length=200)]


class UserRead(BaseModel):
    """An account."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    username: str
    email: str | None
    full_name: str
    role: Role
    disabled: bool
    created_at: datetime
    last_login_at: datetime | None
    quota_storage_bytes: int | None = None
    """This account's own limit; null where the server's holds."""
    quota_jobs: int | None = None
    quota_gpu_hours: float | None = None


class Quota(BaseModel):
    """How much there is and how much is used; no limit where `limit` is null."""

    name: Literal["storage_bytes", "jobs", "gpu_hours"]
    used: float
    limit: float | None


class Me(BaseModel):
    """Who is asking."""

    username: str
    role: Role
    scopes: list[Scope]
    via: str
    """How they were known: `local` where there are no accounts, else `session`, `token` or `key`."""
    user: UserRead | None
    """Null where there are no accounts."""


class Register(Wire):
    """A new account."""

    username: Username
    email: Email
    password: Password
    full_name: str = Field("", max_length=200)
    invitation: SecretStr | None = Field(None, max_length=200)
    """What stood in the invitation's link; needed unless registration is open."""


class Login(Wire):
    """Name or e-mail address, and password."""

    username: str = Field(min_length=1, max_length=254)
    password: Password


class Tokens(BaseModel):
    """What a program logs in with from now on."""

    access_token: str
    """For `Authorization: Bearer`, until it expires."""
    refresh_token: str
    """Good for one renewal, which brings the next one."""
    token_type: Literal["bearer"] = "bearer"
    expires_in: int
    """Seconds until the access token expires."""


class Refresh(Wire):
    refresh_token: SecretStr = Field(max_length=4096)


class PasswordChange(Wire):
    current_password: Password
    password: Password


class PasswordForgotten(Wire):
    username: str = Field(min_length=1, max_length=254)


class PasswordReset(Wire):
    token: SecretStr = Field(max_length=200)
    """What stood in the link."""
    password: Password
    keep_api_keys: bool = False
    """Whether the account's API keys stay good; by default they end as its logins do."""


class ProfileUpdate(Wire):
    email: Email | None = None
    full_name: str | None = Field(None, max_length=200)


class LoginRead(BaseModel):
    """One login that has not ended."""

    model_config = ConfigDict(from_attributes=True)

    id: str
    kind: Literal["session", "token"]
    created_at: datetime
    last_used_at: datetime
    expires_at: datetime
    address: str
    agent: str
    is_this: bool = False
    """Whether this request came with it."""


class KeyCreate(Wire):
    """A new API key."""

    name: str = Field(min_length=1, max_length=100, examples=["nightly training"])
    scopes: list[Scope] = Field(min_length=1, max_length=4)
    """`train` and `deploy` include `read`; `admin` includes all. No more than your role has."""
    expires_in_days: int | None = Field(90, ge=1, le=3660)
    """Null: never."""


class KeyRead(BaseModel):
    """An API key, without what makes it one."""

    model_config = ConfigDict(from_attributes=True)

    id: int
    name: str
    prefix: str
    scopes: list[Scope]
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None
    last_used_from: str | None


class KeyMade(KeyRead):
    key: str
    """Shown this once."""


class UserCreate(Wire):
    """An account that an administrator makes."""

    username: Username
    email: Email | None = None
    full_name: str = Field("", max_length=200)
    role: Role = Role.MEMBER
    password: Password | None = None
    """Absent: the answer has a link under which its owner chooses one."""


class UserMade(UserRead):
    link: str | None = None
    """Where its owner chooses a password; shown this once."""


class UserUpdate(Wire):
    """What an administrator may change of an account. Null quotas go back to the server's."""

    role: Role | None = None
    disabled: bool | None = None
    quota_storage_bytes: int | None = Field(None, ge=0, lt=2**62)
    quota_jobs: int | None = Field(None, ge=0, le=1_000_000)
    quota_gpu_hours: float | None = Field(None, ge=0, le=1e9)


class InvitationCreate(Wire):
    role: Role = Role.MEMBER
    email: Email | None = None
    """Where it is sent, when mail is set up."""
    expires_in_days: int = Field(7, ge=1, le=365)


class InvitationRead(BaseModel):
    model_config = ConfigDict(from_attributes=True)

    id: int
    role: Role
    email: str | None
    created_by: str
    created_at: datetime
    expires_at: datetime


class InvitationMade(InvitationRead):
    link: str
    """Where the account is made; shown this once."""
    sent: bool
    """Whether it went out by mail."""


class PasswordLink(BaseModel):
    link: str
    """Where the new password is chosen, once; shown this once."""
    sent: bool
    expires_at: datetime


class AuditEntry(BaseModel):
    """One line of the audit log."""

    model_config = ConfigDict(from_attributes=True)

    seq: int
    at: datetime
    user_id: int | None
    username: str
    via: str
    credential: str
    """The number of the key, or the login, that was used."""
    action: str = Field(examples=["delete_job"])
    objects: list[str] = Field(examples=[["job 7"]])
    address: str
    result: Literal["done", "refused", "failed"]
    status: int
    hash: str


class AuditCheck(BaseModel):
    """Whether the log is whole."""

    ok: bool
    entries: int
    broken_at: int | None = None
    """The first line that was changed, or is missing."""
    message: str
