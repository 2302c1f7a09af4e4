"""The tally: what a candidate counts is what happened to it, in virtual time."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from kubernetes_asyncio.client import Configuration

from sidecar.election import Balance
from sidecar.kube import ApiError, KubeClient, NoAnswerError
from sidecar.lab.virtualtime import run
from sidecar.record import RECORD_ANNOTATION
from sidecar.tally import HANDED_OVER, LAPSED, LEFT, LOST, RENEWAL_BUCKETS, STEPPED_DOWN, Tally
from tests.unit.arena import DEADLINE, RETRY, TIMEOUT, TTL, Arena
from tests.unit.faults import edit
from tests.unit.wire import HANG, answered, http, streamed, wire

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from tests.unit.arena import Process


def play(scene: Callable[[Arena], Awaitable[None]], seed: int = 0) -> None:
    """Run `scene` in virtual time."""

    async def main() -> None:
        arena = Arena(seed)
        await scene(arena)
        await arena.end()

    run(main())


def tally(process: Process) -> Tally:
    """Return what a process has counted."""
    return process.candidate._tally


def somebody_holds(body: dict[str, Any]) -> None:
    """Write another name into the record."""
    annotations = body["metadata"]["annotations"]
    annotations[RECORD_ANNOTATION] = annotations[RECORD_ANNOTATION].replace('"a"', '"somebody"')


def test_the_steady_state_is_renewals_and_nothing_else() -> None:
    """One term began, seen by everybody and by nobody as a change; the leader renews by the fast path, in time."""

    async def scene(arena: Arena) -> None:
        for name in ("a", "b", "c"):
            arena.start(name)
        leader = await arena.leader()
        await asyncio.sleep(100 * RETRY)
        counted = tally(leader)
        assert (counted.terms, counted.ended, counted.slow_paths, counted.late_renewals) == (1, {}, 0, 0)
        assert 98 <= sum(counted.renewals) <= 100
        assert counted.renewals[0] < sum(counted.renewals[:3])  # the network takes longer than the first bucket
        assert 0.01 < counted.renewal_seconds / sum(counted.renewals) < 0.25
        others = [process for process in arena.processes if process is not leader]
        assert [(tally(other).terms, sum(tally(other).renewals)) for other in others] == [(0, 0), (0, 0)]
        assert [tally(process).transitions for process in arena.processes] == [0, 0, 0]
        assert sum(tally(process).bids for process in arena.processes) >= 1
        assert [tally(process).watch_restarts for process in arena.processes] == [0, 0, 0]

    play(scene)


def test_a_leader_that_leaves_is_one_change_for_everybody() -> None:
    """The term ends by the exit of its process, and each of the others sees one more begin."""

    async def scene(arena: Arena) -> None:
        for name in ("a", "b", "c"):
            arena.start(name)
        leader = await arena.leader()
        await asyncio.sleep(TTL)
        leader.candidate.leave()
        await arena.until(lambda: leader.ended)
        arena.processes.remove(leader)
        await arena.leader()
        await asyncio.sleep(1)
        assert tally(leader).ended == {LEFT: 1}
        assert [tally(process).transitions for process in arena.processes] == [1, 1]
        assert sum(tally(process).terms for process in arena.processes) == 1

    play(scene)


def test_a_leader_that_is_cut_off_lapses() -> None:
    """Nothing arrives any more: every renewal counts with the time until it was given up, and the term lapses."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.until(leader.candidate.is_leading)
        await asyncio.sleep(TTL)
        leader.network.hangs = True
        before = sum(tally(leader).renewals)
        await arena.until(lambda: not leader.candidate.is_leading())
        await asyncio.sleep(TIMEOUT)
        counted = tally(leader)
        assert counted.ended == {LAPSED: 1}
        waited = next(number for number, limit in enumerate(RENEWAL_BUCKETS) if limit >= TIMEOUT)
        assert counted.renewals[waited] >= 1
        assert sum(counted.renewals) > before
        leader.network.heal()
        await arena.until(leader.candidate.is_leading)
        # Nobody took the lock meanwhile, so it goes on with it: another term, and the same holder since the same time.
        assert (counted.terms, counted.transitions) == (2, 0)

    play(scene)


def test_a_renewal_at_the_second_try_is_late_and_takes_the_slow_path() -> None:
    """One renewal gets no answer: the next comes after a read, as client-go counts it, and close to the deadline."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.until(leader.candidate.is_leading)
        await asyncio.sleep(TTL)
        sent = len(arena.requests)
        leader.network.hangs = True
        await arena.until(lambda: len(arena.requests) > sent)
        # Until two thirds of the deadline are over.
        await asyncio.sleep(DEADLINE * 2 / 3 - RETRY)
        leader.network.heal()
        await asyncio.sleep(TTL)
        counted = tally(leader)
        assert counted.slow_paths == 1
        assert counted.late_renewals == 1
        assert counted.terms == 1

    play(scene)


def test_a_leader_that_is_told_to_step_down_does() -> None:
    """To step down is a reason of its own, whoever asked for it."""

    async def scene(arena: Arena) -> None:
        for name in ("a", "b"):
            arena.start(name)
        leader = await arena.leader()
        await asyncio.sleep(TTL)
        assert leader.candidate.step_down("a test")
        await arena.leader()
        assert tally(leader).ended == {STEPPED_DOWN: 1}

    play(scene)


def test_a_lock_in_other_hands_is_a_loss() -> None:
    """Somebody writes another name into the record: the term is lost, and that leadership is one more."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.until(leader.candidate.is_leading)
        await asyncio.sleep(TTL)
        edit(arena, somebody_holds)
        await arena.until(lambda: not leader.candidate.is_leading())
        assert tally(leader).ended == {LOST: 1}

    play(scene)


def test_hand_overs_are_told_apart() -> None:
    """Two elections that begin on one node: one is handed over, and whoever got it has begun a term."""

    async def scene(arena: Arena) -> None:
        balance = Balance()
        for election in ("one", "two"):
            arena.start("a", election=election, node="full", balance=balance)
        for election in ("one", "two"):
            await arena.leader(election=election)
        for election in ("one", "two"):
            arena.start("b", election=election, node="empty", balance=balance)
        await arena.until(lambda: arena.handovers > 0, within=60)
        await asyncio.sleep(TTL)
        handed = [process for process in arena.processes if tally(process).ended == {HANDED_OVER: 1}]
        assert [process.node for process in handed] == ["full"]
        assert sum(tally(process).terms for process in arena.processes) == 3
        seen = [tally(process).transitions for process in arena.processes if process.election == handed[0].election]
        assert seen[0] == 1

    play(scene)


def test_watches_that_end_are_begun_anew() -> None:
    """The first watch is no restart."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a")
        await arena.until(process.candidate.is_leading)
        await asyncio.sleep(TTL)
        assert tally(process).watch_restarts == 0
        process.network.cut_watch()
        await asyncio.sleep(TTL)
        assert tally(process).watch_restarts == 1

    play(scene)


@pytest.mark.parametrize(
    ("status", "code"),
    [(200, "200"), (409, "409"), (404, "404"), (418, "4xx"), (599, "5xx"), (302, "3xx"), (None, "none")],
)
def test_codes_are_few(status: int | None, code: str) -> None:
    """Statuses that a server makes up go by their class, so that it cannot fill the memory with them."""
    counted = Tally()
    counted.request("get", status)
    counted.request("get", status)
    assert counted.requests == {("get", code): 2}


def test_every_status_makes_few_codes() -> None:
    """All statuses that HTTP has are told by few codes."""
    counted = Tally()
    for status in range(1000):
        counted.request("get", status)
    assert len(counted.requests) < 25


def test_failures_count_as_renewals() -> None:
    """A server that answers each renewal with an error is seen in the number of renewals, and makes none late."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.until(leader.candidate.is_leading)
        await asyncio.sleep(TTL)
        before = sum(tally(leader).renewals)
        leader.network.errors = (ApiError("503", status=503), NoAnswerError("no answer"))
        await arena.until(lambda: not leader.candidate.is_leading())
        assert sum(tally(leader).renewals) > before
        assert tally(leader).late_renewals == 0

    play(scene)


async def test_requests_are_told_by_verb_and_status(monkeypatch: pytest.MonkeyPatch) -> None:
    """The client tells each request once: lists and watches by their own verbs, and what gets no answer without one."""
    # To load the machine's authorities takes longer than the test.
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")
    counted = Tally()
    listing = {"kind": "List", "items": [], "metadata": {"resourceVersion": "7"}}
    answers = [answered({}), answered({}), answered({}), answered({}), answered(listing), streamed(), http(409), HANG]
    async with wire(*answers) as server:

        async def load() -> Configuration:
            return Configuration(host=server.url)

        kube = KubeClient(load, timeout=1, user_agent="t", tell=counted.request)
        await kube.get("/a")
        await kube.create("/a", {})
        await kube.update("/a", {})
        await kube.patch("/a", {})
        await kube.list_metadata("/a", label="x=y", cached=True)
        async with kube.watch("/a", name="a", version=7, seconds=1) as events:
            assert [event async for event in events] == []
        with pytest.raises(ApiError):
            await kube.update("/a", {})
        with pytest.raises(NoAnswerError):
            await kube.get("/a")
        await kube.close()
    assert counted.requests == {
        ("get", "200"): 1,
        ("create", "200"): 1,
        ("update", "200"): 1,
        ("patch", "200"): 1,
        ("list", "200"): 1,
        ("watch", "200"): 1,
        ("update", "409"): 1,
        ("get", "none"): 1,
    }
