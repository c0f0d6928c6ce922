"""The engine, the unit of work, SQLite's pragmas, and migrations."""

from __future__ import annotations

import contextlib
import fcntl
import sqlite3
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from sqlalchemy import Engine, create_engine, event, inspect, or_, text
from sqlalchemy.exc import DBAPIError, SQLAlchemyError
from sqlalchemy.exc import TimeoutError as NoConnectionFree
from sqlalchemy.orm import ORMExecuteState, Session, sessionmaker, with_loader_criteria

from tunesmith.core.acting import Visibility, current
from tunesmith.core.errors import Unavailable
from tunesmith.storage.outage import DatabaseAway, Outage, is_away
from tunesmith.storage.tables import Owned

DatabaseError = SQLAlchemyError
"""What a unit of work raises when the database is away, full or refuses: for those that know no SQL."""
MIGRATIONS = Path(__file__).parent / "migrations"
BUSY_S = 30
"""Time for which a transaction waits for SQLite's only writer, seconds."""
SAFE_WAL = (3, 51, 3)
"""First SQLite without the WAL-reset race (releases from 3.7.0 can corrupt a file that several connections write)."""
POOL_TIMEOUT_S = 10
"""How long a transaction waits for one of the connections."""
NOTICED = {"connect_timeout": 5, "tcp_user_timeout": 20_000, "keepalives_idle": 10, "keepalives_interval": 5}
"""So that a PostgreSQL server whose machine has gone is noticed within seconds; what the URL says wins."""


def _sqlite_driver() -> Any:
    """pysqlite3 bundles a current SQLite where wheels exist; else Python's own."""
    try:
        from pysqlite3 import dbapi2  # type: ignore[import-not-found,import-untyped,unused-ignore]
    except ImportError:
        return sqlite3
    return dbapi2


class Database:
    """One engine and its sessions. Thread-safe."""

    def __init__(self, url: str) -> None:
        self.url = url
        self.is_sqlite = url.startswith("sqlite")
        self.outage = Outage(url)
        self._lock_file: Any = None
        if self.is_sqlite:
            self.engine = self._sqlite_engine(url)
        else:
            self.engine = create_engine(
                url, pool_size=10, max_overflow=20, pool_pre_ping=True, pool_timeout=POOL_TIMEOUT_S,
                connect_args={name: value for name, value in NOTICED.items() if f"{name}=" not in url},
            )  # fmt: skip
        self._sessions = sessionmaker(self.engine, expire_on_commit=False)
        event.listen(self._sessions, "do_orm_execute", _only_what_may_be_seen)
        self.before_commit: Callable[[Session], None] = lambda _session: None
        """Called in each transaction that may have changed something, as its last part."""

    def _sqlite_engine(self, url: str) -> Engine:
        driver = _sqlite_driver()
        self.journal_mode = "WAL" if driver.sqlite_version_info >= SAFE_WAL else "DELETE"
        self.sqlite_version = driver.sqlite_version
        # SQLite's own waiting is a lottery in which one of many may lose for half a minute: here at most one waits there.
        turn = threading.Lock()
        engine = create_engine(
            url,
            module=driver,
            connect_args={"timeout": BUSY_S, "check_same_thread": False},
            pool_size=20,
            max_overflow=30,
        )

        @event.listens_for(engine, "connect")
        def _pragmas(connection: Any, _record: Any) -> None:
            connection.isolation_level = None  # we begin transactions ourselves
            cursor = connection.cursor()
            for pragma in (f"journal_mode={self.journal_mode}", "synchronous=EXTRA", "foreign_keys=ON"):
                cursor.execute(f"PRAGMA {pragma}")
            cursor.close()

        @event.listens_for(engine, "begin")
        def _begin(connection: Any) -> None:
            # A transaction that reads first and writes later fails under contention whatever the timeout is.
            readonly = connection.get_execution_options().get("readonly")
            is_mine = not readonly and turn.acquire(timeout=BUSY_S)
            try:
                connection.exec_driver_sql("BEGIN" if readonly else "BEGIN IMMEDIATE")
            finally:
                if is_mine:
                    turn.release()

        return engine

    @contextlib.contextmanager
    def unit_of_work(self, *, readonly: bool = False) -> Iterator[Session]:
        """One transaction: committed when the block ends well, rolled back otherwise; then the `after_commit` calls run.
        Raises `DatabaseAway`, wherever in it the connection is lost."""
        try:
            with self._sessions() as session:
                if readonly and self.is_sqlite:
                    session.connection(execution_options={"readonly": True})
                yield session
                if not readonly:
                    self.before_commit(session)
                session.commit()  # closing a session that was not committed rolls it back
        except (DBAPIError, NoConnectionFree) as error:
            if is_away(error):
                raise self.outage.failed(error) from error
            raise
        self.outage.worked()
        for call in session.info.get("after_commit", ()):
            call()

    def watch_new_rows(self, look: Callable[[Session], None]) -> None:
        """`look` is called before each flush."""
        event.listen(self._sessions, "before_flush", lambda session, _context, _instances: look(session))

    def migrate(self) -> None:
        """Bring the schema to this version. Raises `Unavailable` for a database that does not answer, and for one that a newer
        Tunesmith has written."""
        known = sorted(path.stem for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
        try:
            current = self._revision()
        except DatabaseAway as error:
            raise error.answer from None
        if current == known[-1]:
            return
        if current is not None and current not in known:
            raise Unavailable(
                f"The database is at version {current}, which this Tunesmith does not know.",
                hint="A newer Tunesmith wrote it: upgrade this one, or set TUNESMITH_HOME to another folder.",
            )
        from alembic import command  # most starts have nothing to migrate, and it takes a while to import
        from alembic.config import Config

        config = Config()
        config.set_main_option("script_location", str(MIGRATIONS))
        config.attributes["engine"] = self.engine
        command.upgrade(config, "head")

    def _revision(self) -> str | None:
        """The revision that the schema is at; None for an empty database."""
        with self.unit_of_work(readonly=True) as session:
            if not inspect(session.connection()).has_table("alembic_version"):
                return None
            return session.scalar(text("SELECT version_num FROM alembic_version"))

    def take_process_lock(self) -> None:
        """SQLite serves one server process at a time. Raises `Unavailable` when another one has the file."""
        if not self.is_sqlite or self._lock_file is not None:
            return
        path = Path(self.url.removeprefix("sqlite:///")).with_suffix(".lock")
        lock_file = path.open("w")
        try:
            fcntl.flock(lock_file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            lock_file.close()
            raise Unavailable(
                f"Another Tunesmith server already uses {path.parent}.",
                hint="Stop it first, set TUNESMITH_HOME to another folder, or use PostgreSQL for several servers.",
            ) from None
        self._lock_file = lock_file

    def check(self) -> None:
        """Raises when the database does not answer."""
        with self.unit_of_work(readonly=True) as session:
            session.execute(text("SELECT 1"))

    def close(self) -> None:
        self.engine.dispose()
        if self._lock_file is not None:
            self._lock_file.close()
            self._lock_file = None


EVERYONES = {"everyones": True}
"""Execution option of a query that must see the rows of all: for names and numbers that exist once."""


def _only_what_may_be_seen(query: ORMExecuteState) -> None:
    """Every query of a request sees its owner's rows and those of the team, wherever in it they stand."""
    who = current()
    if who.sees_all or not query.is_select or query.execution_options.get("everyones"):
        return
    user_id, team = who.user_id, Visibility.TEAM.value
    query.statement = query.statement.options(
        with_loader_criteria(
            Owned, lambda cls: or_(cls.owner_id == user_id, cls.visibility == team), include_aliases=True
        )
    )


def after_commit(session: Session, call: Callable[[], None]) -> None:
    """Run `call` once the unit of work has been committed; not at all when it is rolled back."""
    session.info.setdefault("after_commit", []).append(call)
