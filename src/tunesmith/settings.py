"""Every `TUNESMITH_*` environment variable, its default, its unit, one sentence; those of `core/preferences.py` too."""

from __future__ import annotations

import json
import os
import tempfile
from functools import cached_property
from ipaddress import IPv4Network, IPv6Network
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SecretStr, ValidationError
from pydantic.fields import FieldInfo
from pydantic_settings import BaseSettings, PydanticBaseSettingsSource, SettingsConfigDict

from tunesmith.core.errors import InvalidInput, Unavailable
from tunesmith.core.job_dir import durable_folder
from tunesmith.core.preferences import Preferences

OTHER_VARIABLES = {
    "TUNESMITH_URL": "Where programs and the command line find the server.",
    "TUNESMITH_API_KEY": "API key that they send.",
    "TUNESMITH_KEY": "A key for a deployment, in the examples of its page for use in programs.",
    "TUNESMITH_KERNELS": "Folder for the kernels that are built for this processor.",
}
"""Variables that are no settings of the server, and what each is for."""
SAVED = "settings.json"
"""File in the home folder with the preferences that somebody has changed."""

MEND = "Mend the file, or delete it to go back to the defaults."


class Settings(Preferences, BaseSettings):
    """Configuration of the server. The environment wins over what was saved, that over the defaults. Frozen but for
    `apply`; unknown `TUNESMITH_*` names are reported by `tunesmith doctor`."""

    model_config = SettingsConfigDict(env_prefix="TUNESMITH_", frozen=True, extra="ignore")

    home: Path = Field(default_factory=lambda: Path.home() / ".tunesmith")
    """Folder that holds the database, datasets, jobs, models and caches."""
    database_url: str | None = None
    """`postgresql://…` to use PostgreSQL; absent means SQLite in the home folder."""
    host: str = "127.0.0.1"
    """Address to listen on."""
    port: int = 8000
    """Port to listen on."""
    allowed_hosts: list[str] = []
    """Host names besides localhost that requests may name (JSON list)."""
    max_connections: int = Field(4000, ge=10)
    """Most connections at the same time, as far as the files that the server may open reach; further ones are answered 503."""
    max_connections_per_address: int = Field(1000, ge=1)
    """The same from one address; proxies in front of the server are not counted."""
    request_head_s: float = Field(20.0, gt=0)
    """How long the head of a request may take to arrive, seconds."""
    request_body_s: float = Field(30.0, gt=0)
    """Time in which the body of a request must go on arriving, 100 bytes a second at least, seconds. A body that moves may take as long as it likes."""
    response_s: float = Field(60.0, gt=0)
    """The same for the reader of an answer, seconds. A stream on which nothing is to be sent may be silent."""
    keep_alive_s: int = Field(15, ge=1)
    """How long a connection is kept without a request, and between two pings of a WebSocket, seconds."""
    trusted_proxies: list[IPv4Network | IPv6Network] = []
    """Addresses or networks of proxies in front of the server whose `X-Forwarded-For` and `X-Forwarded-Proto` are believed (JSON list)."""
    auth: Literal["off", "on"] = "off"
    """Whether people log in. Without it the server answers its own machine alone, and whoever sits there is its one user."""
    registration: Literal["open", "invitation", "closed"] = "invitation"
    """Who may make an account: anybody who reaches the server, those with an invitation, or only administrators for others."""
    password_min_length: int = Field(6, ge=6, le=200)
    """Least characters of a password."""
    public_url: str | None = Field(None, pattern=r"^https?://[^/\s]+/?$")
    """Address under which people reach the server. With `https` cookies are sent over it alone; links in mail begin with it."""
    access_token_s: int = Field(900, ge=30, le=86_400)
    """Life of an access token, seconds."""
    session_s: int = Field(30 * 86_400, ge=60, le=366 * 86_400)
    """How long a login lasts without being used, seconds."""
    secret: SecretStr | None = Field(None, min_length=32)
    """What tokens are signed with, 32 characters or more; the same on all servers of one database. Absent: made, and kept in the home folder."""
    quota_storage_bytes: int | None = Field(None, ge=0)
    """Most disk space of an account's datasets, uploads and jobs, bytes, unless an administrator gives it another; absent means no limit."""
    quota_jobs: int | None = Field(None, ge=0)
    """Most jobs of an account that wait or run at the same time; absent means no limit."""
    quota_gpu_hours: float | None = Field(None, ge=0)
    """Most GPU hours of an account in a calendar month; absent means no limit."""
    smtp_url: SecretStr | None = None
    """`smtp://user:password@host:587` (STARTTLS) or `smtps://…`, for mail with invitations and password links; absent: links are shown to the administrator."""
    mail_from: str = "tunesmith@localhost"
    """Sender of mail."""
    oidc_issuer: str | None = Field(None, pattern=r"^https?://\S+$")
    """OpenID Connect provider, such as `https://accounts.example.org`; absent: no such login."""
    oidc_client_id: str | None = None
    """What this server is called there."""
    oidc_client_secret: SecretStr | None = None
    """And its secret."""
    oidc_name: str = "single sign-on"
    """How the login page names it."""
    dataset_workers: int = 1
    """Datasets processed at the same time."""
    warm_workers: bool = True
    """Keep a process with the training libraries imported, so that jobs begin at once (Linux; some 400 MB of memory)."""
    custom_scripts: bool = False
    """Let administrators run the `custom` recipe, which runs a Python file of their own where this machine can keep it apart."""
    custom_network: bool = False
    """Let custom scripts use the network. They see no other files either way."""
    worker_memory_bytes: int | None = Field(None, ge=64 * 1024**2)
    """Most memory of one training process with all it starts, where control groups can be made, bytes; absent means no limit."""
    allowed_addresses: list[str] = []
    """Host names or networks (such as `10.1.0.0/16`) inside the company that datasets may be fetched from (JSON list)."""
    promotion_metric: str = "auto"
    """Score that must not fall significantly when a version takes another's alias or stage; `auto` takes the one that stands for
    the evaluations of both, `none` lets everything pass."""
    promotion_tolerance: float = Field(0.0, ge=0.0, le=1.0)
    """How much of that score may be lost, as a share of it."""
    judge_api_key: SecretStr | None = None
    """Key of the endpoint at `judge_url`, for evaluations with a judge; sent there and nowhere else."""
    judge_url: str = "https://api.openai.com/v1"
    """The endpoint whose key `judge_api_key` is. Other judges are asked without a key."""
    lease_s: float = 30.0
    """Seconds without a heartbeat after which a worker counts as lost."""
    stall_s: float = Field(1800.0, ge=0)
    """Seconds without any progress after which a worker is dumped to its log, ended and restarted; loading, saving and compiling
    may take longer, and so may what has been slow before. 0: never."""
    tick_s: float = 1.0
    """Longest pause between two rounds of the scheduler, seconds."""
    model_dirs: list[Path] = []
    """Folders besides the home's `models` whose models and GGUF files are listed, and only read (JSON list)."""
    hub_offline: bool = False
    """Never ask a model hub."""
    log_level: str = "INFO"
    """Least severe log messages shown."""
    cpu: Literal["plain", "bf16", "amx"] | None = None
    """A test aid: take the processor for one without bf16 products, with those of AVX-512, or with AMX too. It takes away only; absent means what is there."""

    @cached_property
    def sqlalchemy_url(self) -> str:
        if not self.database_url:
            return f"sqlite:///{self.home / 'tunesmith.db'}"
        return self.database_url.replace("postgres://", "postgresql://").replace(
            "postgresql://", "postgresql+psycopg://"
        )

    @cached_property
    def datasets_dir(self) -> Path:
        return self.home / "datasets"

    @cached_property
    def uploads_dir(self) -> Path:
        return self.home / "uploads"

    @cached_property
    def saved_path(self) -> Path:
        return self.home / SAVED

    @cached_property
    def jobs_dir(self) -> Path:
        return self.home / "jobs"

    @cached_property
    def models_dir(self) -> Path:
        return self.home / "models"

    @cached_property
    def cache_dir(self) -> Path:
        return self.home / "cache"

    @classmethod
    def settings_customise_sources(
        cls, settings_cls: type[BaseSettings], init_settings: PydanticBaseSettingsSource,
        env_settings: PydanticBaseSettingsSource, dotenv_settings: PydanticBaseSettingsSource,
        file_secret_settings: PydanticBaseSettingsSource,
    ) -> tuple[PydanticBaseSettingsSource, ...]:  # fmt: skip
        return init_settings, env_settings, _Saved(settings_cls)

    def apply(self, values: dict[str, Any]) -> None:
        """Take over checked preferences: every part of the server reads them here when it needs them."""
        self.__dict__.update({name: value for name, value in values.items() if name in Preferences.model_fields})

    def make_dirs(self) -> None:
        """Create the folders, readable by the owner only. Raises `Unavailable` when the home folder cannot be written."""
        try:
            for path in (
                self.home,
                self.datasets_dir,
                self.uploads_dir,
                self.jobs_dir,
                self.models_dir,
                self.cache_dir,
            ):
                durable_folder(path, mode=0o700)
            tempfile.TemporaryFile(dir=self.home).close()
        except OSError as error:
            raise Unavailable(
                f"The home folder {self.home} cannot be written: {error.strerror}.",
                hint="Make it writable for the server's user, free some space, or choose another folder with TUNESMITH_HOME.",
            ) from None


class _Saved(PydanticBaseSettingsSource):
    """What was saved in the home folder that the sources before name."""

    def get_field_value(self, field: FieldInfo, field_name: str) -> tuple[Any, str, bool]:
        return None, field_name, False

    def __call__(self) -> dict[str, Any]:
        home = self.current_state.get("home") or Path.home() / ".tunesmith"
        return read_saved(Path(home) / SAVED)


def read_saved(path: Path) -> dict[str, Any]:
    """The saved preferences; none where there is no file. Names that this version does not know are left out. Raises
    `InvalidInput` naming the file."""
    try:
        saved = json.loads(path.read_bytes())
        known = {name: value for name, value in saved.items() if name in Preferences.model_fields}
        Preferences.model_validate(known)
    except FileNotFoundError:
        return {}
    except ValidationError as error:
        places = [".".join(map(str, problem["loc"])) for problem in error.errors()]
        raise InvalidInput(f"{path} has values that cannot be used: {', '.join(places)}.", hint=MEND) from None
    except (ValueError, AttributeError):
        raise InvalidInput(f"{path} is not a JSON object.", hint=MEND) from None
    return known


def variable_of(name: str) -> str:
    """`TUNESMITH_CPU_SLOTS` of `cpu_slots`."""
    return f"TUNESMITH_{name.upper()}"


def is_in_environment(name: str) -> bool:
    """Whether a variable sets it, whatever the case it is written in."""
    return variable_of(name) in {variable.upper() for variable in os.environ}
