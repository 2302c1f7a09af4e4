"""What one replica has on its disk, and the rules by which that may change. It knows no network, no clock, no tasks.

The rules are Raft's (Ongaro and Ousterhout, 2014), with one difference: who leads is not voted for here. The sidecar
says so, and its fencing token takes the place of Raft's term.

The log is the database: the value of a key is that of its last committed entry. So a replica that was away for so long
that its gap is no longer in the log is sent what is left of the log, and that is the snapshot.
"""

from __future__ import annotations

import fcntl
import sqlite3
import threading
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from itertools import dropwhile
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence
    from pathlib import Path

PAGE_ENTRIES = 128
"""Entries that are read, and sent, at once, at the most."""

PAGE_BYTES = 1024 * 1024
"""Of values, after which no further entry is read, or sent, with them: what a slow network carries in its time."""


class Entry(NamedTuple):
    """One write. Without a key it stores nothing and begins a term; without a value it deletes the key."""

    sequence: int
    token: int
    key: str | None
    value: bytes | None


class Position(NamedTuple):
    """Where a log ends. The greatest position in a majority has everything that was ever acknowledged before it."""

    token: int
    sequence: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Append:
    """What a leader sends to its followers."""

    leader: str
    token: int
    previous: Position
    """Of the entry before the first of `entries`: a log that has it has the leader's entries before it as well."""
    entries: Sequence[Entry]
    committed: int
    """The sequence number up to which a majority has everything."""
    horizon: int
    """The sequence number up to which the leader's log has gaps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a replica tells others of itself."""

    promised: int
    last: Position
    member: bool


class FencedError(Exception):
    """A leader with a greater token was seen: this one must not write any more."""

    def __init__(self, promised: int) -> None:
        super().__init__(f"a leader with the fencing token {promised} was seen")
        self.promised = promised


class BehindError(Exception):
    """The entries do not join on to this log. Up to `committed` it has what every leader has."""

    def __init__(self, committed: int) -> None:
        super().__init__(f"nothing is known to be right after entry {committed}")
        self.committed = committed


class UsedError(Exception):
    """A leader with this token may have written to a volume that was lost in the place of this one."""

    def __init__(self, token: int) -> None:
        super().__init__(f"the volume that was lost here may have been a leader's with the fencing token {token}")


class LockedError(Exception):
    """Another process has this volume open."""


class Log:
    """One replica's volume. What a method wrote is on the disk when it returns; what fails leaves it as it was.

    Methods that write raise sqlite3.Error when the disk does not take it. They may be called in another thread than
    the others, one at a time.
    """

    def __init__(self, folder: Path, *, kept: int) -> None:
        """Open the volume. `kept` entries at least stay in the log for those who were away. Raises LockedError."""
        self._kept = kept
        self._held = (folder / "lock").open("w")
        try:
            fcntl.flock(self._held, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            self._held.close()
            raise LockedError(f"another process has {folder} open") from error
        self._writing = _connection(folder / "store.sqlite")
        self._writing.executescript(_TABLES)
        self._reading = _connection(folder / "store.sqlite")
        self._lock = threading.RLock()
        row = self._writing.execute("SELECT * FROM state").fetchone()
        self.promised: int = row["promised"]
        """The greatest token seen. Whoever has a smaller one is refused. It changes before anything that a leader with
        a greater one changes: who reads something, and then finds this as it was, has read what was there before."""
        self.committed: int = row["committed"]
        """Up to here entries are on a majority of disks, and never change again. What is on the disk may lag behind."""
        self.horizon: int = row["horizon"]
        """Up to here only the last entry of each key is left, and no deletion."""
        self.recovered = bool(row["recovered"])
        """Whether this volume knows what one that was lost in its place may have promised."""
        self.used: int = row["used"]
        """The greatest token that may have been led with from a volume that was lost in the place of this one."""
        self._target = Position(row["target_token"], row["target_sequence"])
        self.last = self._end()
        """Where this log ends."""
        self.member = self.recovered and self.last >= self._target
        """Whether this volume has whatever one that was lost in its place had: only then it counts in a majority."""
        self.copies = 0
        """How many are copying this log: nothing is dropped from it meanwhile."""

    def close(self) -> None:
        """Let go of the volume."""
        self._reading.close()
        self._writing.close()
        self._held.close()

    # -- What may be asked at any time --

    @property
    def standing(self) -> Standing:
        """What others are told."""
        return Standing(promised=self.promised, last=self.last, member=self.member)

    def read(self, key: str) -> tuple[bytes, int] | None:
        """Return a key's committed value, and the sequence number of the write that stored it; None without one."""
        with self._lock:
            found = self._reading.execute(
                "SELECT value, sequence FROM entries WHERE key = ? AND sequence <= ? ORDER BY sequence DESC LIMIT 1",
                (key, self.committed),
            ).fetchone()
        return None if found is None or found["value"] is None else (found["value"], found["sequence"])

    def after(self, sequence: int) -> list[Entry]:
        """Return the entries that follow a sequence number, a page of them at the most."""
        page: list[Entry] = []
        size = 0
        query = "SELECT sequence, token, key, value FROM entries WHERE sequence > ? ORDER BY sequence LIMIT ?"
        with closing(self._reading.execute(query, (sequence, PAGE_ENTRIES))) as found:
            for row in found:
                page.append(Entry(*row))
                size += len(page[-1].value or b"")
                if size >= PAGE_BYTES:
                    break
        return page

    def position(self, sequence: int) -> Position:
        """Return the position of a log that ends at that entry; its token is 0 where this log does not have it."""
        return Position(_token(self._reading, sequence), sequence)

    def commit(self, sequence: int) -> None:
        """Take note that a majority has everything up to there. It is on the disk with the next write."""
        with self._lock:
            self.committed = max(self.committed, sequence)

    # -- A new volume --

    def recover(self, others: Sequence[Standing]) -> None:
        """Learn from others what a volume that was lost in the place of this one may have promised and had.

        They have to be all the others: a majority may be without the leader, which still counts what the lost volume
        said that it has (so Viewstamped Replication asks the primary as well; Liskov and Cowling, 2012, section 4.3).
        From where the furthest of them is, this is a member.
        """
        with self._transaction():
            self.promised = self.used = max([self.promised, *(one.promised for one in others)])
            self._target = max([self.last, *(one.last for one in others)])
            self.recovered = True

    # -- What a leader does with its own --

    def promise(self, token: int) -> Standing:
        """Refuse from now on whoever has a smaller token; return where this log ends. Raises FencedError."""
        if token < self.promised:
            raise FencedError(self.promised)
        if token > self.promised:
            with self._transaction():
                self.promised = token
        return self.standing

    def add(self, token: int, writes: Iterable[tuple[str | None, bytes | None]]) -> list[Entry]:
        """Append writes in their order, as the leader with this token. Raises FencedError and UsedError."""
        if token != self.promised:
            raise FencedError(self.promised)
        # An entry is known by its number and token: what was sent before the volume was lost may still arrive.
        if token <= self.used:
            raise UsedError(token)
        entries = [Entry(self.last.sequence + n, token, key, value) for n, (key, value) in enumerate(writes, 1)]
        with self._transaction():
            self._insert("entries", entries)
        return entries

    # -- What a follower does when it is told to --

    def accept(self, append: Append) -> None:
        """Store what a leader sends. Raises FencedError, and BehindError where it does not join on.

        What is there already stays: a request that comes late, or twice, takes nothing away. What contradicts the
        leader's entries was never committed, and makes room with all that follows it.
        """
        self.promise(append.token)
        previous = append.previous
        if max(previous.sequence, self.committed) < append.horizon:
            raise BehindError(self.committed)
        # A token of 0: the leader itself has no such entry any more.
        held = _token(self._writing, previous.sequence)
        if previous.sequence > self.committed and (held != previous.token or not held):
            raise BehindError(self.committed)
        fresh = list(dropwhile(self._has, append.entries))
        if fresh:
            with self._transaction():
                self._writing.execute("DELETE FROM entries WHERE sequence >= ?", (fresh[0].sequence,))
                self._insert("entries", fresh)
        joined = append.entries[-1].sequence if append.entries else previous.sequence
        self.commit(min(append.committed, joined))

    def receive(self, token: int, entries: Sequence[Entry] | None) -> None:
        """Put a page of another replica's log aside; None before the first one. Raises FencedError as `replace`."""
        if token != self.promised:
            raise FencedError(self.promised)
        with self._transaction():
            if entries is None:
                self._writing.execute("DELETE FROM incoming")
            else:
                self._insert("incoming", entries)

    def replace(self, token: int, *, after: int, committed: int, horizon: int) -> None:
        """Replace everything after an entry by what was received from a replica that promised the same token.

        Nothing is done where this log has come as far in the meantime: what it was sent meanwhile, and said that it
        has, is not in the copy. Raises FencedError when this one has promised another since.
        """
        if token != self.promised:
            raise FencedError(self.promised)
        if self._end("incoming") <= self.last:
            return
        with self._transaction(committed=committed):
            self._writing.execute("DELETE FROM entries WHERE sequence > ?", (after,))
            self._writing.execute("INSERT INTO entries SELECT * FROM incoming")
            self._writing.execute("DELETE FROM incoming")
            self.horizon = max(self.horizon, horizon)

    # -- How --

    @contextmanager
    def _transaction(self, *, committed: int = 0) -> Iterator[None]:
        """All or nothing, also of what is kept in memory; on the disk at the end of the block."""
        before = self.promised, self.horizon, self.recovered, self.used, self._target
        self._writing.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._compact()
            self._writing.execute(
                "UPDATE state SET promised = ?, committed = ?, horizon = ?, recovered = ?, used = ?, target_token = ?,"
                " target_sequence = ?",
                (self.promised, max(self.committed, committed), self.horizon, self.recovered, self.used, *self._target),
            )
            # Where older values of a key go, nobody may look for them: what is left, and up to where it is committed,
            # are seen at once. Readers do not wait for any other write.
            with self._lock if committed or self.horizon != before[1] else nullcontext():
                self._writing.execute("COMMIT")
                self.commit(committed)
        except BaseException:
            self.promised, self.horizon, self.recovered, self.used, self._target = before
            if self._writing.in_transaction:
                self._writing.execute("ROLLBACK")
            raise
        self.last = self._end()
        self.member = self.member or (self.recovered and self.last >= self._target)

    def _compact(self) -> None:
        """Drop what was committed long ago and means nothing any more: overwritten values, deletions, begun terms."""
        committed = self.committed
        if self.copies or committed - self.horizon < 2 * self._kept:
            return
        span = {"old": self.horizon, "new": committed - self._kept}
        self._writing.execute("DELETE FROM entries WHERE key IS NULL AND sequence > :old AND sequence <= :new", span)
        self._writing.execute(_COMPACT, span)
        self.horizon = span["new"]

    def _insert(self, table: str, entries: Sequence[Entry]) -> None:
        self._writing.executemany(f"INSERT INTO {table} VALUES (?, ?, ?, ?)", entries)  # noqa: S608 - one of two tables

    def _has(self, entry: Entry) -> bool:
        return entry.sequence <= self.committed or _token(self._writing, entry.sequence) == entry.token

    def _end(self, table: str = "entries") -> Position:
        query = f"SELECT token, sequence FROM {table} ORDER BY sequence DESC LIMIT 1"  # noqa: S608 - one of two tables
        found = self._writing.execute(query).fetchone()
        return Position(*found) if found else Position(0, 0)


_TABLES = """
CREATE TABLE IF NOT EXISTS entries (sequence INTEGER PRIMARY KEY, token INTEGER NOT NULL, key TEXT, value BLOB);
CREATE INDEX IF NOT EXISTS by_key ON entries (key, sequence);
CREATE TABLE IF NOT EXISTS incoming (sequence INTEGER PRIMARY KEY, token INTEGER NOT NULL, key TEXT, value BLOB);
CREATE TABLE IF NOT EXISTS state (
  one INTEGER PRIMARY KEY CHECK (one = 1),
  promised INTEGER NOT NULL DEFAULT 0,
  committed INTEGER NOT NULL DEFAULT 0,
  horizon INTEGER NOT NULL DEFAULT 0,
  recovered INTEGER NOT NULL DEFAULT 0,
  used INTEGER NOT NULL DEFAULT 0,
  target_token INTEGER NOT NULL DEFAULT 0,
  target_sequence INTEGER NOT NULL DEFAULT 0);
INSERT OR IGNORE INTO state (one) VALUES (1);
"""

_COMPACT = """
DELETE FROM entries
WHERE key IN (SELECT key FROM entries WHERE sequence > :old AND sequence <= :new)
  AND sequence <= :new
  AND (value IS NULL OR EXISTS (
    SELECT 1 FROM entries AS later
    WHERE later.key = entries.key AND later.sequence > entries.sequence AND later.sequence <= :new))
"""


def _token(connection: sqlite3.Connection, sequence: int) -> int:
    found = connection.execute("SELECT token FROM entries WHERE sequence = ?", (sequence,)).fetchone()
    return found["token"] if found else 0


def _connection(path: Path) -> sqlite3.Connection:
    """Open the database for transactions that are begun by hand, and are on the disk when they end."""
    connection = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    return connection
