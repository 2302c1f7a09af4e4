"""What becomes of an election when its candidates' processes are stopped, killed, ended and started again.

Real processes on a real API server, all of it under the monitor: two candidates never name themselves at once.
"""

from __future__ import annotations

import asyncio
import signal
import time
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from tests.testbed.monitored_election import LockObject, monitored_election
from tests.testbed.proxy import Proxy
from tests.testbed.sidecar import Answer, until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from tests.testbed.apiserver import RealAPIServer
    from tests.testbed.sidecar import Sidecar, Sidecars


class Question:
    """A question that was sent to a stopped process, over a connection of its own; the answer is read later."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._reader = reader
        self._writer = writer

    async def answer(self) -> Answer:
        """Wait for the answer."""
        async with asyncio.timeout(20):
            received = await self._reader.read(-1)
        self._writer.close()
        return Answer.parse(received)


async def posed(candidate: Sidecar, path: str) -> Question:
    """Send a question that the kernel keeps until the process goes on."""
    reader, writer = await asyncio.open_connection("127.0.0.1", candidate.port)
    writer.write(f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    await writer.drain()
    return Question(reader, writer)


@asynccontextmanager
async def stopped(candidate: Sidecar) -> AsyncIterator[None]:
    """Stop a process while the block runs."""
    candidate.signal(signal.SIGSTOP)
    try:
        yield
    finally:
        candidate.signal(signal.SIGCONT)


async def test_a_stopped_leader_does_not_name_itself_when_it_goes_on(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """SIGSTOP beyond the lease, another takes over, SIGCONT: the very first answers do not name the old leader."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held:
        held.start_many(3)
        old = await held.settled()
        async with stopped(old):
            names, leads, tells = [await posed(old, path) for path in ("/", "/leader", "/status")]
            new = await held.settled(held.others(old))
            continued_at = time.monotonic()
        assert (await names.answer()).json()["name"] != old.identity
        assert (await leads.answer()).status == 503
        assert (await tells.answer()).json()["role"] != "leading"
        assert await held.settled() is new
        # So does what it answers over a connection that was open before.
        first = held.monitor.first_received(old, continued_at)
        assert first is not None
        assert first.sent < continued_at
        assert first.name != old.identity


async def test_a_leader_alone_does_not_name_itself_on_the_strength_of_an_old_lease(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """Stopped for longer than the renew deadline, a leader that nobody succeeded has to renew before it leads again."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held:
        only = held.start("pod-0")
        await held.settled()
        token = (await only.status())["fencing_token"]
        async with stopped(only):
            question = await posed(only, "/")
            stopped_at = time.monotonic()
            await until(lambda: time.monotonic() - stopped_at > held.renew_deadline, "the deadline passes")
        assert (await question.answer()).json()["name"] == ""
        await held.settled()
        assert (await only.status())["fencing_token"] > token


async def test_a_stopped_leader_that_is_told_to_end_leaves_its_successors_lock_alone(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """SIGTERM to a leader that stood too long ends it, status 0, and takes nothing from who leads by then."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held:
        held.start_many(2)
        old = await held.settled()
        async with stopped(old):
            new = await held.settled(held.others(old))
            token = (await new.status())["fencing_token"]
            old.signal(signal.SIGTERM)
        assert await old.ended() == 0
        await LockObject(real_api_server, held.namespace).renewed()
        assert await held.settled([new]) is new
        assert (await new.status())["fencing_token"] == token


@pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
async def test_a_leader_that_is_told_to_end_hands_the_lock_over_at_once(
    real_api_server: RealAPIServer, sidecars: Sidecars, end: signal.Signals
) -> None:
    """On SIGTERM and SIGINT the leader exits 0 and another leads long before the lease could have run out."""
    async with monitored_election(real_api_server, sidecars, ttl=30) as held:
        held.start_many(3)
        for _ in range(2):
            old = await held.settled()
            old.signal(end)
            assert await held.settled(held.others(old), seconds=held.ttl / 3) is not old
            assert await old.ended(held.ttl / 3) == 0


async def test_a_killed_leader_is_followed_when_its_lease_is_over(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """After SIGKILL the followers name the dead leader as long as its lease may last, and then one of them leads."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held:
        held.start_many(3)
        old = await held.settled()
        unchanged_at = await LockObject(real_api_server, held.namespace).renewed()
        await old.kill()
        killed_at = time.monotonic()
        await held.settled(held.others(old))
        first = held.monitor.self_namings(since=killed_at)[0][1]
        assert first.received > unchanged_at + held.ttl
        for one in held.others(old):
            assert held.monitor.answers(one, since=killed_at)[0].name == old.identity


async def test_nobody_leads_beside_another_whatever_befalls_them(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """Leaders are stopped, killed and ended in turn, and come back: somebody leads after each, and never two."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held:
        held.start_many(4)
        for fault in (signal.SIGSTOP, signal.SIGKILL, signal.SIGTERM):
            leader = await held.settled()
            leader.signal(fault)
            if fault is not signal.SIGSTOP:
                await leader.ended()
            await held.settled(held.others(leader))
            if fault is signal.SIGSTOP:
                leader.signal(signal.SIGCONT)
            else:
                leader.start()
        await held.settled()
        assert all(one.is_running() for one in held.candidates)


async def test_the_same_identity_in_another_pod_is_somebody_else(
    real_api_server: RealAPIServer, sidecars: Sidecars
) -> None:
    """A second pod of the leader's name never names itself while the first lives; it waits the dead one's lease out."""
    async with monitored_election(real_api_server, sidecars, ttl=2) as held:
        first = held.start("pod-0", pod_uid="uid-of-the-first")
        await held.settled()
        lock = LockObject(real_api_server, held.namespace)
        second = held.start("pod-0", pod_uid="uid-of-the-second")
        await second.answering()
        await second.logging("somebody else holds the lock under my name")
        for _ in range(3):
            unchanged_at = await lock.renewed()
        assert {answer.name for answer in held.monitor.answers(second)} <= {None, ""}

        await first.kill()
        await held.settled([second])
        took_over = held.monitor.self_namings(since=unchanged_at)
        assert next(answer for one, answer in took_over if one is second).received > unchanged_at + held.ttl


async def test_the_same_pod_restarted_resumes_at_once(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """A killed leader whose container is started again, with the same POD_UID, leads without waiting for the lease."""
    async with monitored_election(real_api_server, sidecars, ttl=30) as held:
        leader = held.start("pod-0")
        await held.settled()
        held.start("pod-1")
        await held.settled()
        token = (await leader.status())["fencing_token"]
        await leader.kill()
        leader.start()
        assert await held.settled(seconds=held.ttl / 3) is leader
        assert (await leader.status())["fencing_token"] > token


async def test_candidates_that_start_at_the_same_moment(real_api_server: RealAPIServer, sidecars: Sidecars) -> None:
    """Of five that find no lock object at the same moment one wins, the others follow, and none ends."""
    async with monitored_election(real_api_server, sidecars, ttl=20) as held, Proxy(real_api_server.url) as proxy:
        proxy.silence()
        held.start_many(5, kubeconfig=proxy.kubeconfig(held.kubeconfig))
        await until(lambda: proxy.open_connections >= 5, "all five wait for their first answer")
        proxy.heal()
        await held.settled(seconds=held.ttl / 2)
        assert all(one.is_running() for one in held.candidates)
        assert len({one for one, _ in held.monitor.self_namings()}) == 1
