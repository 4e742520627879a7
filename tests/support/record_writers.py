"""Users who write to their own tables without a pause, in threads with connections of their own, and know nothing of
us. Owns the tables, and what is written to them at random; must not look at our own tables."""

from __future__ import annotations

import contextlib
import random
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

import psycopg

Connection = psycopg.Connection[tuple[Any, ...]]
_TEXT = (
    "title text NOT NULL, body text, is_active boolean NOT NULL DEFAULT true, seen integer NOT NULL DEFAULT 0"
)
# More rows than this, and rows are deleted more often than they are made.
MOST_ROWS = 400


@dataclass(frozen=True)
class Kind:
    """A table of a user's: how a number becomes a key, and what `embedmill table add` is told of it."""

    name: str
    made: str
    key_columns: tuple[str, ...]
    key: Callable[[int], tuple[object, ...]]
    condition: str | None = None
    truncates: tuple[str, ...] = ()

    @property
    def columns(self) -> str:
        return ", ".join(self.key_columns)

    @property
    def key_match(self) -> str:
        return " AND ".join(f"{column} = %s" for column in self.key_columns)


KINDS = (
    Kind(
        "storm_numbers",
        f"CREATE TABLE public.storm_numbers (id bigint PRIMARY KEY, {_TEXT})",
        ("id",),
        lambda n: (n,),
        truncates=("storm_numbers",),
    ),
    Kind(
        "storm_uuids",
        f"CREATE TABLE public.storm_uuids ({_TEXT}, id uuid PRIMARY KEY)",
        ("id",),
        lambda n: (UUID(int=n * 0x9E3779B97F4A7C15F39CC0605CEDC835 % 2**128),),
        truncates=("storm_uuids",),
    ),
    Kind(
        "storm_pairs",
        f"CREATE TABLE public.storm_pairs (shop text, number integer, {_TEXT}, PRIMARY KEY (shop, number))",
        ("shop", "number"),
        lambda n: (f'100% "{n % 3}"', n),
        condition="is_active",
        truncates=("storm_pairs",),
    ),
    Kind(
        "storm_parts",
        f"CREATE TABLE public.storm_parts (id bigint PRIMARY KEY, {_TEXT}) PARTITION BY RANGE (id);"
        "CREATE TABLE public.storm_parts_low PARTITION OF public.storm_parts FOR VALUES FROM (0) TO (1000);"
        "CREATE TABLE public.storm_parts_high PARTITION OF public.storm_parts DEFAULT",
        ("id",),
        lambda n: (n,),
        truncates=("storm_parts", "storm_parts_low"),
    ),
)


@dataclass
class Writer:
    """One user. `written`: rows whose text may have been embedded, committed or not."""

    url: str
    chance: random.Random
    kinds: Sequence[Kind] = KINDS
    written: int = 0
    acts: dict[str, int] = field(default_factory=dict)
    error: BaseException | None = None

    def run(self, stop: threading.Event) -> None:
        """Until `stop` is set, also while the server is restarted. What fails otherwise stands in `error`."""
        try:
            while not stop.is_set():
                with contextlib.suppress(psycopg.OperationalError), psycopg.connect(self.url) as connection:
                    while not stop.is_set():
                        self._transact(connection)
                        time.sleep(self.chance.uniform(0.0, 0.06))
                time.sleep(0.05)
        except BaseException as error:  # noqa: BLE001 - the thread's; the test raises it
            self.error = error

    def _transact(self, connection: Connection) -> None:
        """A transaction of one act or several; some are rolled back, some last for a while."""
        acts = self.chance.choices([1, 3], [4, 1])[0]
        try:
            with connection.transaction():
                for _ in range(acts):
                    self._act(connection)
                    if acts > 1:
                        time.sleep(self.chance.choice([0.0, 0.0, 0.3]))
                if self.chance.random() < 0.15:
                    raise psycopg.Rollback
        except (psycopg.errors.UniqueViolation, psycopg.errors.DeadlockDetected):
            pass  # two users wanted the same row

    def _act(self, connection: Connection) -> None:
        kind = self.chance.choice(self.kinds)
        acts: dict[Callable[[Connection, Kind], None], float] = {
            self._insert: 5,
            self._copy: 1,
            self._edit: 6,
            self._look: 3,
            self._delete: 2,
            self._change_keys: 1.5,
            self._upsert: 3,
            self._replace: 1.5,
            self._switch: 1.5,
            self._undo_a_part: 1.5,
            self._truncate: 0.15,
        }
        act = self.chance.choices(list(acts), list(acts.values()))[0]
        self.acts[act.__name__[1:]] = self.acts.get(act.__name__[1:], 0) + 1
        act(connection, kind)

    # What may be done to a table ---------------------------------------------------------------------------

    def _insert(self, connection: Connection, kind: Kind) -> None:
        rows = [self._row(kind, self._number()) for _ in range(self.chance.randint(1, 5))]
        values = ", ".join(["(" + ", ".join(["%s"] * len(rows[0])) + ")"] * len(rows))
        connection.execute(
            f"INSERT INTO {kind.name} ({kind.columns}, title, body, is_active) VALUES {values} "
            "ON CONFLICT DO NOTHING".encode(),
            [value for row in rows for value in row],
        )

    def _copy(self, connection: Connection, kind: Kind) -> None:
        if self._is_full(connection, kind):
            self._delete(connection, kind)
            return
        first = self.chance.randint(2_000, 2**31 - 1000)
        copy_in = f"COPY {kind.name} ({kind.columns}, title, body, is_active) FROM STDIN"
        with connection.cursor() as cursor, cursor.copy(copy_in.encode()) as copy:
            for number in range(first, first + self.chance.randint(20, 120)):
                copy.write_row(self._row(kind, number))

    def _edit(self, connection: Connection, kind: Kind) -> None:
        if key := self._key(connection, kind):
            connection.execute(
                f"UPDATE {kind.name} SET body = %s WHERE {kind.key_match}".encode(), (self._text(), *key)
            )

    def _look(self, connection: Connection, kind: Kind) -> None:
        """Something that nobody embeds."""
        connection.execute(
            f"UPDATE {kind.name} SET seen = seen + 1 WHERE length(title) %% 3 = %s".encode(),
            (self.chance.randint(0, 2),),
        )

    def _delete(self, connection: Connection, kind: Kind) -> None:
        share = 0.5 if self._is_full(connection, kind) else 0.03
        connection.execute(f"DELETE FROM {kind.name} WHERE random() < %s".encode(), (share,))

    def _change_keys(self, connection: Connection, kind: Kind) -> None:
        if key := self._key(connection, kind):
            self.written += 1
            connection.execute(
                f"UPDATE {kind.name} SET ({kind.columns}) = ROW ({', '.join(['%s'] * len(key))}) "
                f"WHERE {kind.key_match}".encode(),
                (*kind.key(self._number()), *key),
            )

    def _upsert(self, connection: Connection, kind: Kind) -> None:
        for _ in range(2):
            row = self._row(kind, self._number())
            connection.execute(
                f"INSERT INTO {kind.name} ({kind.columns}, title, body, is_active) "
                f"VALUES ({', '.join(['%s'] * len(row))}) ON CONFLICT ({kind.columns}) DO UPDATE "
                "SET title = excluded.title, body = excluded.body".encode(),
                row,
            )

    def _replace(self, connection: Connection, kind: Kind) -> None:
        """A row goes, and another comes under the same key."""
        if key := self._key(connection, kind):
            connection.execute(f"DELETE FROM {kind.name} WHERE {kind.key_match}".encode(), key)
            connection.execute(
                f"INSERT INTO {kind.name} ({kind.columns}, title, body) VALUES ({', '.join(['%s'] * (len(key) + 2))})"
                " ON CONFLICT DO NOTHING".encode(),
                (*key, *self._texts()),
            )

    def _switch(self, connection: Connection, kind: Kind) -> None:
        """Rows begin or cease to count, where that is asked for."""
        if key := self._key(connection, kind):
            self.written += 1
            connection.execute(
                f"UPDATE {kind.name} SET is_active = NOT is_active WHERE {kind.key_match}".encode(), key
            )

    def _undo_a_part(self, connection: Connection, kind: Kind) -> None:
        self._edit(connection, kind)
        with connection.transaction(force_rollback=True):
            self._insert(connection, kind)
            self._delete(connection, kind)
        self._edit(connection, kind)

    def _truncate(self, connection: Connection, kind: Kind) -> None:
        connection.execute(f"TRUNCATE {self.chance.choice(kind.truncates)}".encode())

    # -------------------------------------------------------------------------------------------------------

    def _number(self) -> int:
        return self.chance.randint(1, 2_000)

    def _text(self) -> str | None:
        """One that stands nowhere else, or sometimes none."""
        self.written += 1
        return None if self.chance.random() < 0.05 else f"a text {self.chance.getrandbits(64):x}"

    def _texts(self) -> tuple[str, str | None]:
        body = self._text()
        return ("  " if self.chance.random() < 0.05 else f"Title {self.chance.getrandbits(32):x}"), body

    def _row(self, kind: Kind, number: int) -> tuple[object, ...]:
        return (*kind.key(number), *self._texts(), self.chance.random() < 0.8)

    def _key(self, connection: Connection, kind: Kind) -> tuple[object, ...] | None:
        return connection.execute(
            f"SELECT {kind.columns} FROM {kind.name} ORDER BY random() LIMIT 1".encode()
        ).fetchone()

    def _is_full(self, connection: Connection, kind: Kind) -> bool:
        row = connection.execute(f"SELECT count(*) FROM {kind.name}".encode()).fetchone()
        return row is not None and row[0] > MOST_ROWS


@contextlib.contextmanager
def writing(url: str, chance: random.Random, *, users: int = 3) -> Iterator[list[Writer]]:
    """Users at their work, as long as the block lasts; what one of them fails with is raised."""
    stop = threading.Event()
    writers = [Writer(url, random.Random(chance.getrandbits(64))) for _ in range(users)]
    threads = [threading.Thread(target=writer.run, args=(stop,)) for writer in writers]
    for thread in threads:
        thread.start()
    try:
        yield writers
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    for writer in writers:
        if writer.error is not None:
            raise writer.error
