"""The names of a store in SQLite: which row of which shard holds an adapter. No JAX.

A write is one transaction. A row that a name has is never written to. A row that no name has any
more is free after that transaction, and not within it: if the process dies, the name still has it.
"""

import contextlib
import sqlite3
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

FILE = "index.sqlite"
_WAIT = 60.0
"""Seconds for another process's transaction."""
_SCHEMA = """
CREATE TABLE names (
    name TEXT PRIMARY KEY, row INTEGER NOT NULL UNIQUE, version INTEGER NOT NULL,
    checksum BLOB NOT NULL
) WITHOUT ROWID;
CREATE TABLE free (row INTEGER PRIMARY KEY);
CREATE TABLE counters (rows INTEGER NOT NULL, versions INTEGER NOT NULL);
INSERT INTO counters VALUES (0, 0);
"""


class Row(NamedTuple):
    """Where an adapter is: ``number`` counts the rows of all shards; versions are never reused."""

    number: int
    version: int
    checksum: bytes


class Index:
    """The names of a store. Threads may share one, one call at a time.

    Args:
        file: of the index, which is there.

    Raises:
        ValueError: when the file is damaged.
    """

    def __init__(self, file: Path) -> None:
        self._file = file
        self._freed: list[int] = []
        with self._errors():
            uri = f"{file.absolute().as_uri()}?mode=rw"
            self._database = sqlite3.connect(
                uri, timeout=_WAIT, uri=True, isolation_level=None, check_same_thread=False
            )
            self._database.execute("PRAGMA synchronous=FULL")
            self._database.execute("SELECT rows FROM counters").fetchone()

    def close(self) -> None:
        """Let go of the file."""
        self._database.close()

    def find(self, name: str) -> Row | None:
        """Where a name is."""
        row = self._one("SELECT row, version, checksum FROM names WHERE name = ?", name)
        return row and Row(*row)

    def count(self) -> int:
        """Of the names."""
        return int(self._one("SELECT count(*) FROM names")[0])

    def after(self, name: str, most: int) -> list[str]:
        """The names behind one in their order, which is that of their characters."""
        with self._errors():
            rows = self._database.execute(
                "SELECT name FROM names WHERE name > ? ORDER BY name LIMIT ?", (name, most)
            )
            return [name for (name,) in rows]

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """A transaction that no other process writes in. After an error it has not been.

        Raises:
            TimeoutError: when another process writes for too long.
        """
        with self._errors():
            self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            for number in self._freed:
                self._run("INSERT INTO free VALUES (?)", number)
            self._run("COMMIT")
        except BaseException:
            with contextlib.suppress(sqlite3.Error):
                self._database.execute("ROLLBACK")
            raise
        finally:
            self._freed = []

    def take_row(self) -> tuple[int, int]:
        """A row number that no name has, and a version that none had. Within :meth:`writing`."""
        rows, versions = self._one("SELECT rows, versions FROM counters")
        free = self._one("SELECT min(row) FROM free")[0]
        if free is None:
            free, rows = rows, rows + 1
        else:
            self._run("DELETE FROM free WHERE row = ?", free)
        self._run("UPDATE counters SET rows = ?, versions = ?", rows, versions + 1)
        return free, versions + 1

    def put(self, name: str, found: Row) -> None:
        """Let a name be at a row from the end of the transaction on. Within :meth:`writing`."""
        self.remove(name)
        self._run("INSERT INTO names VALUES (?, ?, ?, ?)", name, *found)

    def remove(self, name: str) -> bool:
        """Take a name out, and say whether it was there. Within :meth:`writing`."""
        if (known := self.find(name)) is None:
            return False
        self._run("DELETE FROM names WHERE name = ?", name)
        self._freed.append(known.number)
        return True

    def _one(self, statement: str, *values: object) -> Any:
        with self._errors():
            return self._database.execute(statement, values).fetchone()

    def _run(self, statement: str, *values: object) -> None:
        with self._errors():
            self._database.execute(statement, values)

    @contextlib.contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED):
                raise TimeoutError(
                    f"another process writes to {self._file} for more than {_WAIT:g} s; try again"
                ) from None
            raise OSError(f"{self._file}: {error}; make room, or see to its permissions") from None
        except sqlite3.DatabaseError as error:
            raise ValueError(
                f"{self._file} is damaged ({error}); restore it, or import the adapters again"
            ) from None


@contextlib.contextmanager
def naming(directory: Path) -> Iterator[None]:
    """Let an error of the system, such as of a full disk, name a store and what to do.

    Raises:
        OSError: with the same number.
    """
    try:
        yield
    except OSError as error:
        message = f"{error.strerror} in the store {directory}, which is as it was; make room, and "
        raise OSError(error.errno, f"{message}put again") from error


def make(file: Path) -> None:
    """Write an index without names."""
    with contextlib.closing(sqlite3.connect(file, isolation_level=None)) as database:
        database.executescript(f"PRAGMA synchronous=FULL; BEGIN; {_SCHEMA} COMMIT;")
