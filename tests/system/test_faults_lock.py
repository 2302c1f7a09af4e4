"""What becomes of an election when answers are lost or late, writes collide, and strangers change the lock object.

Real processes under the monitor: two candidates never name themselves at once. The embedded API server stands in
where a real one cannot be made to lose a certain answer.
"""

from __future__ import annotations

import asyncio
import json
import signal
import time
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.lab.apiserver import DropConnection
from sidecar.lab.resources import ENDPOINTS
from sidecar.record import RECORD_ANNOTATION
from tests.testbed.monitored_election import ELECTION, LockObject, monitored_election
from tests.testbed.proxy import Proxy
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import Callable

    from aiohttp import web

    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.embedded import EmbeddedForTests
    from tests.testbed.sidecar import Sidecars

Record = dict[str, Any]


class Losing:
    """Loses the answers to the next `times` requests of a method, although they were done."""

    def __init__(self, embedded: EmbeddedForTests, method: str, *, times: int = 1) -> None:
        self._method = method
        self._times = times
        self.lost = 0
        self.answered = 0
        """Answers to that method that were not lost."""
        embedded.server.before_answer = self._hook

    async def _hook(self, request: web.Request, _: web.StreamResponse) -> None:
        if request.method != self._method:
            return
        if self.lost < self._times:
            self.lost += 1
            raise DropConnection
        self.answered += 1


class Holding:
    """Holds requests of a method, or the answers to them, back until `let_go`."""

    def __init__(self, method: str) -> None:
        self._method = method
        self._open = asyncio.Event()
        self.held = 0

    async def before_request(self, request: web.Request) -> None:
        """Hold a request back, not done yet."""
        await self._hold(request)

    async def before_answer(self, request: web.Request, _: web.StreamResponse) -> None:
        """Hold an answer back; what was asked is done."""
        await self._hold(request)

    def let_go(self) -> None:
        """Hold nothing any more."""
        self._open.set()

    async def _hold(self, request: web.Request) -> None:
        if request.method == self._method and not self._open.is_set():
            self.held += 1
            await self._open.wait()


def holder(embedded: EmbeddedForTests, namespace: str) -> str:
    """Return the holder in the record."""
    stored = embedded.server.store.get(ENDPOINTS, namespace, ELECTION)
    return str(json.loads(stored["metadata"]["annotations"][RECORD_ANNOTATION])["holderIdentity"])


# -- Answers that are lost or late -------------------------------------------------------------------------------------


async def test_a_renewal_whose_answer_is_lost_is_settled_by_reading(
    embedded: EmbeddedForTests, sidecars: Sidecars
) -> None:
    """The leader goes on in the same term, without a moment in which it does not name itself."""
    async with monitored_election(embedded, sidecars, ttl=3) as held:
        held.start_many(2)
        leader = await held.settled()
        since = time.monotonic()
        token = (await leader.status())["fencing_token"]
        losing = Losing(embedded, "PUT")
        await until(lambda: losing.lost and losing.answered >= 2, "the leader renews again")
        assert {answer.name for answer in held.monitor.answers(leader, since=since)} == {leader.identity}
        assert (await leader.status())["fencing_token"] == token


async def test_a_renewal_whose_connection_is_reset_is_settled_by_reading(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """The same on a real server: the write is applied, then the connection is gone before the answer has come."""
    async with monitored_election(real_api_server, sidecars, ttl=3) as held, Proxy(real_api_server.url) as proxy:
        leader = held.start("pod-0", kubeconfig=proxy.kubeconfig(held.kubeconfig))
        await held.settled()
        held.start("pod-1")
        await held.settled()
        since = time.monotonic()
        token = (await leader.status())["fencing_token"]
        lock = LockObject(real_api_server, held.namespace)
        proxy.silence(requests=False, new=False)
        await lock.renewed()
        proxy.cut()
        for _ in range(2):
            await lock.renewed()
        assert {answer.name for answer in held.monitor.answers(leader, since=since)} == {leader.identity}
        assert (await leader.status())["fencing_token"] == token


async def test_a_first_acquisition_whose_answer_is_lost(embedded: EmbeddedForTests, sidecars: Sidecars) -> None:
    """Who created the lock object and was not told so finds out, and leads long before the lease could run out."""
    losing = Losing(embedded, "POST")
    async with monitored_election(embedded, sidecars, ttl=30) as held:
        first = held.start("pod-0")
        assert await held.settled(seconds=held.ttl / 3) is first
        held.start("pod-1")
        assert await held.settled(seconds=held.ttl / 3) is first
    assert losing.lost == 1


async def test_a_take_over_whose_answer_is_lost(embedded: EmbeddedForTests, sidecars: Sidecars) -> None:
    """Who took over and was not told so finds out, and leads; the others never do."""
    async with monitored_election(embedded, sidecars, ttl=2) as held:
        held.start_many(3)
        old = await held.settled()
        await old.kill()
        killed_at = time.monotonic()
        losing = Losing(embedded, "PUT", times=2)
        new = await held.settled(held.others(old))
        assert losing.lost == 2
        assert {one for one, _ in held.monitor.self_namings(since=killed_at)} == {new}


async def test_an_acquisition_that_is_under_way_when_the_process_is_told_to_end_is_released(
    embedded: EmbeddedForTests, sidecars: Sidecars
) -> None:
    """SIGTERM between the write and its answer: the candidate never leads, releases what it may hold, and exits 0."""
    holding = Holding("POST")
    embedded.server.before_answer = holding.before_answer
    async with monitored_election(embedded, sidecars, ttl=6) as held:
        candidate = held.start("pod-0")
        await until(lambda: holding.held, "the lock object is created")
        assert holder(embedded, held.namespace) == "pod-0"
        candidate.signal(signal.SIGTERM)
        assert await candidate.ended() == 0
        assert holder(embedded, held.namespace) == ""
        assert held.monitor.self_namings() == []


async def test_a_renewal_counts_from_when_it_was_sent(embedded: EmbeddedForTests, sidecars: Sidecars) -> None:
    """After a renewal that was answered slowly, the last for long, the leader stops by when that was sent."""
    async with monitored_election(embedded, sidecars, ttl=3) as held:
        leader = held.start("pod-0")
        await held.settled()
        slow = Holding("PUT")
        came: list[float] = []

        async def answer_slowly(request: web.Request, response: web.StreamResponse) -> None:
            if request.method == "PUT" and not came:
                came.append(time.monotonic())
                await asyncio.sleep(0.7 * held.request_timeout)
            else:
                await slow.before_answer(request, response)

        embedded.server.before_answer = answer_slowly
        await held.nobody()
        last = held.monitor.last_naming(leader)
        assert last is not None
        assert last.sent <= came[0] + held.renew_deadline
        slow.let_go()


async def test_a_renewal_that_is_answered_after_the_renew_deadline_comes_too_late(
    embedded: EmbeddedForTests, sidecars: Sidecars
) -> None:
    """A leader that stood while the answer came does not name itself on its strength: a new term begins first."""
    async with monitored_election(embedded, sidecars, ttl=2) as held:
        leader = held.start("pod-0")
        await held.settled()
        token = (await leader.status())["fencing_token"]
        holding = Holding("PUT")
        embedded.server.before_answer = holding.before_answer
        await until(lambda: holding.held, "a renewal is under way")
        leader.signal(signal.SIGSTOP)
        stopped_at = time.monotonic()
        holding.let_go()
        await until(lambda: time.monotonic() - stopped_at > held.renew_deadline, "the deadline passes")
        continued_at = time.monotonic()
        leader.signal(signal.SIGCONT)
        # The monitor's question was sent while the leader stood.
        await until(lambda: held.monitor.first_received(leader, continued_at), "the first answer")
        first = held.monitor.first_received(leader, continued_at)
        assert first is not None
        assert first.sent < continued_at
        assert first.name == ""
        await held.settled()
        assert (await leader.status())["fencing_token"] > token


# -- Writes that collide -----------------------------------------------------------------------------------------------


async def test_five_create_the_lock_object_at_the_same_moment(embedded: EmbeddedForTests, sidecars: Sidecars) -> None:
    """All five send their create before any is done: one leads, the others follow, and none ends."""
    holding = Holding("POST")
    embedded.server.before_request = holding.before_request
    async with monitored_election(embedded, sidecars, ttl=20) as held:
        candidates = held.start_many(5)
        await until(lambda: holding.held >= 5, "all five create")
        holding.let_go()
        await held.settled(seconds=held.ttl / 2)
        assert len({one for one, _ in held.monitor.self_namings()}) == 1
        assert all(one.is_running() for one in candidates)


async def test_all_take_over_at_the_same_moment(embedded: EmbeddedForTests, sidecars: Sidecars) -> None:
    """All followers send their take-over before any is done: one leads, the others follow, and none ends."""
    async with monitored_election(embedded, sidecars, ttl=2) as held:
        held.start_many(4)
        old = await held.settled()
        await old.kill()
        killed_at = time.monotonic()
        holding = Holding("PUT")
        embedded.server.before_request = holding.before_request
        await until(lambda: holding.held >= 3, "all three take over")
        holding.let_go()
        await held.settled(held.others(old))
        assert len({one for one, _ in held.monitor.self_namings(since=killed_at)}) == 1
        assert len(held.others(old)) == 3


# -- Hands laid on the lock object -------------------------------------------------------------------------------------


def another_holder(record: Record) -> str | None:
    """Say that somebody else holds it."""
    return json.dumps({**record, "holderIdentity": "somebody"})


def another_renew_time(record: Record) -> str | None:
    """Say that the same holder renewed it at another time."""
    return json.dumps({**record, "renewTime": "2020-01-01T00:00:00Z"})


def no_annotation(_: Record) -> str | None:
    """Leave an object without a record."""
    return None


def garbage(_: Record) -> str | None:
    """Leave what cannot be read."""
    return "{not a record"


RARELY = ("--renew-deadline=2.8s", "--retry-period=2s")
"""So that a renewal is far from the next: what the leader learns in between, it learns from its watch."""

AT_ONCE = 1.5
"""Seconds, without those by which the test was late. Who learned it from its next renewal would need two."""


@pytest.mark.parametrize("edited", [another_holder, another_renew_time, no_annotation, garbage, None])
async def test_a_leader_whose_lock_is_changed_or_deleted_stops_at_once(
    real_api_server: RealAPIServer, sidecars: Sidecars, edited: Callable[[Record], str | None] | None
) -> None:
    """The leader revokes at once; nobody leads until the lease ran out, the edited one or the last that was written."""
    async with monitored_election(real_api_server, sidecars, ttl=3) as held:
        for number in range(3):
            held.start(f"pod-{number}", flags=RARELY)
        lock = LockObject(real_api_server, held.namespace)
        old = await held.settled()
        token = (await old.status())["fencing_token"]
        # A lease counts from when its renewal was sent.
        written_after = await lock.renewed() - held.request_timeout
        if edited is None:
            await lock.delete()
        else:
            record = await lock.record()
            written_after = time.monotonic() if edited is not no_annotation else written_after
            await lock.annotate(edited(record))
        changed_at = time.monotonic()

        def revoked() -> bool:
            return held.monitor.last(old, since=changed_at) not in (None, old.identity)

        await until(revoked, f"{old.identity} stops naming itself")
        revoked_at = time.monotonic()
        assert held.monitor.on_time(changed_at, revoked_at) <= AT_ONCE
        new = await held.settled()
        assert held.monitor.self_namings(since=revoked_at)[0][1].received >= written_after + held.ttl
        assert (await new.status())["fencing_token"] > token


async def test_a_lock_that_is_emptied_under_its_leader_is_led_in_a_new_term(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """A holder that was emptied counts as released: the leader stops at once, and somebody leads without waiting."""
    async with monitored_election(real_api_server, sidecars, ttl=3) as held:
        # Alone: what others do before the leader learns of it, nobody promises.
        leader = held.start("pod-0", flags=RARELY)
        await held.settled()
        token = (await leader.status())["fencing_token"]
        lock = LockObject(real_api_server, held.namespace)
        await lock.renewed()
        await lock.annotate(json.dumps({**await lock.record(), "holderIdentity": "", "leaseDurationSeconds": 1}))
        emptied_at = time.monotonic()
        await leader.logging("stopped leading: the lock was released")
        assert held.monitor.on_time(emptied_at, time.monotonic()) <= AT_ONCE
        await held.settled()
        assert (await leader.status())["fencing_token"] > token
