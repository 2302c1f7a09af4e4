"""A fleet goes from Endpoints over both locks to Leases and back: real candidates in virtual time, and what can fail.

Candidates of neighbouring steps share the election: those of the Endpoints and of the pair, or of the pair and of the
Lease. Whatever happens, two leaders are an error of the arena's.
"""

from __future__ import annotations

import asyncio
from random import Random
from typing import TYPE_CHECKING, Any, cast

import pytest

from sidecar.election import Balance
from sidecar.kube import ApiError, ForbiddenError
from sidecar.lab.resources import ENDPOINTS, LEASES
from sidecar.lab.virtualtime import run
from tests.unit.arena import ELECTION, RETRY, TTL, Arena
from tests.unit.faults import (
    TROUBLES,
    answer_with_errors,
    be_slow,
    break_the_watch,
    forget,
    hang,
    lose_answers,
    lose_requests,
    set_the_clock,
    stop,
    touch,
)

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.pairlock import PairLock
    from tests.unit.arena import Process

ALONE, PAIR, LEASE = "endpoints", "endpointsleases", "leases"
STEPS = [(ALONE, PAIR), (PAIR,), (PAIR, LEASE)]
"""The kinds that may take part at one time."""

GENTLE = [
    be_slow,
    lose_answers,
    lose_requests,
    answer_with_errors,
    hang,
    break_the_watch,
    stop,
    set_the_clock,
    forget,
    touch,
]
"""What goes wrong with processes that go on."""


def play(scene: Callable[[Arena], Awaitable[None]], seed: int = 0) -> None:
    """Run `scene` in virtual time."""

    async def main() -> None:
        arena = Arena(seed)
        await scene(arena)
        await arena.end()

    run(main())


def lose_halves(arena: Arena, process: Process, random: Random) -> None:
    """For a while writes of one of the two objects fail, before they arrive or after they were done."""
    if process.lock != PAIR:
        return
    client = client_of(process)
    part, until = random.choice(["/endpoints", "/leases"]), arena.loop.time() + random.choice([1.0, 5.0, 20.0])

    def losing(asked: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
        async def lossy(path: str, body: Any) -> Any:  # noqa: ANN401 - as the client's
            lost = part in path and arena.loop.time() < until and random.random() < 0.7
            if lost and random.random() < 0.5:
                raise ApiError("the request was lost")
            answer = await asked(path, body)
            if lost:
                raise ApiError("the answer was lost")
            return answer

        return lossy

    for verb in ("create", "update"):
        setattr(client, verb, losing(getattr(client, verb)))


async def troubled(arena: Arena, random: Random) -> None:
    """Let one thing after the other go wrong, and all be well again in between."""
    for _ in range(random.randrange(2, 8)):
        for process in random.sample(arena.processes, k=min(len(arena.processes), random.randrange(1, 3))):
            if not process.ended:
                random.choice([*TROUBLES, lose_halves, lose_halves])(arena, process, random)
        await asyncio.sleep(random.choice([0.01, 0.3, 2.0, 5.0, 15.0]))
        if random.random() < 0.4:
            for process in arena.processes:
                process.network.heal()


def fleet(arena: Arena, *kinds: str, balance: Balance | None = None) -> list[Process]:
    """Start a process of each of these kinds."""
    return [arena.start(f"c{number}", lock=kind, balance=balance) for number, kind in enumerate(kinds)]


async def replaced(arena: Arena, process: Process, kind: str, *, killed: bool) -> Process:
    """End a process and start its successor, of another kind, as a rolling update does: one after the other."""
    if killed:
        arena.kill(process)
    else:
        process.candidate.leave()
        await arena.until(lambda: process.ended, within=10)
        arena.processes.remove(process)
    return arena.start(process.identity, lock=kind, balance=process.candidate._state.candidacy.balance)


def stored(arena: Arena) -> list[dict[str, Any]]:
    """Return the lock objects that there are."""
    return [each for kind in (ENDPOINTS, LEASES) for each in arena.store.list_objects(kind, "default").items]


def edit_lease(arena: Arena, change: Callable[[dict[str, Any]], None]) -> None:
    """Change the Lease as somebody with kubectl would."""
    body = {**arena.store.get(LEASES, "default", ELECTION)}
    body["spec"] = {**body["spec"]}
    change(body["spec"])
    arena.store.update(LEASES, "default", ELECTION, body)


def client_of(process: Process) -> Any:  # noqa: ANN401 - so that a test may replace its methods
    """Return the client of the API server in a pair."""
    return cast("PairLock", process.candidate._lock)._lease._kube


# -- When all is well --------------------------------------------------------------------------------------------------


def test_pair_costs_two_writes_a_retry_period() -> None:
    """The leader of the pair writes both objects once a retry period; followers send nothing but their two watches."""

    async def scene(arena: Arena) -> None:
        fleet(arena, PAIR, PAIR, PAIR)
        leader = await arena.leader(within=1)
        await asyncio.sleep(3)
        since = arena.loop.time()
        await asyncio.sleep(100 * RETRY)
        assert set(arena.requests_since(since)) == {"update"}
        assert arena.requests_since(since) == arena.requests_since(since, leader)
        assert 196 <= len(arena.requests_since(since)) <= 200
        assert arena.watches == 6
        first, second = stored(arena)
        assert second["spec"]["holderIdentity"] == leader.identity
        assert leader.identity in first["metadata"]["annotations"]["control-plane.alpha.kubernetes.io/leader"]

    play(scene)


@pytest.mark.parametrize("kind", [PAIR, LEASE])
def test_leader_that_leaves_is_followed_at_once(kind: str) -> None:
    """On SIGTERM what is held is released, and somebody else leads within half a second."""

    async def scene(arena: Arena) -> None:
        fleet(arena, kind, kind, kind)
        leader = await arena.leader()
        await asyncio.sleep(10)
        leader.candidate.leave()
        assert await arena.until(lambda: bool(arena.leaders()), within=2) < 0.5
        assert await arena.until(lambda: leader.ended, within=1) < 0.5

    play(scene)


@pytest.mark.parametrize("kind", [PAIR, LEASE])
@pytest.mark.parametrize("seed", range(5))
def test_leader_that_is_killed_is_followed_after_its_lease(kind: str, seed: int) -> None:
    """On SIGKILL the lease is waited out, and somebody else leads within half a second after it."""

    async def scene(arena: Arena) -> None:
        fleet(arena, kind, kind, kind)
        leader = await arena.leader()
        await asyncio.sleep(10)
        arena.kill(leader)
        took = await arena.until(lambda: bool(arena.leaders()), within=2 * TTL)
        assert TTL - RETRY - 0.1 < took < TTL + 0.5

    play(scene, seed)


@pytest.mark.parametrize("balance", [None, Balance()], ids=["off", "on"])
@pytest.mark.parametrize("killed", [False, True], ids=["terminated", "killed"])
@pytest.mark.parametrize("way", [(PAIR, LEASE), (PAIR, ALONE)], ids="-".join)
def test_rolling_updates_from_one_kind_to_the_other(
    way: tuple[str, str], balance: Balance | None, *, killed: bool
) -> None:
    """A fleet of three goes there step by step; after each replacement all name one leader, by the greatest token."""

    async def scene(arena: Arena) -> None:
        processes = fleet(arena, *[ALONE if way[1] == LEASE else LEASE] * 3, balance=balance)
        await arena.leader(within=10)
        for kind in way:
            for number, process in enumerate(processes):
                processes[number] = await replaced(arena, process, kind, killed=killed)
                await arena.leader(within=2.5 * TTL)
                await arena.until(
                    lambda: (
                        {each.candidate.leader_name() for each in processes}
                        == {each.identity for each in arena.leaders()}
                    ),
                    within=2 * TTL,
                )

    play(scene)


# -- One of the two ----------------------------------------------------------------------------------------------------


def test_pair_follows_whoever_leads_by_one_of_the_two() -> None:
    """A leader of the Endpoints alone, or of the Lease alone, is named by candidates of the pair, and left alone."""

    async def scene(arena: Arena) -> None:
        for kind in (ALONE, LEASE):
            leader = arena.start(f"leads-{kind}", lock=kind)
            await arena.until(leader.candidate.is_leading, within=5)
            followers = [arena.start(f"follows-{kind}-{number}", lock=PAIR) for number in range(2)]
            await asyncio.sleep(5 * TTL)
            assert arena.leaders() == [leader]
            assert {each.candidate.leader_name() for each in followers} == {leader.identity}
            for each in (*followers, leader):
                each.candidate.leave()
            await arena.until(lambda: all(each.ended for each in arena.processes), within=5)
            arena.processes.clear()

    play(scene)


def test_leader_of_the_endpoints_beside_a_stale_lease_is_named() -> None:
    """Where the pair's leader was killed and one of the Endpoints took over, that one is named, however long."""

    async def scene(arena: Arena) -> None:
        arena.start("pair", lock=PAIR)
        arena.kill(await arena.leader())
        alone = arena.start("alone")
        follower = arena.start("follower", lock=PAIR, network=None)
        follower.network.hangs = True
        await arena.until(alone.candidate.is_leading, within=2 * TTL)
        follower.network.hangs = False
        await arena.until(lambda: follower.candidate.leader_name() == "alone", within=2 * TTL)
        await asyncio.sleep(5 * TTL)
        assert arena.leaders() == [alone]
        assert follower.candidate.leader_name() == "alone"

    play(scene)


@pytest.mark.parametrize("kind", [ALONE, LEASE])
@pytest.mark.parametrize("same_pod", [False, True], ids=["another-pod", "same-pod"])
@pytest.mark.parametrize("seed", range(3))
def test_leader_of_one_of_the_two_is_waited_for_whatever_the_other_one_says(
    kind: str, seed: int, *, same_pod: bool
) -> None:
    """Beside what a killed leader of the pair left, a leader by one object has its whole lease, also cut off.

    That may be the same pod, whose container was started again with another kind of lock.
    """

    async def scene(arena: Arena) -> None:
        first = arena.start("first", lock=PAIR, pod_uid="first")
        await arena.leader()
        arena.kill(first)
        leader = arena.start("first", lock=kind, pod_uid="first") if same_pod else arena.start("other", lock=kind)
        await arena.until(leader.candidate.is_leading, within=2 * TTL)
        followers = [arena.start(f"pair-{number}", lock=PAIR) for number in range(2)]
        await asyncio.sleep(3 * TTL + seed)
        assert arena.leaders() == [leader]
        assert {each.candidate.leader_name() for each in followers} == {leader.identity}
        leader.network.hangs = True
        await arena.until(lambda: any(each.candidate.is_leading() for each in followers), within=3 * TTL)
        assert not leader.candidate.is_leading()

    play(scene, seed)


@pytest.mark.parametrize("verb", ["get", "create", "update"])
def test_pair_never_leads_by_one_of_the_two(verb: str) -> None:
    """Where Leases are forbidden the pair does not lead, and says so once; a candidate of the Endpoints does."""

    async def scene(arena: Arena) -> None:
        process = arena.start("pair", lock=PAIR)
        client = client_of(process)
        asked = getattr(client, verb)

        async def refused(path: str, *rest: Any) -> Any:  # noqa: ANN401 - the answer of any of them
            if "/leases" in path:
                raise ForbiddenError(f"{verb} {path}: 403: no", status=403)
            return await asked(path, *rest)

        if verb == "update":
            arena.store.create(LEASES, "default", {"metadata": {"name": ELECTION}})
        setattr(client, verb, refused)
        await asyncio.sleep(3 * TTL)
        assert arena.leaders() == []
        said = [line for line in arena.said(process) if "failed" in line]
        # Whoever may not create the Lease may not update the Endpoints either, which says more of the same.
        assert len(said) == (2 if verb == "create" else 1)
        assert all("see that the Role" in line for line in said)
        alone = arena.start("alone")
        await arena.until(alone.candidate.is_leading, within=2 * TTL)
        await asyncio.sleep(3 * TTL)
        assert arena.leaders() == [alone]

    play(scene)


@pytest.mark.parametrize("status", [None, 500, 422])
def test_second_halves_that_fail(status: int | None) -> None:
    """A leader whose writes of the Lease fail gives up in time, and somebody else leads after its lease."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a", lock=PAIR)
        await arena.leader()
        arena.start("b", lock=PAIR)
        await asyncio.sleep(5)
        client = client_of(leader)
        update = client.update

        async def broken(path: str, body: Any) -> Any:  # noqa: ANN401 - as the client's
            if "/leases/" in path:
                raise ApiError("broken", status=status)
            return await update(path, body)

        client.update = broken
        await arena.until(lambda: not arena.leaders(), within=TTL)
        took = await arena.until(lambda: bool(arena.leaders()), within=2 * TTL)
        assert took < TTL
        assert arena.leaders() != [leader]

    play(scene)


CHANGES: dict[str, Callable[[Arena], object]] = {
    "lease deleted": lambda arena: arena.store.delete(LEASES, "default", ELECTION),
    "endpoints deleted": lambda arena: arena.store.delete(ENDPOINTS, "default", ELECTION),
    "lease emptied": lambda arena: edit_lease(arena, lambda spec: spec.clear()),
    "lease released": lambda arena: edit_lease(arena, lambda spec: spec.update(holderIdentity="")),
    "lease taken": lambda arena: edit_lease(arena, lambda spec: spec.update(holderIdentity="z")),
    "lease damaged": lambda arena: edit_lease(arena, lambda spec: spec.pop("leaseDurationSeconds")),
    "claim removed": lambda arena: arena.store.patch(
        LEASES, "default", ELECTION, {"metadata": {"annotations": {"leader-elector/claim": None}}}
    ),
}


@pytest.mark.parametrize("change", CHANGES.values(), ids=CHANGES.keys())
def test_leader_of_the_pair_revokes_when_one_of_the_two_is_changed(change: Callable[[Arena], object]) -> None:
    """Whatever others do to one of the two ends the term at once; it is waited out, and then led on both again."""

    async def scene(arena: Arena) -> None:
        fleet(arena, PAIR, PAIR)
        await arena.leader()
        await asyncio.sleep(5)
        change(arena)
        assert await arena.until(lambda: not arena.leaders(), within=1) < 0.2
        took = await arena.until(lambda: bool(arena.leaders()), within=3 * TTL)
        assert took > TTL - 0.5
        await asyncio.sleep(2 * RETRY)
        assert [each["metadata"]["name"] for each in stored(arena)] == [ELECTION] * 2

    play(scene)


@pytest.mark.parametrize("silent", [0, 1], ids=["endpoints", "lease"])
def test_watch_of_one_of_the_two_that_is_half_open(silent: int) -> None:
    """A watch of one object that shows nothing any more is noticed, although the other one's shows all."""

    async def scene(arena: Arena) -> None:
        leader = arena.start("a", lock=PAIR)
        await arena.leader()
        await asyncio.sleep(2 * RETRY)
        streams = list(leader.network.watching)
        watch = streams[silent]._watch
        assert watch is not None
        # It takes nothing from the store any more.
        watch._wake = lambda: None
        await arena.until(lambda: any("fallen silent" in line for line in arena.said(leader)), within=2 * RETRY + TTL)
        await arena.until(lambda: arena.watches == 2, within=5)
        assert arena.leaders() == [leader]

    play(scene)


# -- Leaders over nodes ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", [(ALONE, LEASE), (ALONE, PAIR), (PAIR, LEASE), (PAIR,), (LEASE,)], ids="-".join)
@pytest.mark.parametrize("seed", range(3))
def test_leaders_of_all_kinds_are_spread_against_each_other(kinds: tuple[str, ...], seed: int) -> None:
    """Four elections of one group, whose first candidates are all on one node, end up two and two."""

    async def scene(arena: Arena) -> None:
        elections = {f"e{number}": kinds[number % len(kinds)] for number in range(4)}
        for node in ("n1", "n2"):
            for election, kind in elections.items():
                arena.start(
                    f"{election}-{node}", election=election, node=node, lock=kind, balance=Balance(), mixed=True
                )
            await asyncio.sleep(10)

        def spread() -> list[int]:
            nodes = [leader.node for election in elections for leader in arena.leaders(election)]
            return [nodes.count("n1"), nodes.count("n2")]

        await arena.until(lambda: spread() == [2, 2], within=120)
        await asyncio.sleep(60)
        assert spread() == [2, 2]

    play(scene, seed)


@pytest.mark.parametrize("kinds", [(ALONE, PAIR), (PAIR, LEASE), (LEASE, PAIR)], ids="-".join)
def test_leadership_is_handed_over_between_neighbouring_kinds(kinds: tuple[str, str]) -> None:
    """A leader hands over to a candidate of another kind on a lighter node.

    Not from the pair to one of the Endpoints: such an election counts by its Lease, where that one is not registered.
    """

    async def scene(arena: Arena) -> None:
        one, other = kinds
        balance = Balance()
        for number in range(2):
            arena.start(f"stays-{number}", election=f"e{number}", node="n1", lock=one, balance=balance, mixed=True)
        leader = arena.start("heavy", election="moves", node="n1", lock=one, balance=balance, mixed=True)
        await arena.until(leader.candidate.is_leading, within=30)
        successor = arena.start("light", election="moves", node="n2", lock=other, balance=balance, mixed=True)
        await arena.until(successor.candidate.is_leading, within=60)
        assert not leader.candidate.is_leading()
        # By a hand-over: nobody waited for a lease.
        assert not any("lease" in line for line in arena.said(leader) if "stopped" in line)

    play(scene)


# -- When anything fails -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kinds", STEPS, ids="-".join)
@pytest.mark.parametrize("seed", range(60))
def test_never_two_leaders_in_any_step(kinds: tuple[str, ...], seed: int) -> None:
    """Candidates of neighbouring kinds never lead at once; when all is well again there is one leader soon."""

    async def scene(arena: Arena) -> None:
        random = Random(seed)  # noqa: S311 - plays, protects nothing
        balance = Balance() if seed % 3 == 0 else None
        for number in range(3):
            arena.start(
                f"c{number}",
                lock=kinds[number % len(kinds)],
                balance=balance,
                rate=random.uniform(0.9, 1.3),
                offset=random.uniform(0, 1e6),
            )
            await asyncio.sleep(random.choice([0.0, 0.01, 1.0]))
        await troubled(arena, random)
        for process in arena.processes:
            process.network.heal()
        await arena.leader(within=6 * TTL)

    play(scene, seed)


@pytest.mark.parametrize("seed", range(40))
def test_never_two_leaders_on_the_way(seed: int) -> None:
    """A fleet that is replaced one by one, there and back, while all sorts of things fail, never has two leaders."""

    async def scene(arena: Arena) -> None:
        random = Random(seed)  # noqa: S311 - plays, protects nothing
        balance = Balance() if seed % 3 == 0 else None
        processes = fleet(arena, ALONE, ALONE, ALONE, balance=balance)
        for kind in (PAIR, LEASE, PAIR, ALONE):
            for number in random.sample(range(3), 3):
                await asyncio.sleep(random.choice([0.01, 1.0, 8.0]))
                process = processes[number]
                if random.random() < 0.5:
                    # What goes wrong lasts while this one is replaced.
                    random.choice([*GENTLE, lose_halves, lose_halves])(arena, random.choice(processes), random)
                arena.kill(process) if random.random() < 0.3 else process.candidate.leave()
                await asyncio.sleep(random.choice([0.0, 0.02, 3.0]))
                # The next kind may only come when no candidate of the one before the last is left.
                processes[number] = arena.start(process.identity, lock=kind, balance=balance)
            for process in processes:
                process.network.heal()
            async with asyncio.timeout(10 * TTL):
                while any(not each.ended for each in arena.processes if each not in processes):  # noqa: ASYNC110 - virtual
                    await asyncio.sleep(0.1)
            await arena.leader(within=6 * TTL)

    play(scene, seed)
