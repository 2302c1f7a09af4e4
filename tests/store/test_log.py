"""The rules by which a replica's log changes."""

from __future__ import annotations

import sqlite3
from typing import TYPE_CHECKING

import pytest
from store.log import (
    PAGE_BYTES,
    Append,
    BehindError,
    Entry,
    FencedError,
    LockedError,
    Log,
    Position,
    Standing,
    UsedError,
)

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path


@pytest.fixture
def log(tmp_path: Path) -> Iterator[Log]:
    """Open the log of a replica that is a member, and has nothing."""
    opened = made(tmp_path)
    yield opened
    opened.close()


def made(folder: Path, *, kept: int = 1000) -> Log:
    """Open a volume; a new one has been told that the others have nothing."""
    folder.mkdir(exist_ok=True)
    log = Log(folder, kept=kept)
    if not log.recovered:
        log.recover([Standing(promised=0, last=Position(0, 0), member=False)])
    return log


def append(token: int, previous: tuple[int, int], *entries: Entry, committed: int = 0, horizon: int = 0) -> Append:
    """Return what a leader with that token sends."""
    return Append(
        leader="s-0",
        token=token,
        previous=Position(*previous),
        entries=entries,
        committed=committed,
        horizon=horizon,
    )


def entry(sequence: int, token: int, value: str | None = "v", key: str = "k") -> Entry:
    """Return an entry."""
    return Entry(sequence, token, key, None if value is None else value.encode())


def contents(log: Log) -> list[tuple[int, int]]:
    """Return the sequence numbers and tokens that are in a log."""
    return [(one.sequence, one.token) for one in log.after(0)]


# -- Tokens --


def test_a_smaller_token_is_refused(log: Log) -> None:
    """Whoever has a smaller token than one that was promised can neither prepare, append, nor write as the leader."""
    log.promise(7)
    with pytest.raises(FencedError, match="7"):
        log.promise(6)
    with pytest.raises(FencedError):
        log.accept(append(6, (0, 0), entry(1, 6)))
    with pytest.raises(FencedError):
        log.add(6, [("k", b"v")])
    assert contents(log) == []


def test_an_append_promises_its_token(log: Log) -> None:
    """A replica that was not asked before takes a leader's entries, and refuses smaller tokens from then on."""
    log.accept(append(7, (0, 0), entry(1, 7)))
    with pytest.raises(FencedError):
        log.promise(6)


def test_a_leader_that_its_own_replica_refuses_writes_nothing(log: Log) -> None:
    """Once a replica has promised another leader's token, it adds nothing more for its own."""
    log.promise(5)
    log.add(5, [(None, None)])
    log.accept(append(9, (5, 1)))
    with pytest.raises(FencedError):
        log.add(5, [("k", b"v")])
    assert contents(log) == [(1, 5)]


def test_a_promise_outlives_the_process(tmp_path: Path) -> None:
    """What was promised, and what was stored, is there after a restart."""
    log = made(tmp_path)
    log.promise(5)
    log.add(5, [("k", b"v"), ("k", None)])
    log.promise(8)
    log.close()
    again = Log(tmp_path, kept=1000)
    assert again.standing == Standing(promised=8, last=Position(5, 2), member=True)
    again.close()


# -- Joining on --


def test_entries_join_on_to_the_same_entry_only(log: Log) -> None:
    """Entries are stored after the leader's own previous entry; after another's, or after a gap, they are not."""
    log.accept(append(5, (0, 0), entry(1, 5), entry(2, 5)))
    for previous in ((4, 2), (5, 3), (0, 3)):
        with pytest.raises(BehindError):
            log.accept(append(6, previous, entry(previous[1] + 1, 6)))
    log.accept(append(6, (5, 2), entry(3, 6)))
    assert contents(log) == [(1, 5), (2, 5), (3, 6)]


def test_a_late_message_takes_nothing_away(log: Log) -> None:
    """A message that comes again after later ones leaves what those brought."""
    first = append(5, (0, 0), entry(1, 5), entry(2, 5))
    log.accept(first)
    log.accept(append(5, (5, 2), entry(3, 5)))
    log.accept(first)
    assert contents(log) == [(1, 5), (2, 5), (3, 5)]


def test_what_contradicts_the_leader_goes(log: Log) -> None:
    """Entries that were never committed make room for those of a later leader, with all that follow them."""
    log.accept(append(5, (0, 0), entry(1, 5), entry(2, 5), entry(3, 5), committed=1))
    log.accept(append(6, (5, 1), entry(2, 6, "new"), committed=2))
    assert contents(log) == [(1, 5), (2, 6)]
    assert log.read("k") == (b"new", 2)


def test_only_what_joins_is_committed(log: Log) -> None:
    """A leader's word that more is committed counts only up to where this log is known to be the leader's."""
    log.accept(append(5, (0, 0), entry(1, 5), entry(2, 5), entry(3, 5)))
    log.accept(append(6, (5, 1), committed=3))
    assert log.committed == 1


def test_reads_show_what_is_committed(log: Log) -> None:
    """A value is read once it is committed, with its sequence number; a deleted key has none."""
    log.accept(append(5, (0, 0), entry(1, 5, "a"), entry(2, 5, "b"), entry(3, 5, None), committed=1))
    assert log.read("k") == (b"a", 1)
    log.commit(2)
    assert log.read("k") == (b"b", 2)
    log.commit(3)
    assert log.read("k") is None
    assert log.read("other") is None


# -- Old entries, and copies --


def filled(folder: Path, *, kept: int = 2) -> Log:
    """Return a log with a horizon: two keys, one overwritten often, and one deleted."""
    log = made(folder, kept=kept)
    log.promise(5)
    log.add(5, [(None, None), ("gone", b"x"), ("gone", None)])
    for number in range(4, 12):
        log.add(5, [("k", str(number).encode())])
        log.commit(number)
    return log


def test_old_entries_go_and_values_stay(tmp_path: Path) -> None:
    """Below the horizon the last value of a key is left, and neither deletions nor what they deleted."""
    log = filled(tmp_path)
    assert log.horizon > 3
    assert [one for one in log.after(0) if one.key != "k"] == []
    assert log.read("k") == (b"11", 11)
    assert len(contents(log)) < 8
    log.close()


def test_nothing_goes_while_it_is_copied(tmp_path: Path) -> None:
    """A log that is being copied keeps everything until that is over."""
    log = made(tmp_path, kept=1)
    log.copies = 1
    log.promise(5)
    for number in range(1, 9):
        log.add(5, [("k", b"v")])
        log.commit(number)
    assert len(contents(log)) == 8
    log.copies = 0
    log.add(5, [("k", b"v")])
    assert len(contents(log)) < 8
    log.close()


def test_who_lacks_what_is_gone_is_behind(log: Log) -> None:
    """Entries from beyond a gap are not stored, whether the leader still has the one before them or not."""
    log.accept(append(5, (0, 0), entry(1, 5), committed=1))
    for previous in ((0, 8), (0, 1)):
        with pytest.raises(BehindError) as behind:
            log.accept(append(5, previous, entry(previous[1] + 1, 5), committed=8, horizon=8))
        assert behind.value.committed == 1
    assert contents(log) == [(1, 5)]


def test_a_copy_replaces_what_follows(tmp_path: Path, log: Log) -> None:
    """A copy of a log with gaps makes another one the same, deletions included."""
    source = filled(tmp_path / "source")
    log.accept(append(4, (0, 0), entry(1, 4, "old", "gone"), entry(2, 4, "old"), committed=1))
    log.promise(5)
    log.receive(5, None)
    log.receive(5, source.after(0))
    log.replace(5, after=0, committed=source.committed, horizon=source.horizon)
    assert contents(log) == contents(source)
    assert (log.read("gone"), log.read("k")) == (None, (b"11", 11))
    assert (log.last, log.horizon) == (source.last, source.horizon)
    source.close()


def test_a_copy_that_is_overtaken_changes_nothing(log: Log) -> None:
    """What was copied for one leader is dropped when another one was promised meanwhile."""
    log.accept(append(5, (0, 0), entry(1, 5)))
    log.receive(5, None)
    log.receive(5, [entry(1, 3)])
    log.promise(6)
    with pytest.raises(FencedError):
        log.replace(5, after=0, committed=1, horizon=0)
    with pytest.raises(FencedError):
        log.receive(5, [entry(2, 3)])
    assert contents(log) == [(1, 5)]


def test_a_copy_takes_back_nothing_that_was_sent_meanwhile(log: Log) -> None:
    """A log that has come further than the copy while it was copied keeps what it said that it has."""
    log.promise(5)
    log.receive(5, None)
    log.receive(5, [entry(1, 5), entry(2, 5)])
    log.accept(append(5, (0, 0), entry(1, 5), entry(2, 5), entry(3, 5), committed=3))
    log.replace(5, after=0, committed=2, horizon=0)
    assert contents(log) == [(1, 5), (2, 5), (3, 5)]
    assert log.read("k") == (b"v", 3)


def test_a_copy_begins_empty(log: Log) -> None:
    """What is left of a copy that was broken off is in no later one."""
    log.promise(5)
    log.receive(5, None)
    log.receive(5, [entry(1, 3), entry(2, 3)])
    log.receive(5, None)
    log.receive(5, [entry(1, 4)])
    log.replace(5, after=0, committed=1, horizon=0)
    assert contents(log) == [(1, 4)]


def test_a_page_ends_with_the_entry_that_makes_it_large(log: Log) -> None:
    """What is sent at once has its limit in bytes as well, and always at least one entry; the next page goes on."""
    log.promise(5)
    log.add(5, [("k", bytes(PAGE_BYTES // 2)), ("k", bytes(PAGE_BYTES)), ("k", b"v")])
    assert [one.sequence for one in log.after(0)] == [1, 2]
    assert [one.sequence for one in log.after(1)] == [2]
    assert [one.sequence for one in log.after(2)] == [3]


# -- New volumes, and disks that fail --


def test_a_new_volume_is_a_member_when_it_is_where_the_others_were(tmp_path: Path) -> None:
    """It keeps a promise that was made in its place, and counts when it has been as far as those who know."""
    log = Log(tmp_path, kept=1000)
    assert not log.member
    log.recover(
        [Standing(promised=7, last=Position(5, 2), member=True), Standing(promised=6, last=Position(5, 1), member=True)]
    )
    with pytest.raises(FencedError):
        log.promise(6)
    log.accept(append(7, (0, 0), entry(1, 5), committed=1))
    assert not log.member
    log.accept(append(7, (5, 1), entry(2, 5), committed=1))
    assert log.member
    log.close()


def test_a_new_volume_never_writes_with_a_token_that_the_lost_one_may_have_led_with(tmp_path: Path) -> None:
    """What the lost volume sent may still arrive: with the same token and number, nobody could tell it apart."""
    log = Log(tmp_path, kept=1000)
    log.recover([Standing(promised=7, last=Position(5, 2), member=True)])
    log.promise(7)
    with pytest.raises(UsedError, match="token 7"):
        log.add(7, [(None, None)])
    log.close()
    log = Log(tmp_path, kept=1000)
    with pytest.raises(UsedError):
        log.add(7, [(None, None)])
    log.promise(8)
    assert [one.token for one in log.add(8, [(None, None)])] == [8]
    log.close()


def test_one_process_has_a_volume(tmp_path: Path, log: Log) -> None:
    """A second process is turned away."""
    assert log.recovered
    with pytest.raises(LockedError, match=str(tmp_path)):
        Log(tmp_path, kept=1000)


def test_a_write_that_fails_leaves_all_as_it_was(log: Log) -> None:
    """When the disk does not take a write, the log, the promise and the position are what they were."""
    log.promise(5)
    log.add(5, [("k", b"v")])
    pages = log._writing.execute("PRAGMA page_count").fetchone()[0]
    log._writing.execute(f"PRAGMA max_page_count = {pages}")
    with pytest.raises(sqlite3.Error):
        log.add(5, [("k", bytes(2**20))])
    with pytest.raises(sqlite3.Error):
        log.accept(append(5, (5, 1), Entry(2, 5, "k", bytes(2**20)), committed=2))
    log._writing.execute(f"PRAGMA max_page_count = {2**30}")
    assert (contents(log), log.last, log.promised, log.committed) == ([(1, 5)], Position(5, 1), 5, 0)
    assert [one.sequence for one in log.add(5, [("k", b"w")])] == [2]
