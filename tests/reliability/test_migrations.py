"""R6: the server is killed at a statement of a migration, from every schema that there ever was, with rows in all its tables.

The database is old or new and whole, and the next start makes it new. A tenth of the statements in `make test`, drawn by
chance; with TUNESMITH_SOAK=10 (`make soak`) each of them, and 200 instants between them.
"""

from __future__ import annotations

import os
import random
import shutil
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from tests.conftest import postgres_database
from tests.forked import FORKING
from tests.reliability.ground import TIMES
from tunesmith.core.errors import Unavailable
from tunesmith.storage.database import MIGRATIONS, Database

REVISIONS = sorted(path.stem for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))
ROWS = 3
Tables = dict[str, list[tuple[Any, ...]]]


class Old:
    """A database at an earlier revision with rows in every table; each try begins with it."""

    def __init__(self, revision: str | None, folder: Path, postgres_url: str | None) -> None:
        self.revision, self.is_sqlite = revision, postgres_url is None
        self.file, self.kept = folder / "old.db", folder / "kept.db"
        self.url = (postgres_url or f"sqlite:///{self.file}").replace("postgresql://", "postgresql+psycopg://")
        self._make()
        if self.is_sqlite:
            shutil.copyfile(self.file, self.kept)
        database = Database(self.url)
        self.tables = read_tables(database)
        database.close()

    def _make(self) -> None:
        database = Database(self.url)
        if not self.is_sqlite:
            with database.unit_of_work() as session:
                session.execute(sa.text("DROP SCHEMA public CASCADE"))
                session.execute(sa.text("CREATE SCHEMA public"))
        if self.revision:
            upgrade(database, self.revision)
            fill(database)
        else:
            database.check()
        database.close()

    def again(self) -> None:
        """As it was at first."""
        if not self.is_sqlite:
            return self._make()
        for path in self.file.parent.glob("old.db-*"):
            path.unlink()
        shutil.copyfile(self.kept, self.file)
        return None

    def check(self, database: Database) -> bool:
        """It is as it was or wholly new, with every row; whether it is new."""
        revision = revision_of(database)
        is_new = revision == REVISIONS[-1]
        assert is_new or revision == self.revision, "it is in between"
        assert read_tables(database, self.tables if is_new else None) == self.tables
        if database.is_sqlite:
            with database.unit_of_work(readonly=True) as session:
                assert session.scalar(sa.text("PRAGMA integrity_check")) == "ok"
                assert not session.execute(sa.text("PRAGMA foreign_key_check")).all()
        return is_new


def upgrade(database: Database, revision: str) -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    config.attributes["engine"] = database.engine
    command.upgrade(config, revision)


def revision_of(database: Database) -> str | None:
    with database.unit_of_work(readonly=True) as session:
        if not sa.inspect(session.connection()).has_table("alembic_version"):
            return None
        return session.scalar(sa.text("SELECT version_num FROM alembic_version"))


def fill(database: Database) -> None:
    """Rows in every table, each with something in every column."""
    metadata = sa.MetaData()
    metadata.reflect(database.engine)
    with database.unit_of_work() as session:
        for table in metadata.sorted_tables:
            if table.name != "alembic_version":
                rows = [
                    {column.name: value(column, number) for column in table.columns} for number in range(1, ROWS + 1)
                ]
                session.execute(table.insert(), rows)


def value(column: sa.Column[Any], number: int) -> Any:
    kind = column.type
    if isinstance(kind, sa.JSON):
        return {"num_rows": number, "text": f"{column.name} {number}"}
    if isinstance(kind, sa.DateTime):
        at = datetime(2026, 1, number, tzinfo=UTC)
        return at if getattr(kind, "timezone", False) else at.replace(tzinfo=None)
    if isinstance(kind, sa.Boolean):
        return number % 2 == 0
    if isinstance(kind, sa.Integer):
        return number
    if isinstance(kind, sa.Float | sa.Numeric):
        return number + 0.5
    return f"{column.name} {number}"[: getattr(kind, "length", None) or 200]


def read_tables(database: Database, like: Tables | None = None) -> Tables:
    """Every row of every table, after the names of its columns; or of the tables and columns in `like` alone."""
    found: Tables = {}
    with database.unit_of_work(readonly=True) as session:
        look = sa.inspect(session.connection())
        for name in sorted(set(look.get_table_names()) - {"alembic_version"} if like is None else like):
            columns = like[name][0] if like else tuple(column["name"] for column in look.get_columns(name))
            chosen = ", ".join(f'"{column}"' for column in columns)
            rows = session.execute(sa.text(f'SELECT {chosen} FROM "{name}"')).all()
            found[name] = [columns, *sorted(tuple(map(repr, row)) for row in rows)]
    return found


def run_migration(url: str, left: int | None) -> None:
    """In a process of its own: migrate, and die before statement `left`, the commit being the last one."""
    database, seen = Database(url), 0

    def one_more(*_: Any) -> None:
        nonlocal seen
        if seen == left:
            os.kill(os.getpid(), signal.SIGKILL)
        seen += 1

    sa.event.listen(database.engine, "before_cursor_execute", one_more)
    sa.event.listen(database.engine, "commit", one_more)
    database.migrate()


def start_migration(url: str, left: int | None = None) -> Any:
    process = FORKING.Process(target=run_migration, args=(url, left), daemon=True)
    process.start()
    return process


@pytest.fixture(params=["sqlite", "postgresql"])
def make_old(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[str | None], Old]]:
    with ExitStack() as ends:
        url = None
        if request.param == "postgresql":
            _, url = ends.enter_context(postgres_database(request.getfixturevalue("postgres_server")))
        yield lambda revision: Old(revision, tmp_path, url)


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")
@pytest.mark.parametrize("revision", [None, *REVISIONS[:-1]])
def test_killed_at_any_statement_a_migration_is_done_or_not_begun(
    make_old: Callable[[str | None], Old], revision: str | None, record_property: Callable[[str, Any], None]
) -> None:
    """From this revision to the newest, in one transaction."""
    old, rng, tried = make_old(revision), random.Random(6), 0
    at, code = rng.randrange(1 if TIMES > 1 else 3), -signal.SIGKILL
    while code:
        process = start_migration(old.url, at)
        process.join(60)
        code, tried = process.exitcode, tried + 1
        assert code in (0, -signal.SIGKILL)
        check_and_go_on(old, start_again=code == 0 or TIMES > 1)
        at += 1 if TIMES > 1 else 10
    for _ in range(TIMES):
        process = start_migration(old.url)
        time.sleep(rng.uniform(0, 0.3))
        process.kill()
        process.join()
        check_and_go_on(old, start_again=True)
    assert tried >= 2
    record_property("figures", f"R6, from {revision or 'nothing'}: {tried - 1} kills at statements, {TIMES} at random")


def check_and_go_on(old: Old, *, start_again: bool) -> None:
    """All of it is there, and again after the next start; then it is made ready for the next try."""
    database = Database(old.url)
    is_new = old.check(database)
    if start_again or is_new:
        database.migrate()
        assert old.check(database), "the next start has migrated it"
    database.close()
    if start_again or is_new:
        old.again()


@pytest.mark.filterwarnings("ignore:Skipped unsupported reflection")
def test_of_two_servers_that_start_at_once_one_migrates_and_the_other_waits(
    make_old: Callable[[str | None], Old],
) -> None:
    old = make_old("0004_models")
    for _ in range(3 * TIMES):
        processes = [start_migration(old.url) for _ in range(3)]
        for process in processes:
            process.join(60)
        assert [process.exitcode for process in processes] == [0, 0, 0]
        database = Database(old.url)
        assert old.check(database)
        database.close()
        old.again()


def test_an_older_server_refuses_a_newer_schema_in_one_sentence_and_leaves_it(
    make_old: Callable[[str | None], Old],
) -> None:
    old = make_old(None)
    database = Database(old.url)
    database.migrate()
    with database.unit_of_work() as session:
        session.execute(sa.text("UPDATE alembic_version SET version_num = '9999_future'"))
    before = read_tables(database)
    with pytest.raises(Unavailable, match="9999_future") as refused:
        database.migrate()
    assert "upgrade" in refused.value.hint and read_tables(database) == before
    assert revision_of(database) == "9999_future"
    database.close()
