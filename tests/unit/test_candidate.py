"""The driver: real candidates in virtual time, against the lab's store, with and without faults."""

from __future__ import annotations

import asyncio
import time
from random import Random
from typing import TYPE_CHECKING, Any, cast

import pytest

from sidecar.candidate import SystemClock
from sidecar.kube import ApiError, NotFoundError
from sidecar.lab.network import Network
from sidecar.lab.resources import ENDPOINTS
from sidecar.lab.virtualtime import run
from sidecar.record import RECORD_ANNOTATION, Record
from tests.unit.arena import (
    CONFLICT,
    DEADLINE,
    ELECTION,
    RETRY,
    TIMEOUT,
    TTL,
    UNKNOWN,
    Arena,
    Process,
)
from tests.unit.faults import TROUBLES, edit

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.candidate import Clock
    from sidecar.locks import EndpointsLock

SEEDS = range(80)


def play(scene: Callable[[Arena], Awaitable[None]], seed: int = 0) -> None:
    """Run `scene` in virtual time; whatever it does, two leaders are an error."""

    async def main() -> None:
        arena = Arena(seed)
        await scene(arena)
        await arena.end()

    run(main())


def client_of(process: Process) -> Any:  # noqa: ANN401 - so that a test may replace its methods
    """Return the client of the API server in the process's lock."""
    return cast("EndpointsLock", process.candidate._lock)._kube


def test_the_machines_clock_runs_on_while_the_machine_sleeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leases are timed by CLOCK_BOOTTIME: by any other clock a leader that was suspended would lead on after it."""
    monkeypatch.setattr(time, "clock_gettime", {time.CLOCK_BOOTTIME: 5.0}.__getitem__)
    assert SystemClock().now() == 5.0


# -- When all is well --------------------------------------------------------------------------------------------------


def test_one_of_three_leads() -> None:
    """Three start at once on nothing: one leads within a second, and all name it."""

    async def scene(arena: Arena) -> None:
        for name in ("a", "b", "c"):
            arena.start(name)
        leader = await arena.leader(within=1)
        await arena.until(lambda: all(p.candidate.leader_name() == leader.identity for p in arena.processes), within=2)

    play(scene)


def test_steady_state_costs_one_write_a_retry_period() -> None:
    """The leader writes once a retry period and reads nothing; a follower sends nothing at all but its watch."""

    async def scene(arena: Arena) -> None:
        for number in range(5):
            arena.start(f"c{number}")
        leader = await arena.leader()
        await asyncio.sleep(3)
        since = arena.loop.time()
        await asyncio.sleep(100 * RETRY)
        assert arena.requests_since(since, leader) == ["update"] * len(arena.requests_since(since, leader))
        assert 98 <= len(arena.requests_since(since, leader)) <= 100
        assert len(arena.requests_since(since)) == len(arena.requests_since(since, leader))
        assert arena.watches == 5

    play(scene)


def test_long_watch_is_renewed_when_the_server_ends_it() -> None:
    """Each candidate watches anew about once an hour, and nothing else is sent by followers."""

    async def scene(arena: Arena) -> None:
        processes = [arena.start(name) for name in ("a", "b")]
        leader = await arena.leader()
        await asyncio.sleep(3)
        since = arena.loop.time()
        await asyncio.sleep(4300)
        for process in processes:
            sent = [verb for verb in arena.requests_since(since, process) if verb != "update"]
            assert set(sent) <= {"watch"}, sent
            assert 1 <= len(sent) <= 2
        assert arena.leaders() == [leader]

    play(scene)


def test_leader_that_leaves_is_followed_at_once() -> None:
    """On SIGTERM the lock is released, and somebody else leads within half a second."""

    async def scene(arena: Arena) -> None:
        for name in ("a", "b", "c"):
            arena.start(name)
        leader = await arena.leader()
        await asyncio.sleep(10)
        leader.candidate.leave()
        assert not leader.candidate.is_leading()
        assert leader.candidate.status().role == "releasing"
        assert await arena.until(lambda: bool(arena.leaders()), within=2) < 0.5
        assert await arena.until(lambda: leader.ended, within=1) < 0.5

    play(scene)


def test_leader_that_is_killed_is_followed_after_its_lease() -> None:
    """On SIGKILL the lease is waited out, and somebody else leads within half a second after it."""

    async def scene(arena: Arena) -> None:
        for name in ("a", "b", "c"):
            arena.start(name)
        leader = await arena.leader()
        await asyncio.sleep(10)
        arena.kill(leader)
        took = await arena.until(lambda: bool(arena.leaders()), within=2 * TTL)
        assert TTL - RETRY - 0.1 < took < TTL + 0.5

    play(scene)


def test_container_that_restarts_goes_on_at_once() -> None:
    """The same pod, started again, leads again without waiting for its own lease to run out."""

    async def scene(arena: Arena) -> None:
        arena.start("b", pod_uid="b")
        leader = await arena.leader()
        arena.start("a")
        await asyncio.sleep(5)
        arena.kill(leader)
        again = arena.start("b", pod_uid="b")
        await arena.until(again.candidate.is_leading, within=0.5)

    play(scene)


def test_same_name_in_another_pod_waits() -> None:
    """A pod that is made again elsewhere waits the lease of its name out, and names nobody meanwhile."""

    async def scene(arena: Arena) -> None:
        first = arena.start("a")
        await arena.leader()
        second = arena.start("a")
        await asyncio.sleep(5 * TTL)
        assert arena.leaders() == [first]
        assert second.candidate.leader_name() == ""
        arena.kill(first)
        await arena.until(second.candidate.is_leading, within=TTL + 0.5)

    play(scene)


def test_slow_requests_count_from_when_they_were_sent() -> None:
    """A leader's validity, and what a read may be believed to show, count from before the request was sent."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a", network=Network(latency=(0.9, 0.9)))
        await arena.leader()
        assert DEADLINE - 2.0 < process.candidate.status().valid_for < DEADLINE - 1.7
        assert process.candidate._state.read_at < 0.1

    play(scene)


def test_status_of_a_process_that_was_stopped() -> None:
    """Asked before it has noticed anything, a leader that stood still until its term was over holds nothing."""

    class Later:
        def __init__(self, clock: Clock) -> None:
            self._clock = clock

        def now(self) -> float:
            return self._clock.now() + DEADLINE

        def wall(self) -> float:
            return self._clock.wall() + DEADLINE

    async def scene(arena: Arena) -> None:
        process = arena.start("a")
        await arena.leader()
        clock = process.candidate._clock
        process.candidate._clock = Later(clock)
        status = process.candidate.status()
        process.candidate._clock = clock
        assert (status.role, status.leader, status.valid_for) == ("following", "", 0.0)
        assert status.why.startswith("stopped leading")

    play(scene)


def test_status_tells_what_is_known() -> None:
    """What can be told of a leader and of a follower is told: role, leader, its node, token, validity, reason."""

    async def scene(arena: Arena) -> None:
        first = arena.start("a")
        assert first.candidate.status().role == "starting"
        assert not first.candidate.is_ready()
        await arena.leader()
        second = arena.start("b")
        await arena.until(lambda: second.candidate.leader_name() == "a", within=1)
        leads, follows = first.candidate.status(), second.candidate.status()
        assert (leads.role, leads.leader, leads.leader_node, leads.why) == ("leading", "a", "node-a", "leading")
        assert leads.fencing_token == int(
            arena.store.get(ENDPOINTS, "default", ELECTION)["metadata"]["resourceVersion"]
        )
        assert 0 < leads.valid_for <= DEADLINE
        assert leads.transitions == 0
        assert (follows.role, follows.leader, follows.leader_node) == ("following", "a", "node-a")
        assert follows.fencing_token is None
        assert follows.why == "a holds the lock"
        assert follows.last_error == ""
        assert second.candidate.is_ready()

    play(scene)


# -- Leaving -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", [0.0, 0.001, 0.005, 0.01, 0.02, 0.03, 0.05, 0.1, 2.5, 2.505, 2.51, 2.52, 2.53, 2.55])
@pytest.mark.parametrize("seed", range(5))
def test_leaves_at_any_instant(moment: float, seed: int) -> None:
    """Told to leave in the middle of whatever it does, a candidate ends soon, and leaves the lock vacant behind it."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a")
        await asyncio.sleep(moment)
        process.candidate.leave()
        process.candidate.leave()
        assert await arena.until(lambda: process.ended, within=2 * TIMEOUT) < 0.5
        successor = arena.start("b")
        await arena.until(successor.candidate.is_leading, within=0.5)

    play(scene, seed)


@pytest.mark.parametrize("moment", [0.01, 1.0, 2.51, 4.0, 7.0, 30.0])
def test_leaves_in_time_when_the_api_server_hangs(moment: float) -> None:
    """With an API server that does not answer, leaving ends within two request time-outs, and says so."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a")
        await arena.leader()
        process.network.hangs = True
        await asyncio.sleep(moment)
        process.candidate.leave()
        assert await arena.until(lambda: process.ended, within=TTL) <= 2 * TIMEOUT + 0.1
        assert arena.said(process)[-1].startswith("could not release the lock in time")

    play(scene)


def test_follower_leaves_at_once_when_the_api_server_hangs() -> None:
    """Whoever holds nothing asks nothing, so nothing can hold it up."""

    async def scene(arena: Arena) -> None:
        arena.start("a")
        await arena.leader()
        process = arena.start("b")
        await arena.until(process.candidate.is_ready, within=1)
        process.network.hangs = True
        await asyncio.sleep(1)
        since = arena.loop.time()
        process.candidate.leave()
        await arena.until(lambda: process.ended, within=0.1)
        assert arena.requests_since(since, process) == []

    play(scene)


def test_read_that_hangs_does_not_hold_up_leaving() -> None:
    """A candidate whose very first read is not answered has nothing to release, and goes at once."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a", network=Network(hangs=True))
        await asyncio.sleep(0.5)
        process.candidate.leave()
        await arena.until(lambda: process.ended, within=0.1)

    play(scene)


# -- The API server is away --------------------------------------------------------------------------------------------

AWAY = [
    pytest.param({"hangs": True}, id="hangs"),
    pytest.param({"errors": (ApiError("connection refused"),)}, id="refuses-connections"),
    pytest.param({"errors": UNKNOWN}, id="5xx"),
    pytest.param({"errors": (ApiError("429", status=429, retry_after=1.0),)}, id="429-with-retry-after"),
    pytest.param({"errors": (ApiError("422", status=422),)}, id="4xx"),
    pytest.param({"errors": CONFLICT}, id="409-always"),
]


def set_network(processes: list[Process], values: dict[str, Any]) -> None:
    """Give all of them the same trouble."""
    for process in processes:
        for name, value in values.items():
            setattr(process.network, name, value)
        if not values.get("hangs"):
            process.network.cut_watch()
        process.network.watch = "works" if values.get("hangs") else "ends"


@pytest.mark.parametrize("away", AWAY)
def test_outage_is_borne(away: dict[str, Any]) -> None:
    """The leader gives up in time, and soon nobody is named; all is well again soon after the return.

    Meanwhile the rate of requests is bounded, and the loop is alive.
    """

    async def scene(arena: Arena) -> None:
        processes = [arena.start(name) for name in ("a", "b", "c")]
        leader = await arena.leader()
        await asyncio.sleep(10)
        set_network(processes, away)
        began = arena.loop.time()
        await arena.until(lambda: not leader.candidate.is_leading(), within=DEADLINE + RETRY)
        await asyncio.sleep(TTL)
        assert [process.candidate.leader_name() for process in processes] == ["", "", ""]
        while arena.loop.time() < began + 300:
            await asyncio.sleep(1)
            assert all(process.candidate.is_alive() for process in processes)
        for process in processes:
            assert len(arena.requests_since(began, process)) < 300 / RETRY * 5
            assert len(arena.requests_since(began, process)) > 300 / TTL, "and it goes on trying"
        for process in processes:
            process.network.heal()
        assert await arena.until(lambda: bool(arena.leaders()), within=TTL) < RETRY + TIMEOUT + 0.5

    play(scene)


@pytest.mark.parametrize("away", AWAY)
def test_outage_is_told_once(away: dict[str, Any]) -> None:
    """Five minutes without the API server is a handful of lines, not a line a failure."""

    async def scene(arena: Arena) -> None:
        processes = [arena.start(name) for name in ("a", "b")]
        await arena.leader()
        await asyncio.sleep(10)
        set_network(processes, away)
        since = arena.loop.time()
        await asyncio.sleep(300)
        for process in processes:
            said = arena.said(process, since)
            assert len(said) <= 12, "\n".join(said)

    play(scene)


def test_nothing_but_writes_fails_and_is_told_once() -> None:
    """Reads are answered and writes are not: the trouble is told once, not at every turn."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a")
        await arena.leader()
        client = client_of(process)
        answer = client._ask

        async def only_reads(verb: str, operation: Any) -> Any:  # noqa: ANN401 - hands on what it gets
            if verb != "get":
                raise ApiError(f"{verb}: no answer in time")
            return await answer(verb, operation)

        client._ask = only_reads
        since = arena.loop.time()
        await asyncio.sleep(600)
        said = arena.said(process, since)
        assert len(said) <= 3, "\n".join(said)
        client._ask = answer
        await arena.until(process.candidate.is_leading, within=TTL)
        assert len(arena.said(process, since)) <= 5

    play(scene)


def test_loop_that_hangs_is_told_from_one_that_waits() -> None:
    """`is_alive` is false when the loop makes no progress, and only then."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a")
        await arena.leader()
        await asyncio.sleep(60)
        assert process.candidate.is_alive()
        client_of(process)._ask = lambda *_: asyncio.Event().wait()
        await asyncio.sleep(60)
        assert not process.candidate.is_alive()

    play(scene)


def test_follower_of_a_long_lease_is_alive() -> None:
    """A wait of an hour goes in steps, so that a loop that hangs can be told from one that has nothing to do."""

    async def scene(arena: Arena) -> None:
        record = Record(holder="x", lease_seconds=3600, acquire_time="", renew_time="", transitions=0)
        metadata = {"name": ELECTION, "annotations": {RECORD_ANNOTATION: record.encode()}}
        arena.store.create(ENDPOINTS, "default", {"metadata": metadata})
        process = arena.start("a")
        for _ in range(60):
            await asyncio.sleep(10)
            assert process.candidate.is_alive()
        assert process.candidate.leader_name() == "x"

    play(scene)


# -- The watch ---------------------------------------------------------------------------------------------------------


def test_watch_that_is_forbidden_is_said_once_and_polled_for() -> None:
    """With get, create and update alone, elections work: a follower polls, and the log names what is missing."""

    async def scene(arena: Arena) -> None:
        first, second = (arena.start(name, network=Network(watch="forbidden")) for name in ("a", "b"))
        leader = await arena.leader()
        await asyncio.sleep(600)
        assert arena.leaders() == [leader]
        follower = second if leader is first else first
        for process in (first, second):
            assert sum("'watch'" in line and "'endpoints'" in line for line in arena.said(process)) == 1
        polls = arena.requests_since(0, follower).count("get")
        assert 600 / RETRY / 1.2 < polls < 600 / RETRY * 1.2
        assert arena.requests_since(0, follower).count("watch") <= 3
        leader.candidate.leave()
        assert await arena.until(follower.candidate.is_leading, within=TTL) < 1.2 * RETRY + 0.5

    play(scene)


def test_watch_that_is_allowed_later_is_taken_up() -> None:
    """Somebody grants the verb: the watch is tried again within minutes, and polling ends."""

    async def scene(arena: Arena) -> None:
        arena.start("a")
        await arena.leader()
        follower = arena.start("b", network=Network(watch="forbidden"))
        await asyncio.sleep(30)
        follower.network.heal()
        await asyncio.sleep(900)
        since = arena.loop.time()
        await asyncio.sleep(120)
        assert arena.requests_since(since, follower) == []

    play(scene)


def test_silent_watch_of_a_leader_is_noticed() -> None:
    """A half-open connection shows the leader nothing of its own writes: it watches anew within a few seconds."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.leader()
        await asyncio.sleep(10)
        leader.network.watch = "silent"
        since = arena.loop.time()
        await arena.until(lambda: "watch" in arena.requests_since(since, leader), within=RETRY + TIMEOUT + 1)
        leader.network.heal()
        assert arena.leaders() == [leader]

    play(scene)


def test_silent_watch_of_a_follower_is_noticed() -> None:
    """A follower that is shown nothing reads when the lease ends, sees that the leader lives, and watches anew."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.leader()
        follower = arena.start("b")
        await asyncio.sleep(10)
        follower.network.watch = "silent"
        since = arena.loop.time()
        await arena.until(lambda: "watch" in arena.requests_since(since, follower), within=TTL + TIMEOUT + 2)
        follower.network.heal()
        await asyncio.sleep(60)
        assert arena.leaders() == [leader]
        assert follower.candidate.leader_name() == "a"

    play(scene)


def test_watch_that_is_cut_is_taken_up_where_it_was() -> None:
    """A connection that breaks costs one request, and no read."""

    async def scene(arena: Arena) -> None:
        arena.start("a")
        await arena.leader()
        follower = arena.start("b")
        await asyncio.sleep(20)
        since = arena.loop.time()
        follower.network.cut_watch()
        await asyncio.sleep(20)
        assert arena.requests_since(since, follower).count("watch") == 1
        assert arena.requests_since(since, follower).count("get") <= 1
        assert follower.candidate.leader_name() == "a"

    play(scene)


def test_watch_that_never_lasts_is_backed_off_from() -> None:
    """Something in between ends every watch at once: it is tried ever more rarely, and polling fills the gaps."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.leader()
        follower = arena.start("b", network=Network(watch="ends"))
        await asyncio.sleep(600)
        assert arena.requests_since(0, follower).count("watch") < 600 / 7
        assert 600 / RETRY / 2 < arena.requests_since(0, follower).count("get") < 600 / RETRY * 1.3
        assert follower.candidate.leader_name() == "a"
        assert arena.leaders() == [leader]

    play(scene)


def test_version_that_is_forgotten_is_read_anew() -> None:
    """410: the history is gone, so the lock is read, and watched from there."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.leader()
        follower = arena.start("b")
        await asyncio.sleep(10)
        follower.network.watch = "gone"
        since = arena.loop.time()
        follower.network.cut_watch()
        await arena.until(lambda: "watch" in arena.requests_since(since, follower), within=1)
        told = arena.loop.time()
        await arena.until(lambda: "get" in arena.requests_since(told, follower), within=0.1)
        await asyncio.sleep(10)
        arena.store.compact()
        follower.network.heal()
        await asyncio.sleep(30)
        since = arena.loop.time()
        await asyncio.sleep(60)
        assert arena.requests_since(since, follower) == []
        assert follower.candidate.leader_name() == "a"
        assert arena.leaders() == [leader]

    play(scene)


# -- The lock object in strange hands ----------------------------------------------------------------------------------


def test_edited_record_is_revoked_on_within_an_instant() -> None:
    """Somebody writes another holder into the record: the leader learns it from its watch and stops at once."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.leader()
        await asyncio.sleep(11)

        def change(body: dict[str, Any]) -> None:
            annotations = body["metadata"]["annotations"]
            annotations[RECORD_ANNOTATION] = annotations[RECORD_ANNOTATION].replace('"a"', '"somebody"')

        edit(arena, change)
        assert await arena.until(lambda: not leader.candidate.is_leading(), within=1) < 0.2
        assert leader.candidate.leader_name() == "somebody"
        await arena.until(leader.candidate.is_leading, within=TTL + 1)

    play(scene)


def test_deleted_object_is_made_again_after_the_lease() -> None:
    """The object is deleted: the leader stops at once, and whoever saw it held waits the lease out."""

    async def scene(arena: Arena) -> None:
        processes = [arena.start(name) for name in ("a", "b", "c")]
        leader = await arena.leader()
        await asyncio.sleep(11)
        arena.store.delete(ENDPOINTS, "default", ELECTION)
        assert await arena.until(lambda: not leader.candidate.is_leading(), within=1) < 0.2
        assert {process.candidate.leader_name() for process in processes} <= {"", leader.identity}
        took = await arena.until(lambda: bool(arena.leaders()), within=2 * TTL)
        assert TTL - RETRY - 0.5 < took < TTL + 0.5

    play(scene)


def test_conflict_is_settled_soon_and_is_no_trouble() -> None:
    """Somebody touched the object, and the watch did not tell: the renewal's conflict is settled within moments."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a", network=Network(watch="forbidden"))
        await arena.leader()
        await asyncio.sleep(RETRY + 1)
        since = arena.loop.time()
        edit(arena, lambda body: body["metadata"].update(labels={"touched": "x"}))
        await arena.until(lambda: arena.requests_since(since, leader) == ["update", "get", "update"], within=2 * RETRY)
        sent = [request.time for request in arena.requests if request.time >= since]
        assert sent[2] - sent[0] < RETRY / 8
        assert arena.leaders() == [leader]
        assert "409" not in leader.candidate.status().last_error

    play(scene)


def test_object_that_is_gone_is_no_trouble() -> None:
    """A renewal that is answered with 404 says that the object was deleted; it is not a request that failed."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a")
        await arena.leader()
        leader.network.errors = (NotFoundError("404", status=404),)
        await arena.until(lambda: not leader.candidate.is_leading(), within=DEADLINE - 1)
        assert leader.candidate.status().last_error == ""

    play(scene)


def test_damaged_record_is_told_and_taken_over() -> None:
    """A record that nobody can read is reported, held for one lease, and then replaced."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a")
        await arena.leader()
        await asyncio.sleep(11)
        since = arena.loop.time()
        edit(arena, lambda body: body["metadata"]["annotations"].update({RECORD_ANNOTATION: "{"}))
        await arena.until(lambda: not process.candidate.is_leading(), within=1)
        took = await arena.until(process.candidate.is_leading, within=2 * TTL)
        assert TTL - 0.5 < took < TTL + 0.5
        assert any("cannot be read" in line for line in arena.said(process, since))

    play(scene)


def test_pause_beyond_the_lease() -> None:
    """A leader that is stopped, while another takes over, and goes on: it never names itself beside the other."""

    async def scene(arena: Arena) -> None:
        for name in ("a", "b"):
            arena.start(name)
        leader = await arena.leader()
        await asyncio.sleep(10)
        arena.stop(leader, 3 * TTL)
        await asyncio.sleep(DEADLINE + RETRY)
        assert not leader.candidate.is_leading(), "nothing of it ran, and yet it would answer so"
        other = await arena.leader()
        assert other is not leader
        await asyncio.sleep(3 * TTL)
        assert arena.leaders() == [other]
        assert leader.candidate.leader_name() == other.identity

    play(scene)


# -- Everything at once ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}")
def test_never_two_lead_and_one_does_in_the_end(seed: int) -> None:
    """Whatever goes wrong: at no instant do two lead; when all is well again, exactly one does, and all name it."""

    async def scene(arena: Arena) -> None:
        random = Random(seed)  # noqa: S311 - plays, protects nothing
        names = random.choice([("a", "b", "c"), ("a", "a"), ("a", "b"), ("a", "b", "c", "d", "a")])
        for name in names:
            arena.start(name, rate=random.uniform(0.9, 1.3), offset=random.uniform(0, 1e6))
        for _ in range(random.randrange(5, 25)):
            await asyncio.sleep(random.choice([0.05, 0.5, 2.0, 6.0, 12.0]))
            process = random.choice([each for each in arena.processes if not each.candidate._state.leaving])
            random.choice(TROUBLES)(arena, process, random)
            if random.random() < 0.4:
                for process in arena.processes:
                    process.network.heal()
        for process in arena.processes:
            process.network.heal()
        await asyncio.sleep(30)
        alive = [process for process in arena.processes if not process.ended]
        assert len(alive) == len(names)
        leader = await arena.leader(within=2 * TTL)
        await asyncio.sleep(2 * TTL)
        assert arena.leaders() == [leader], "and leadership stays where it is"
        for process in alive:
            other_of_that_name = process is not leader and process.identity == leader.identity
            assert process.candidate.leader_name() == ("" if other_of_that_name else leader.identity)
            assert process.candidate.is_alive()

    play(scene, seed)
