"""Kubernetes Events: what they say, how many there are, and that nothing waits for them."""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, Any

from sidecar.companions import FINISH_LIMIT
from sidecar.events import (
    ATTEMPTS,
    BURST,
    QUEUE_LIMIT,
    REFILL_SECONDS,
    RETRY_SECONDS,
    Bucket,
    Entry,
    EventRecorder,
    Subject,
    event_body,
)
from sidecar.kube import DENIAL_SECONDS, ApiError
from sidecar.lab.network import Network
from sidecar.lab.resources import ENDPOINTS, EVENTS
from tests.unit.arena import TTL, Arena
from tests.unit.beside import accompany, play

if TYPE_CHECKING:
    from sidecar.lab.network import LabClient, Request
    from tests.unit.arena import Process

POD = Subject(api_version="v1", kind="Pod", namespace="default", name="a", uid="u")
LOCK = Subject(api_version="v1", kind="Endpoints", namespace="default", name="example")


def telling(
    arena: Arena, identity: str = "a", *, subject: Subject = POD, network: Network | None = None
) -> tuple[Process, list[Request]]:
    """Start a candidate whose leadership is told by Events, and return it with the requests for them."""
    process = arena.start(identity)

    def make(client: LabClient, log: Any) -> EventRecorder:  # noqa: ANN401 - structlog's own type for a bound logger
        wall = process.clock.wall
        now = arena.loop.time
        return EventRecorder(process.candidate, client, subject, identity=identity, now=now, wall=wall, log=log)

    return process, accompany(arena, process, make, network=network)


def told(arena: Arena) -> list[str]:
    """Return the messages of the Events that there are, in the order in which they were written."""
    found = arena.store.list_objects(EVENTS, "default").items
    return [event["message"] for event in sorted(found, key=lambda one: int(one["metadata"]["resourceVersion"]))]


async def lead_and_lapse(arena: Arena, process: Process) -> None:
    """Have a candidate lead, and lose its leadership by an order, so that it leads again at once after another."""
    await arena.until(process.candidate.is_leading)
    process.candidate.abstain("test")
    await arena.until(lambda: process.candidate.status().role != "releasing")
    process.candidate.stand("test")


def test_a_few_at_once_and_then_one_a_minute() -> None:
    """A burst is taken from a full bucket, which fills again with time, and never beyond its size."""
    bucket: Bucket | None = Bucket(at=0.0)
    for _ in range(BURST):
        assert bucket is not None
        bucket = bucket.take(0.0)
    assert bucket is not None
    assert bucket.take(REFILL_SECONDS * 0.99) is None
    once = bucket.take(REFILL_SECONDS)
    assert once is not None
    assert once.take(REFILL_SECONDS) is None
    full = bucket.take(1e9)
    assert full is not None
    assert full.tokens == BURST - 1
    assert bucket.take(-5.0) is None, "a clock that was set back gives nothing away"


def test_an_event_of_a_long_name_is_valid() -> None:
    """Names stay within what the API server takes, also of an object with the longest name and an identity of 1024."""
    subject = Subject(api_version="v1", kind="Pod", namespace="default", name="a" * 229 + "." + "b" * 23, uid="u")
    body = event_body(subject, Entry("x became leader", 1_700_000_000.5), identity="x" * 1024, uid="u")
    assert len(body["metadata"]["name"]) <= 253
    assert ".." not in body["metadata"]["name"]
    assert len(body["reportingInstance"]) <= 128
    assert body["firstTimestamp"] == body["lastTimestamp"] == "2023-11-14T22:13:20Z"


def test_a_leadership_has_two_events() -> None:
    """Its beginning and its end are told, the latter also when the process ends; nothing is sent in between."""

    async def scene(arena: Arena) -> None:
        process, sent = telling(arena)
        await arena.leader()
        await asyncio.sleep(600)
        assert told(arena) == ["a became leader"]
        assert len(sent) == 1
        process.candidate.leave()
        await arena.until(lambda: process.ended)
        await arena.until(lambda: len(told(arena)) == 2, within=1.0)
        assert told(arena) == ["a became leader", "a stopped leading"]

    play(scene)


def test_an_event_about_the_lock_object_has_its_uid() -> None:
    """Where the pod is unknown, the lock object is read for its UID before an Event of it is written."""

    async def scene(arena: Arena) -> None:
        _, sent = telling(arena, subject=LOCK)
        await arena.until(lambda: bool(told(arena)))
        (event,) = arena.store.list_objects(EVENTS, "default").items
        uid = arena.store.get(ENDPOINTS, "default", "example")["metadata"]["uid"]
        assert event["involvedObject"]["uid"] == uid
        assert [request.verb for request in sent] == ["get", "create"]

    play(scene)


def test_changes_that_come_often_are_left_out() -> None:
    """Beyond a burst Events are left out, and it is said once; later one is written again, and that is said."""

    async def scene(arena: Arena) -> None:
        process, sent = telling(arena)
        for _ in range(BURST):
            await lead_and_lapse(arena, process)
        await asyncio.sleep(1)
        assert len(told(arena)) == len(sent) == BURST
        assert sum("left out" in line for line in arena.said(process)) == 1
        await asyncio.sleep(3 * REFILL_SECONDS)
        await lead_and_lapse(arena, process)
        await asyncio.sleep(1)
        assert len(told(arena)) > BURST
        assert "Events are written again" in arena.said(process)

    play(scene)


def test_an_event_that_fails_is_tried_a_few_times() -> None:
    """An API server that fails is asked a few times for each Event, then the Event is dropped; it is said once."""

    async def scene(arena: Arena) -> None:
        network = Network(errors=(ApiError("500", status=500),))
        process, sent = telling(arena, network=network)
        await lead_and_lapse(arena, process)
        await asyncio.sleep(4 * ATTEMPTS * RETRY_SECONDS)
        assert len(sent) == ATTEMPTS * 3
        assert sum("could not be written" in line for line in arena.said(process)) == 1
        network.heal()
        process.candidate.leave()
        await arena.until(lambda: told(arena) == ["a stopped leading"])

    play(scene)


def test_without_permission_nothing_is_sent() -> None:
    """A 403 is said once, and no Event is tried for ten minutes, however often the leader changes."""

    async def scene(arena: Arena) -> None:
        network = Network(forbidden=frozenset({"create"}))
        process, sent = telling(arena, network=network)
        for _ in range(3):
            await lead_and_lapse(arena, process)
        await asyncio.sleep(DENIAL_SECONDS / 2)
        assert len(sent) == 1
        assert [line for line in arena.said(process) if "Events" in line] == [
            "Events may not be written: who leads is in this log only create: forbidden"
        ]
        network.heal()
        await asyncio.sleep(DENIAL_SECONDS)
        await lead_and_lapse(arena, process)
        await arena.until(lambda: bool(told(arena)))
        assert "Events can be written again" in arena.said(process)

    play(scene)


def test_an_api_server_that_hangs_keeps_nobody() -> None:
    """While Events hang, the candidate leads and releases as ever, the queue stays bounded, and the process ends."""

    async def scene(arena: Arena) -> None:
        leader, _ = telling(arena, network=Network(hangs=True))
        beside = arena._tasks[-1]
        await arena.leader()
        follower = arena.start("b")
        await asyncio.sleep(TTL)
        leader.candidate.leave()
        await arena.until(lambda: arena.leaders() == [follower], within=1.0)
        assert leader.ended
        assert not beside.done()
        await arena.until(beside.done, within=FINISH_LIMIT + 0.1)

    play(scene)


def test_the_oldest_are_left_out_of_a_full_queue() -> None:
    """While nothing can be written for hours, no more than the latest Events wait."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a")
        recorder = partial(EventRecorder, process.candidate, subject=POD, identity="a", now=arena.loop.time)
        network = Network(hangs=True)
        made: list[EventRecorder] = []

        def make(client: LabClient, log: Any) -> EventRecorder:  # noqa: ANN401 - structlog's own type
            made.append(recorder(kube=client, wall=process.clock.wall, log=log))
            return made[0]

        accompany(arena, process, make, network=network)
        for _ in range(2 * QUEUE_LIMIT):
            await lead_and_lapse(arena, process)
            await asyncio.sleep(REFILL_SECONDS)
        assert len(made[0]._queue) <= QUEUE_LIMIT

    play(scene)
