"""`tunesmith login`, `logout`, `whoami`, `keys` and `users`."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator
from typing import Annotated, Any

import typer

from tunesmith.cli.output import Output, exact, show, size, table
from tunesmith.cli.references import picked
from tunesmith.core.acting import Act, Identity, Role, Scope, acting
from tunesmith.core.errors import InvalidInput, NotFound
from tunesmith.schemas.accounts import UserRead
from tunesmith.sdk import credentials
from tunesmith.sdk.client import Client

keys = typer.Typer(no_args_is_help=True, help="API keys of your own, for programs.")
users = typer.Typer(no_args_is_help=True, help="Accounts and invitations, for administrators.")
Username = Annotated[str | None, typer.Option("--username", "-u", help="Your name or e-mail address.")]
Who = Annotated[str, typer.Argument(help="The account's name.")]


@contextlib.contextmanager
def as_person(username: str | None) -> Iterator[Client]:
    """A client that has logged in with a password, which is asked for, until the block ends."""
    if username is None:
        username = typer.prompt("Name or e-mail address", err=True)
    password = typer.prompt("Password", hide_input=True, err=True)
    with Client() as client:
        client.account.login(username, password)
        try:
            yield client
        finally:
            client.account.logout()


def login(
    username: Username = None,
    key: Annotated[
        bool, typer.Option("--key", help="Ask for an API key that you have, instead of a password.")
    ] = False,
) -> None:
    """Log in to the server (TUNESMITH_URL). What is stored is an API key of its own, in a file that only you can read."""
    if key:
        text = typer.prompt("API key", hide_input=True, err=True).strip()
        with Client(token=text) as client:
            me, url = client.account.me(), client.connection.url
    else:
        with as_person(username) as client:
            me, url = client.account.me(), client.connection.url
            name = f"tunesmith on {socket.gethostname()}"[:100]
            text = client.account.create_key(name, [scope.value for scope in me.scopes]).key
    file = credentials.store(url, me.username, text)
    told = {"username": me.username, "role": me.role, "server": url, "file": str(file)}
    show(told, f"Logged in to {url} as {me.username} ({me.role}). The key is in {file}.")


def logout() -> None:
    """Revoke the stored API key of the server (TUNESMITH_URL) and forget it."""
    with Client() as client:
        url = client.connection.url
        try:
            client.account.logout()
        finally:
            credentials.forget(url)
    show({"server": url}, f"Logged out of {url}.")


def whoami() -> None:
    """Who you are to the server, what you may, and your quotas."""
    with Client() as client:
        me, quotas = client.account.me(), client.account.quotas()
    rows = [("name", me.username), ("role", me.role), ("may", ", ".join(me.scopes)), ("through", me.via)]
    for quota in quotas:
        used, limit = (_amount(quota.name, number) for number in (quota.used, quota.limit))
        rows.append((quota.name, f"{used} of {limit}" if limit else f"{used}, no limit"))
    show({**me.model_dump(mode="json"), "quotas": [q.model_dump() for q in quotas]}, table(("", ""), rows))


def _amount(name: str, number: float | None) -> str:
    if number is None:
        return ""
    return size(number) if name.endswith("_bytes") else f"{number:g}"


# -- keys -----------------------------------------------------------------------------------------------------------------


@keys.command("list")
def list_keys(username: Username = None) -> None:
    """Your keys, without what makes them keys. Asks for your password."""
    with as_person(username) as client:
        found = client.account.keys()
    rows = [
        (
            key.id,
            key.name,
            key.prefix,
            ", ".join(key.scopes),
            exact(key.expires_at) if key.expires_at else "never",
            exact(key.last_used_at) if key.last_used_at else "never",
        )
        for key in found
    ]
    show(found, table(("key", "name", "begins", "scopes", "expires", "last used"), rows))


@keys.command("create")
def create_key(
    name: Annotated[str, typer.Argument(help="What it is for.")],
    scope: Annotated[list[Scope], typer.Option(help="read, train, deploy or admin; may be given several times.")],
    days: Annotated[int, typer.Option(min=0, max=3660, help="Days until it expires; 0: never.")] = 90,
    username: Username = None,
) -> None:
    """Make a key and show it, once. Asks for your password."""
    with as_person(username) as client:
        made = client.account.create_key(name, [s.value for s in scope], expires_in_days=days or None)
    show(made, made.key)
    if not Output.as_json:
        typer.echo("It is not shown again.", err=True)


@keys.command("revoke")
def revoke_key(
    key: Annotated[str, typer.Argument(help="The key's number or name.")], username: Username = None
) -> None:
    """End a key. Asks for your password."""
    with as_person(username) as client:
        mine = client.account.keys()
        key_id = picked("key", key, lambda _word: ((one.id, one.name) for one in mine))
        client.account.revoke_key(key_id)
    show({"id": key_id}, f"Key {key_id} is revoked.")


# -- users ----------------------------------------------------------------------------------------------------------------


@users.command("list")
def list_users(role: Annotated[Role | None, typer.Option()] = None) -> None:
    """All accounts."""
    with Client() as client:
        found = list(client.users.list(role=role))
    rows = [
        (
            u.id,
            u.username,
            u.email,
            u.full_name,
            u.role,
            "disabled" if u.disabled else "",
            exact(u.last_login_at) if u.last_login_at else "never",
        )
        for u in found
    ]
    show(found, table(("user", "name", "e-mail", "full name", "role", "", "last login"), rows))


@users.command("create")
def create_user(
    username: Who,
    email: Annotated[str | None, typer.Option()] = None,
    role: Annotated[Role, typer.Option()] = Role.MEMBER,
) -> None:
    """Make an account, and a link under which its owner chooses a password."""
    with Client() as client:
        made = client.users.create(username, email=email, role=role)
    show(made, f"{made.username} chooses a password here: {made.link}")


@users.command("invite")
def invite(
    email: Annotated[str | None, typer.Option(help="Where it is sent, when the server has mail.")] = None,
    role: Annotated[Role, typer.Option()] = Role.MEMBER,
    days: Annotated[int, typer.Option(min=1, max=365)] = 7,
) -> None:
    """A link under which somebody makes an account; it works once."""
    with Client() as client:
        made = client.users.invite(role=role, email=email, expires_in_days=days)
    show(made, f"{'It was sent by mail: ' if made.sent else ''}{made.link}")


@users.command("update")
def update_user(
    username: Who,
    role: Annotated[Role | None, typer.Option()] = None,
    disabled: Annotated[bool | None, typer.Option("--disable/--enable")] = None,
    quota_storage_gb: Annotated[float | None, typer.Option(min=0)] = None,
    quota_jobs: Annotated[int | None, typer.Option(min=0)] = None,
    quota_gpu_hours: Annotated[float | None, typer.Option(min=0)] = None,
    no_quotas: Annotated[bool, typer.Option("--no-quotas", help="Back to the server's quotas.")] = False,
) -> None:
    """Change role, quotas, or whether an account may log in."""
    changes: dict[str, Any] = {
        "role": role,
        "disabled": disabled,
        "quota_jobs": quota_jobs,
        "quota_gpu_hours": quota_gpu_hours,
    }
    changes["quota_storage_bytes"] = int(quota_storage_gb * 1e9) if quota_storage_gb is not None else None
    given = {name: value for name, value in changes.items() if value is not None}
    if no_quotas:
        given |= {
            f"quota_{name}": None for name in ("storage_bytes", "jobs", "gpu_hours") if f"quota_{name}" not in given
        }
    if not given:
        raise InvalidInput("There is nothing to change.", hint="See: tunesmith users update --help")
    with Client() as client:
        changed = client.users.update(_find(client, username).id, **given)
    show(changed, f"{changed.username} is {'disabled' if changed.disabled else changed.role}.")


@users.command("remove")
def remove_user(username: Who, yes: Annotated[bool, typer.Option("--yes", "-y", help="Do not ask.")] = False) -> None:
    """Remove an account; what it owned becomes yours."""
    with Client() as client:
        user = _find(client, username)
        if not yes:
            if Output.as_json:
                raise InvalidInput("Say --yes to remove it.")
            typer.confirm(f"Remove {user.username}? Datasets and jobs of theirs become yours.", abort=True)
        client.users.delete(user.id)
    show({"id": user.id}, f"{user.username} is gone.")


@users.command("reset-password")
def reset_password(
    username: Who,
    local: Annotated[
        bool, typer.Option("--local", help="Through the database of this machine, for whoever cannot log in any more.")
    ] = False,
) -> None:
    """A link under which the account's owner chooses a new password; it works once, for a day."""
    if local:
        link = _local_link(username)
        show({"link": link}, link)
        return
    with Client() as client:
        made = client.users.password_link(_find(client, username).id)
    show(made, made.link)


def _find(client: Client, username: str) -> UserRead:
    for user in client.users.list(q=username):
        if user.username.lower() == username.lower():
            return user
    raise NotFound(f"There is no account {username!r}.", hint="tunesmith users list shows them.")


def _local_link(username: str) -> str:
    """As somebody who can read the server's files; the server may run or not."""
    import getpass

    from tunesmith.app import create_app
    from tunesmith.settings import Settings

    app = create_app(Settings())
    state, door = app.state.tunesmith, app.state.doorkeeper
    state.database.migrate()
    who = Identity(None, f"{getpass.getuser()} (command line)"[:64], Role.ADMIN, frozenset(Scope), "local")
    with acting(Act(who, action="make_password_link")) as act, state.database.unit_of_work() as session:
        accounts = door.accounts(session)
        user = accounts.users.named(username)
        if user is None:
            raise NotFound(f"There is no account {username!r} in {state.settings.home}.")
        act.objects.append(f"user {user.username}")
        made = accounts.password_link(user)
    return str(door.link("reset-password", token=made.token))
