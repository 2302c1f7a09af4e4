"""When a candidate sends requests, and what times it writes."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.election import (
    Conflicted,
    Failed,
    Fetched,
    Read,
    Wait,
    WatchStarted,
    WatchStopped,
    Write,
    Written,
)
from tests.unit.player import DEADLINE, EPOCH, LEASE, RETRY, Player, follower, held, leader, lock, record, result

YEAR_2262 = 9_223_372_036
"""The last instant that Linux' clocks can show."""

LUCK = st.floats(0, 1, exclude_max=True)


# -- Renew times -------------------------------------------------------------------------------------------------------


@given(st.lists(st.integers(0, YEAR_2262), min_size=1, max_size=30))
def test_every_write_differs_from_the_one_before(walls: list[int]) -> None:
    """Whatever the time of day does (stands still, is set back, leaps), two records in a row are never the same.

    The API server drops an update that changes nothing, and followers count the lease from a change that they see.
    """
    player = Player()
    player.wall = walls[0]
    player.reads(None)
    previous = player.writes(1)
    for number, wall in enumerate(walls, start=1):
        player.wall = wall
        current = player.writes(1 + number, at=number * RETRY)
        assert current.text != previous.text
        assert player.leads
        previous = current


def test_several_writes_in_one_second_count_up() -> None:
    """Writes in one second carry seconds that run ahead a little, and no renewal steps back in time."""
    player = leader()
    player.wall = EPOCH
    times = [player.writes(2 + number, at=player.now + RETRY).text or "" for number in range(5)]
    assert times == sorted(times)
    assert len(set(times)) == 5


def test_resuming_within_the_second_of_the_last_renewal_differs_from_it() -> None:
    """A container that is back within a second writes another renew time than the one that it finds."""
    player = Player()
    found = held(5, "a", uid="uid-a")
    player.reads(found)
    assert player.writes(6).text != found.text


@pytest.mark.parametrize("back", [1, 62, 3600, 4_000_000_000])
def test_renew_times_never_come_again(back: int) -> None:
    """Set back or not, no clock brings a record back: who was cut off and saw it once would take it for unchanged."""
    player = leader()
    player.wall = EPOCH + 4_000_000_000
    before = [player.writes(2 + number, at=player.now + RETRY).text or "" for number in range(3)]
    player.wall -= back
    after = [player.writes(5 + number, at=player.now + RETRY).text or "" for number in range(3)]
    assert before + after == sorted({*before, *after})


def test_resuming_on_a_clock_that_was_set_back_goes_on_from_the_record() -> None:
    """The process before wrote records that others may have seen; the one that resumes writes later ones."""
    player = Player()
    player.wall = EPOCH
    found = held(5, "a", uid="uid-a", renewed=3600)
    player.reads(found)
    assert (player.writes(6).text or "") > (found.text or "")


def test_a_namesakes_renew_time_is_nobody_elses() -> None:
    """A hand wrote my name, and a time past which there is none: whoever takes over renews on its own clock.

    Renewals that could not grow any more would change nothing that others see, and they would take over.
    """
    text = record("a").encode().replace(record("a").renew_time, "9999-12-31T23:59:59Z")
    player = Player()
    player.happens(Fetched(lock(5, text), 0.0))
    player.happens(Fetched(lock(5, text), 2.0 * LEASE), at=2.0 * LEASE)
    texts = [player.writes(6 + number, at=2 * LEASE + number * RETRY).text for number in range(3)]
    assert len(set(texts)) == 3


def test_wall_clock_decides_nothing() -> None:
    """Leaps of the time of day end no lease and begin none: neither my own nor another's."""
    player = leader()
    player.wall = 0
    assert player.leads
    player = follower(held(5))
    player.wall = EPOCH + 10_000_000
    assert player.does(Wait).until >= LEASE
    assert player.names == "b"


# -- Failures: faster than the retry period, bounded, jittered ---------------------------------------------------------


@given(st.lists(st.tuples(st.sampled_from(["refused", "unknown", "conflict"]), LUCK), min_size=1, max_size=40))
def test_back_off_is_bounded(failures: list[tuple[str, float]]) -> None:
    """Between two attempts there is always a pause, and never more than half a retry period."""
    player = Player()
    for kind, luck in failures:
        player.does(Read)
        player.luck = luck
        player.happens(Conflicted() if kind == "conflict" else Failed(refused=kind == "refused"))
        wait = player.does(Wait)
        assert RETRY / 65 < wait.until - player.now < RETRY * 0.51
        player.now = wait.until


def test_back_off_grows() -> None:
    """Each failure in a row at least doubles the pause, up to half a retry period; one success starts it anew."""
    player = Player()
    player.luck = 0.0
    pauses = []
    for _ in range(8):
        player.does(Read)
        player.happens(Failed())
        until = player.does(Wait).until
        pauses.append(until - player.now)
        player.now = until
    assert pauses[:5] == pytest.approx([RETRY / 64 * 2**n for n in range(5)])
    assert max(pauses) == pytest.approx(RETRY / 4)
    player.reads(held(5))
    player.does(Read, at=player.now + LEASE + 1.0)
    player.happens(Failed())
    assert player.does(Wait).until - player.now == pytest.approx(RETRY / 64)


def test_renewal_that_succeeds_ends_the_back_off() -> None:
    """After a write that was applied, the next failure is the first again."""
    player = leader()
    player.luck = 0.0
    observed = player.state.observed
    assert observed is not None
    player.does(Write, at=RETRY)
    for _ in range(5):
        player.happens(Failed())
        player.now = player.does(Wait).until
        player.does(Read)
    player.happens(Fetched(observed.snapshot, player.now))
    player.writes(2)
    player.does(Write, at=player.now + RETRY)
    player.happens(Failed())
    assert player.does(Wait).until - player.now == pytest.approx(RETRY / 64)


def test_renewals_that_fail_are_retried_before_the_deadline() -> None:
    """A leader that meets nothing but failures tries many times more often than once a retry period."""
    player = leader()
    reads = 0
    player.does(Write, at=RETRY)
    player.happens(Failed())
    while player.now < DEADLINE:
        for _ in player.waits():
            pass
        reads += isinstance(player.actions[-1], Read)
        player.happens(Failed())
    assert reads > 2 * (DEADLINE - RETRY) / RETRY
    assert not player.leads


@pytest.mark.parametrize(("asked", "counted"), [(1.0, 1.0), (RETRY, RETRY), (3600.0, RETRY), (math.inf, RETRY)])
@pytest.mark.parametrize("luck", [0.0, 0.5, 1.0])
def test_retry_after_is_honoured_spread_and_bounded(asked: float, counted: float, luck: float) -> None:
    """What the API server asks for is waited, up to a retry period, for the lease runs on; and up to a quarter more."""
    player = Player()
    player.luck = luck
    player.does(Read)
    player.happens(Failed(refused=True, retry_after=asked))
    assert player.does(Wait).until == pytest.approx(counted * (1 + luck / 4))


@pytest.mark.parametrize("event", [Failed(), Failed(refused=True), Conflicted()])
def test_back_off_is_bounded_however_long_the_lease(event: Failed | Conflicted) -> None:
    """A lease of a day does not make a candidate wait for hours after a failure."""
    player = Player()
    me = replace(player.state.candidacy, lease_seconds=86400, renew_deadline=57600.0, retry_period=21600.0)
    player.state = replace(player.state, candidacy=me)
    for _ in range(20):
        player.does(Read)
        player.happens(event)
        assert player.does(Wait).until <= player.now + 10.0
        player.now = player.state.not_before


def test_event_does_not_end_the_back_off() -> None:
    """News from the watch are noted at once, and answered when the pause is over."""
    player = follower(held(5))
    player.does(Read, at=LEASE + 1.0)
    player.happens(Failed(refused=True))
    until = player.does(Wait).until
    player.sees(held(6, "c"), at=player.now + 0.01)
    assert player.names == "c"
    assert player.does(Wait).until == until


def test_conflicts_in_a_row_are_spread() -> None:
    """Two that race for the object do not meet at the same instant for ever: the pauses differ with luck and grow."""
    pauses = set()
    for luck in (0.0, 0.3, 0.6, 0.9):
        player = leader()
        player.luck = luck
        player.does(Write, at=RETRY)
        player.happens(Conflicted())
        pauses.add(player.does(Wait).until)
    assert len(pauses) == 4


# -- Polling -----------------------------------------------------------------------------------------------------------


def test_polls_while_there_is_no_watch() -> None:
    """Without a watch a follower reads about once a retry period, and follows what it reads."""
    player = follower(held(1), watching=False)
    reads = []
    for version in range(2, 22):
        for _ in player.waits():
            pass
        assert isinstance(player.actions[-1], Read)
        reads.append(player.now)
        player.happens(Fetched(held(version, renewed=version), player.now))
    assert reads[-1] == pytest.approx(20 * RETRY, rel=0.11)
    assert player.names == "b"


@given(LUCK)
def test_polls_are_spread(luck: float) -> None:
    """Polls come between 0.9 and 1.1 retry periods apart, so that many candidates do not ask in step."""
    player = Player()
    player.luck = luck
    player.reads(held(5))
    assert RETRY * 0.9 <= player.does(Wait).until <= RETRY * 1.1


def test_poll_shows_the_release() -> None:
    """A released lock that a poll shows is bid for on the strength of that very read, after the jitter."""
    player = follower(held(5), watching=False)
    for _ in player.waits():
        pass
    player.happens(Fetched(lock(6, '{"holderIdentity":""}'), player.now))
    for _ in player.waits():
        pass
    assert isinstance(player.actions[-1], Write)


def test_polls_soon_after_the_watch_ended() -> None:
    """When the watch stops, a renewed one has a retry period to show something; then polls begin, not all at once."""
    player = follower(held(5))
    player.happens(WatchStopped(), at=4.0)
    assert 4.0 + RETRY <= player.does(Wait).until <= 4.0 + RETRY * 1.5


def test_reads_at_once_after_a_gap() -> None:
    """When the watch may have missed changes, the lock is read before anything else, by leaders as well."""
    for player in (follower(held(5)), leader()):
        player.happens(WatchStopped(gap=True), at=1.0)
        player.does(Read)


def test_no_polls_once_the_watch_goes_on() -> None:
    """A watch that is back ends the polling."""
    player = follower(held(5))
    player.happens(WatchStopped(), at=1.0)
    player.happens(WatchStarted(), at=1.1)
    assert player.does(Wait).until >= LEASE


def test_leader_does_not_poll() -> None:
    """A leader learns what there is to know from its writes: it never reads while they are answered."""
    player = leader()
    player.happens(WatchStopped())
    for number in range(1, 20):
        for _ in player.waits():
            pass
        write = player.actions[-1]
        assert isinstance(write, Write)
        player.happens(Written(result(write, 1 + number), player.now))
        assert player.now == pytest.approx(number * RETRY)
