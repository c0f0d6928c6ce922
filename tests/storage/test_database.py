"""The unit of work and the migrations, on both databases."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import inspect, text

from tests.conftest import postgres_database
from tunesmith.core.errors import Unavailable
from tunesmith.storage.database import MIGRATIONS, SAFE_WAL, Database, after_commit
from tunesmith.storage.tables import Base


@pytest.fixture
def postgres_url(postgres_server: str) -> Iterator[str]:
    """A database without tables: here the migrations themselves are looked at."""
    with postgres_database(postgres_server) as (_, url):
        yield url


@pytest.fixture
def url(database_url: str | None, tmp_path: Path) -> str:
    if database_url is None:
        return f"sqlite:///{tmp_path / 'tunesmith.db'}"
    return database_url.replace("postgresql://", "postgresql+psycopg://")


@pytest.fixture
def database(url: str) -> Iterator[Database]:
    found = Database(url)
    yield found
    found.close()


def test_a_unit_of_work_is_all_or_nothing(database: Database) -> None:
    calls: list[str] = []
    with database.unit_of_work() as session:
        session.execute(text("CREATE TABLE t (n INTEGER)"))
    with pytest.raises(ZeroDivisionError), database.unit_of_work() as session:
        session.execute(text("INSERT INTO t VALUES (1)"))
        after_commit(session, lambda: calls.append("rolled back"))
        _ = 1 / 0
    with database.unit_of_work() as session:
        session.execute(text("INSERT INTO t VALUES (2)"))
        after_commit(session, lambda: calls.append("committed"))
    with database.unit_of_work(readonly=True) as session:
        assert list(session.scalars(text("SELECT n FROM t"))) == [2]
    assert calls == ["committed"]


def test_sqlite_is_set_up_to_lose_nothing(tmp_path: Path) -> None:
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with database.unit_of_work() as session:
        mode = session.scalar(text("PRAGMA journal_mode"))
        version = tuple(int(n) for n in str(session.scalar(text("SELECT sqlite_version()"))).split("."))
        assert session.scalar(text("PRAGMA synchronous")) == 3 and session.scalar(text("PRAGMA foreign_keys")) == 1
    assert mode == ("wal" if version >= SAFE_WAL else "delete")


def test_migrations_are_named_after_their_files() -> None:
    """`migrate` takes the last file's name for the newest revision."""
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    newest_first = [script.revision for script in ScriptDirectory.from_config(config).walk_revisions()]
    assert newest_first[::-1] == sorted(path.stem for path in (MIGRATIONS / "versions").glob("[0-9]*.py"))


def test_migrations_make_the_tables_that_the_code_has(database: Database) -> None:
    import tunesmith.app  # noqa: F401  — so that every table is known

    database.migrate()
    database.migrate()
    found = inspect(database.engine)
    for table in Base.metadata.sorted_tables:
        columns = {column["name"]: column for column in found.get_columns(table.name)}
        assert set(columns) == {column.name for column in table.columns}, table.name
        for column in table.columns:
            assert columns[column.name]["nullable"] == bool(column.nullable), f"{table.name}.{column.name}"
        if database.is_sqlite:  # SQLAlchemy's inspector leaves out indexes on expressions there
            with database.unit_of_work() as session:
                names = text("SELECT name FROM sqlite_master WHERE type = 'index' AND tbl_name = :table")
                indexes = set(session.scalars(names, {"table": table.name}))
        else:
            indexes = {index["name"] for index in found.get_indexes(table.name)}
        assert {index.name for index in table.indexes} <= indexes, table.name


def test_one_server_at_a_time_on_a_sqlite_file(tmp_path: Path) -> None:
    first, second = (Database(f"sqlite:///{tmp_path / 'x.db'}") for _ in range(2))
    first.take_process_lock()
    with pytest.raises(Unavailable, match="Another Tunesmith"):
        second.take_process_lock()
    first.close()
    second.take_process_lock()
    second.close()


def test_of_many_that_write_to_sqlite_none_loses_the_lottery(tmp_path: Path) -> None:
    """Each comes to its turn about as often as the others."""
    database = Database(f"sqlite:///{tmp_path / 'x.db'}")
    with database.unit_of_work() as session:
        session.execute(text("CREATE TABLE t (n INTEGER)"))
    counts, until_s = Counter[int](), time.monotonic() + 3

    def write(number: int) -> None:
        while time.monotonic() < until_s:
            with database.unit_of_work() as session:
                session.execute(text("INSERT INTO t VALUES (1)"))
                time.sleep(0.005)
            counts[number] += 1

    with ThreadPoolExecutor(12) as pool:
        list(pool.map(write, range(12)))
    database.close()
    assert min(counts[number] for number in range(12)) * 3 >= max(counts.values()), counts
