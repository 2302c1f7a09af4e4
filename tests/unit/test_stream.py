"""What the readers of `/events` are told, and when: in virtual time, over connections that are lists."""

from __future__ import annotations

import asyncio
import json
import math
from contextlib import ExitStack
from dataclasses import replace
from typing import TYPE_CHECKING, Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sidecar.lab import virtualtime
from sidecar.stream import (
    BEHIND_SECONDS,
    CATCH_UP_SECONDS,
    HEARTBEAT_SECONDS,
    READER_LIMIT,
    REMEMBERED,
    ROUND_SECONDS,
    Events,
    Standing,
    Stream,
)
from tests.unit.test_web import Told

if TYPE_CHECKING:
    from collections.abc import Coroutine

    from sidecar.candidate import Candidate, Status

NOBODY = Standing(name="", leading=False, fencing_token=None, role="starting")
OTHER = Standing(name="pod-2", leading=False, fencing_token=None, role="following")
ME = Standing(name="pod-1", leading=True, fencing_token=7, role="leading")


def told(data: bytes) -> list[dict[str, Any]]:
    """Return the events in a stream, with their ids."""
    found = []
    for event in data.decode().split("\n\n"):
        fields = dict(line.split(": ", 1) for line in event.splitlines() if not line.startswith(":"))
        if "data" in fields:
            found.append({"id": fields["id"], **json.loads(fields["data"])})
    return found


def numbers(data: bytes) -> list[str]:
    """Return the ids of the events in a stream."""
    return [event["id"] for event in told(data)]


# -- What was told -----------------------------------------------------------------------------------------------------


def test_an_event_is_an_id_and_a_line_of_json() -> None:
    """An event is what the documents say, to the byte; the name is escaped as `/` does it."""
    events = Events("3f9a")

    assert events.add(Standing(name="a<b>\u2028", leading=True, fencing_token=7, role="leading"))

    data = rb'{"name":"a\u003cb\u003e\u2028","leading":true,"fencing_token":7,"role":"leading"}'
    assert events.newest() == b"id: 3f9a-1\ndata: " + data + b"\n\n"


def test_an_event_is_a_change() -> None:
    """The same again is no event; each field that changes makes one, and so does a change back."""
    events = Events("a")

    added = [events.add(standing) for standing in (NOBODY, NOBODY, OTHER, OTHER, NOBODY)]

    assert added == [True, False, True, False, True]
    assert numbers(events.newest()) == ["a-3"]


def test_what_was_missed_is_told() -> None:
    """After the id of an event: all that came later, in order; after the newest: that one again."""
    events = Events("a")
    for standing in (NOBODY, OTHER, NOBODY, ME):
        events.add(standing)

    assert numbers(events.since("a-1")) == ["a-2", "a-3", "a-4"]
    assert numbers(events.since("a-3")) == ["a-4"]
    assert numbers(events.since("a-4")) == ["a-4"]
    assert numbers(events.since("a-0")) == ["a-1", "a-2", "a-3", "a-4"]


def test_a_leadership_that_is_over_is_not_told_afterwards() -> None:
    """Events in which this candidate led are left out of what was missed, unless it leads by the newest."""
    events = Events("a")
    for standing in (NOBODY, ME, OTHER, ME, NOBODY):
        events.add(standing)

    missed = told(events.since("a-1"))

    assert [(event["id"], event["name"]) for event in missed] == [("a-3", "pod-2"), ("a-5", "")]


@pytest.mark.parametrize(
    "last_id",
    ["", "a", "b-1", "a-", "a-x", "a--1", "a-9", "a-1x", "a-\u0661", "a-\u00b2", "A-1", "-1", "a-" + "9" * 70],
)
def test_any_other_id_is_told_the_newest(last_id: str) -> None:
    """No id, another process's, one to come and one that is none: how the election stands."""
    events = Events("a")
    for standing in (NOBODY, OTHER, NOBODY):
        events.add(standing)

    assert events.since(last_id) == events.newest()


def test_what_is_remembered_is_bounded() -> None:
    """Whoever missed more than is remembered is told the newest; whoever missed all that is remembered, all of it."""
    events = Events("a")
    for number in range(REMEMBERED + 10):
        events.add(Standing(name=f"pod-{number}", leading=False, fencing_token=None, role="following"))

    assert len(numbers(events.since("a-10"))) == REMEMBERED
    assert len(numbers(events.since("a-9"))) == 1


@given(st.text(max_size=100))
def test_no_id_does_harm(last_id: str) -> None:
    """Whatever the header says, there is an answer, and it ends with the newest."""
    events = Events("a")
    for standing in (NOBODY, ME, OTHER):
        events.add(standing)

    assert events.since(last_id).endswith(events.newest())


# -- Who is told -------------------------------------------------------------------------------------------------------


class Listener:
    """A reader: what it was sent, and whether its connection takes anything."""

    def __init__(self, *, is_near: bool = True) -> None:
        self.is_near = is_near
        self.sent = b""
        self.sent_at = 0.0
        self.is_stuck = False
        self.kept = b""
        self.is_ended = self.is_dropped = False

    def write(self, data: bytes) -> None:
        """Take it, or keep it while nothing is taken."""
        assert not self.is_ended
        assert not self.is_dropped
        self.sent_at = asyncio.get_running_loop().time()
        if self.is_stuck:
            self.kept += data
        else:
            self.sent += data

    def is_behind(self) -> bool:
        """Tell whether something is kept."""
        return bool(self.kept)

    def end(self) -> None:
        """End."""
        self.is_ended = True

    def drop(self) -> None:
        """End at once."""
        self.is_dropped = True

    def go_on(self) -> None:
        """Take what was kept, and what comes."""
        self.sent, self.kept, self.is_stuck = self.sent + self.kept, b"", False


class Timed(Told):
    """A candidate whose validity may end by itself."""

    def __init__(self) -> None:
        super().__init__()
        self.valid_until = math.inf

    def status(self) -> Status:
        """Return what holds now."""
        if asyncio.get_running_loop().time() >= self.valid_until:
            self.valid_until = math.inf
            self.change_silently()
        return super().status()

    def change_silently(self) -> None:
        """Lose the lead without a word."""
        listeners, self._listeners = self._listeners, []
        self.change(leader="", role="following")
        self._listeners = listeners

    def same_until(self) -> float:
        """Return when the validity ends."""
        return self.valid_until


def in_virtual_time(main: Coroutine[Any, Any, None]) -> None:
    """Run a scene."""
    virtualtime.run(main)


def stream_of(candidate: Told) -> Stream:
    """Return the stream of a candidate that begins as nobody's follower."""
    candidate.told = replace(candidate.told, leader="", fencing_token=None)
    return Stream(cast("Candidate", candidate), now=asyncio.get_running_loop().time, start="a")


def test_a_reader_is_told_how_it_stands_and_every_change() -> None:
    """The first event is the present one; each change is written before the call that announces it returns."""

    async def scene() -> None:
        candidate, reader = Told(), Listener()
        stream = stream_of(candidate)
        with stream.told_to(reader, ""):
            assert reader.sent.startswith(b"retry: 1000\nid: a-1\ndata: ")
            candidate.change(leader="pod-2")
            assert [event["name"] for event in told(reader.sent)] == ["", "pod-2"]
            candidate.change(leader="pod-1", token=7, role="leading")
            assert told(reader.sent)[-1] == {
                "id": "a-3",
                "name": "pod-1",
                "leading": True,
                "fencing_token": 7,
                "role": "leading",
            }
            candidate.change(leader="pod-1", token=7, role="leading")
            assert len(told(reader.sent)) == 3
        candidate.change(leader="")
        assert len(told(reader.sent)) == 3
        assert len(stream) == 0

    in_virtual_time(scene())


def test_who_comes_back_is_told_what_it_missed() -> None:
    """A reader that names the last event it knows of is sent those after it."""

    async def scene() -> None:
        candidate, reader = Told(), Listener()
        stream = stream_of(candidate)
        for name in ("pod-2", "pod-3"):
            candidate.change(leader=name)
        with stream.told_to(reader, "a-1"):
            assert [event["name"] for event in told(reader.sent)] == ["pod-2", "pod-3"]

    in_virtual_time(scene())


def test_the_end_of_a_validity_is_told_when_it_comes() -> None:
    """Nothing happens, and time alone ends the leadership: it is told at that instant."""

    async def scene() -> None:
        candidate, reader = Timed(), Listener()
        stream = stream_of(candidate)
        with stream.told_to(reader, ""):
            candidate.valid_until = 6.5
            candidate.change(leader="pod-1", token=7, role="leading")
            await asyncio.sleep(6.4)
            assert told(reader.sent)[-1]["leading"]
            await asyncio.sleep(1)
            assert not told(reader.sent)[-1]["leading"]
            assert reader.sent_at == pytest.approx(6.5, abs=0.01)

    in_virtual_time(scene())


def test_what_is_told_is_judged_when_it_is_told() -> None:
    """Timers that did not run, because the process was stopped: neither who comes nor who is there is told the past."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        assert isinstance(loop, virtualtime.VirtualTimeLoop)
        candidate, reader, late = Timed(), Listener(), Listener()
        stream = stream_of(candidate)
        with stream.told_to(reader, ""):
            candidate.valid_until = 5.0
            candidate.change(leader="pod-1", token=7, role="leading")
            loop._now = 60.0  # nothing ran for a minute
            with stream.told_to(late, ""):
                assert [event["leading"] for event in told(late.sent)] == [False]
                assert [event["leading"] for event in told(reader.sent)] == [False, True, False]

    in_virtual_time(scene())


def test_a_clock_that_leaps_is_noticed_soon() -> None:
    """A machine that was suspended: timers stood still, the candidate's clock did not. It is told soon."""

    async def scene() -> None:
        candidate, reader = Timed(), Listener()
        stream = stream_of(candidate)
        with stream.told_to(reader, ""):
            candidate.valid_until = 600.0
            candidate.change(leader="pod-1", token=7, role="leading")
            await asyncio.sleep(2)
            candidate.valid_until = 0.0
            await asyncio.sleep(ROUND_SECONDS + 0.01)
            assert not told(reader.sent)[-1]["leading"]

    in_virtual_time(scene())


def test_a_quiet_stream_has_a_heartbeat() -> None:
    """Without a change a comment is sent every two seconds or so; after a change, two seconds later."""

    async def scene() -> None:
        candidate, reader = Told(), Listener()
        stream = stream_of(candidate)
        with stream.told_to(reader, ""):
            await asyncio.sleep(HEARTBEAT_SECONDS - 0.5)
            assert b":\n\n" not in reader.sent
            await asyncio.sleep(1.4)
            assert reader.sent.endswith(b"\n\n:\n\n")
            candidate.change(leader="pod-2")
            await asyncio.sleep(4 * (HEARTBEAT_SECONDS + ROUND_SECONDS) + 0.1)
            assert 4 <= reader.sent.count(b":\n\n") - 1 <= 6
            assert len(told(reader.sent)) == 2

    in_virtual_time(scene())


def test_a_slow_reader_is_told_the_newest_alone() -> None:
    """What changed while its connection took nothing is one event for it, soon after it takes something again."""

    async def scene() -> None:
        candidate, slow, quick = Told(), Listener(), Listener()
        stream = stream_of(candidate)
        with stream.told_to(slow, ""), stream.told_to(quick, ""):
            slow.is_stuck = True
            for number in range(1000):
                candidate.change(leader=f"pod-{number}")
            assert numbers(slow.kept) == ["a-2"]
            await asyncio.sleep(BEHIND_SECONDS / 2)
            slow.go_on()
            await asyncio.sleep(2 * CATCH_UP_SECONDS)
            assert numbers(slow.sent) == ["a-1", "a-2", "a-1001"]
            assert len(numbers(quick.sent)) == 1001
            await asyncio.sleep(BEHIND_SECONDS * 2)
            assert not slow.is_dropped

    in_virtual_time(scene())


def test_a_reader_that_takes_nothing_is_dropped() -> None:
    """A connection that takes nothing for 10 seconds is closed, whether or not anything changes; the others stay."""

    async def scene() -> None:
        candidate, stuck, other = Told(), Listener(), Listener()
        stream = stream_of(candidate)
        with stream.told_to(stuck, ""), stream.told_to(other, ""):
            stuck.is_stuck = True
            candidate.change(leader="pod-2")
            await asyncio.sleep(BEHIND_SECONDS - 1)
            assert not stuck.is_dropped
            candidate.change(leader="pod-3")
            await asyncio.sleep(2 * ROUND_SECONDS + 1)
            assert stuck.is_dropped
            assert len(stream) == 1
            assert not other.is_dropped

    in_virtual_time(scene())


def test_the_oldest_reader_goes_where_there_are_too_many() -> None:
    """Beyond the limit the oldest is dropped; one of the pod itself only where there are no others."""

    async def scene() -> None:
        stream = stream_of(Told())
        with ExitStack() as all_of_them:

            def come(*, is_near: bool) -> Listener:
                listener = Listener(is_near=is_near)
                all_of_them.enter_context(stream.told_to(listener, ""))
                return listener

            near = [come(is_near=True) for _ in range(3)]
            strangers = [come(is_near=False) for _ in range(READER_LIMIT - 3)]
            come(is_near=False)
            come(is_near=True)
            assert [listener.is_dropped for listener in strangers[:3]] == [True, True, False]
            for _ in range(READER_LIMIT + 5):
                come(is_near=True)
            assert all(listener.is_dropped for listener in [*strangers, *near])
            assert len(stream) == READER_LIMIT
        assert len(stream) == 0

    in_virtual_time(scene())


def test_the_end_of_the_stream() -> None:
    """At the end readers are told the last change, then that it is over; one that does not keep up is dropped."""

    async def scene() -> None:
        candidate, reader, stuck = Timed(), Listener(), Listener()
        stream = stream_of(candidate)
        with stream.told_to(reader, ""), stream.told_to(stuck, ""):
            stuck.is_stuck = True
            candidate.valid_until = 5.0
            candidate.change(leader="pod-1", token=7, role="leading")
            candidate.valid_until = 0.0
            stream.close()
            assert [event["leading"] for event in told(reader.sent)] == [False, True, False]
            assert (reader.is_ended, stuck.is_dropped) == (True, True)
            candidate.change(leader="pod-2")
            assert len(told(reader.sent)) == 3

    in_virtual_time(scene())


def test_nothing_runs_while_nobody_listens() -> None:
    """Without a reader there is no timer, before the first one and after the last one."""

    async def scene() -> None:
        loop = asyncio.get_running_loop()
        candidate = Told()
        stream = stream_of(candidate)
        candidate.change(leader="pod-2")
        assert not cast("Any", loop)._scheduled
        with stream.told_to(Listener(), ""):
            await asyncio.sleep(3)
        await asyncio.sleep(2 * ROUND_SECONDS)
        assert not cast("Any", loop)._scheduled

    in_virtual_time(scene())
