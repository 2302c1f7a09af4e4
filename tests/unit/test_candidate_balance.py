"""The driver with the balance, in virtual time: it is never in the way of an election, and two never lead."""

from __future__ import annotations

import asyncio
from contextlib import suppress
from dataclasses import dataclass, field
from random import Random
from typing import TYPE_CHECKING, Any, cast

import pytest

from sidecar.balance import MOVE_LIMIT
from sidecar.census import CENSUS_SECONDS
from sidecar.election import CHECK_SECONDS, SUCCESSOR_SECONDS, Balance
from sidecar.kube import ApiError, KubeClient, NotFoundError
from sidecar.lab import optimum
from sidecar.lab.network import LabClient, Network
from sidecar.lab.optimum import Contest
from sidecar.lab.resources import ENDPOINTS
from sidecar.lab.virtualtime import EPOCH, run
from sidecar.record import (
    CLAIM_ANNOTATION,
    GROUP_LABEL,
    LOOK_ANNOTATION,
    RECORD_ANNOTATION,
    Claim,
    Record,
    format_time,
    parse_claim,
    parse_record,
)
from sidecar.registration import REGISTRATION_PREFIX, Registration, registration_key, registrations
from sidecar.settling import CALM_SECONDS
from tests.unit.arena import DEADLINE, ELECTION, GROUP, RETRY, TIMEOUT, TTL, Arena, Process
from tests.unit.faults import TROUBLES, start_again

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from sidecar.locks import EndpointsLock

FULL = Balance()

SOON = 1.0
"""Seconds within which a lock that nobody holds is led, when all is well and the census is even."""


def play(scene: Callable[[Arena], Awaitable[None]], seed: int = 0) -> None:
    """Run `scene` in virtual time; whatever it does, two leaders of one election are an error."""

    async def main() -> None:
        arena = Arena(seed)
        try:
            await scene(arena)
        finally:
            await arena.end()

    run(main())


def client_of(process: Process) -> Any:  # noqa: ANN401 - so that a test may replace its methods
    """Return the client of the API server in the process's lock, which is its group's as well."""
    return cast("EndpointsLock", process.candidate._lock)._kube


def annotated(arena: Arena, election: str = ELECTION) -> dict[str, str]:
    """Return the annotations of the lock object as it is now."""
    found = arena.lock(election)
    return dict(found["metadata"].get("annotations") or {}) if found else {}


def claim(arena: Arena, election: str = ELECTION) -> Claim | None:
    """Return the claim as it stands on the lock object."""
    return parse_claim(annotated(arena, election).get(CLAIM_ANNOTATION))


# -- Nobody calls itself leader before the confirmation ----------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_first_holder_checks_before_it_leads(seed: int) -> None:
    """From start to leadership: checking comes in between, and until the lock says otherwise nobody is named."""

    async def scene(arena: Arena) -> None:
        first, second = (arena.start(name, balance=FULL) for name in ("a", "b"))
        roles: list[str] = []
        while not arena.leaders():
            written = claim(arena)
            for process in (first, second):
                status = process.candidate.status()
                roles.append(status.role)
                assert process.candidate.leader_name() == status.leader
                if written is None or written.state != "leading":
                    assert (status.leader, status.leader_node) == ("", "")
                assert status.leader != process.identity
                assert (status.fencing_token, status.valid_for) == (None, 0.0)
            await asyncio.sleep(0.001)
            assert arena.loop.time() < SOON
        assert {"starting", "checking"} <= set(roles) <= {"starting", "following", "checking"}
        [leader] = arena.leaders()
        assert leader.candidate.status().role == "leading"
        await arena.until(lambda: first.candidate.leader_name() == second.candidate.leader_name() != "", within=RETRY)

    play(scene, seed)


@pytest.mark.parametrize("seed", range(5))
def test_nobody_is_named_while_the_next_leader_checks(seed: int) -> None:
    """A leader ends: its followers see the next holder check, and name it only once it says that it leads."""

    async def scene(arena: Arena) -> None:
        for name in ("a", "b", "c"):
            arena.start(name, balance=FULL)
        first = await arena.leader()
        await asyncio.sleep(5)
        followers = [process for process in arena.processes if process is not first]
        first.candidate.leave()
        saw_it_check = False
        while not arena.leaders():
            for process in followers:
                observed = process.candidate._state.observed
                checks = observed is not None and observed.claim is not None and observed.claim.state == "checking"
                assert not checks or process.candidate.leader_name() == ""
                saw_it_check |= checks and process.candidate.status().role == "following"
            await asyncio.sleep(0.001)
        assert saw_it_check

    play(scene, seed)


@pytest.mark.parametrize("verb", ["lost_answers", "lost_requests"])
def test_confirmation_that_is_not_answered_makes_no_leader(verb: str) -> None:
    """Applied or not: whoever did not hear of it does not lead, until a later write of its own succeeded."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a", balance=FULL)
        await arena.until(lambda: process.candidate.status().role == "checking", within=SOON)
        setattr(process.network, verb, 1.0)
        applied = verb == "lost_answers"
        await asyncio.sleep(TIMEOUT)
        found = claim(arena)
        assert found is not None
        if applied:
            await arena.until(lambda: (here := claim(arena)) is not None and here.state == "leading", within=TIMEOUT)
        assert process.candidate.status().role in ("checking", "following")
        assert not process.candidate.is_leading()
        process.network.heal()
        await arena.until(process.candidate.is_leading, within=TTL)

    play(scene)


@pytest.mark.parametrize("seconds", [1.0, DEADLINE, TTL + 1.0, 60.0])
def test_process_that_is_stopped_while_it_checks(seconds: float) -> None:
    """It stands still and goes on: it leads when its confirmation succeeded, or another led meanwhile; never both."""

    async def scene(arena: Arena) -> None:
        first = arena.start("a", balance=FULL)
        await arena.until(lambda: first.candidate.status().role == "checking", within=SOON)
        arena.start("b", balance=FULL)
        arena.stop(first, seconds)
        assert not first.candidate.is_leading()
        await asyncio.sleep(seconds)
        leader = await arena.leader(within=TTL + SOON)
        assert (leader is first) == (seconds < TTL)
        await asyncio.sleep(2 * TTL)
        assert len(arena.leaders()) == 1

    play(scene)


def test_container_that_restarts_while_it_checks() -> None:
    """The next process of the pod goes on with the check, and leads as soon as it is over."""

    async def scene(arena: Arena) -> None:
        first = arena.start("a", balance=FULL, pod_uid="a")
        await arena.until(lambda: first.candidate.status().role == "checking", within=SOON)
        arena.kill(first)
        again = arena.start("a", balance=FULL, pod_uid="a")
        await arena.until(again.candidate.is_ready, within=SOON)
        assert not again.candidate.is_leading()
        await arena.until(again.candidate.is_leading, within=SOON)

    play(scene)


def test_container_that_restarts_while_it_leads() -> None:
    """The next process of the pod leads again within moments: nothing was handed over, nothing is checked again."""

    async def scene(arena: Arena) -> None:
        first = arena.start("a", balance=FULL, pod_uid="a")
        arena.start("b", balance=FULL)
        await arena.until(first.candidate.is_leading)
        await asyncio.sleep(5)
        arena.kill(first)
        again = arena.start("a", balance=FULL, pod_uid="a")
        await arena.until(again.candidate.is_leading, within=0.5)

    play(scene)


# -- Checking never lasts ----------------------------------------------------------------------------------------------


def test_defect_in_the_balance_does_not_stop_the_election() -> None:
    """The task that looks dies: that is told once, and whoever checks leads when the time to check is over."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a", balance=FULL)

        async def fail(_state: object) -> None:
            raise ZeroDivisionError

        assert process.candidate._settler is not None
        process.candidate._settler._look = fail  # type: ignore[method-assign,assignment] # stands in for the real one
        took = await arena.until(process.candidate.is_leading)
        assert CHECK_SECONDS < took < CHECK_SECONDS + SOON
        await asyncio.sleep(60)
        assert sum("because of a defect" in line for line in arena.said(process)) == 1
        assert process.candidate.is_leading()

    play(scene)


def test_defect_in_the_census_of_a_bid_does_not_stop_the_election() -> None:
    """A bid is made as if there were no census, and the defect is told."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a", balance=FULL)

        async def fail(*, cached: bool) -> None:
            raise KeyError(cached)

        assert process.candidate._settler is not None
        process.candidate._settler._group.locks = fail  # type: ignore[method-assign,assignment] # for the real one
        took = await arena.until(process.candidate.is_leading)
        assert took < SOON
        assert any("because of a defect" in line for line in arena.said(process))

    play(scene)


def test_look_that_hangs_does_not_stop_the_election() -> None:
    """Not even the limits of the census hold: the leader leads all the same after the time to check."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a", balance=FULL)

        async def hang(_state: object) -> None:
            await asyncio.Event().wait()

        assert process.candidate._settler is not None
        process.candidate._settler._look = hang  # type: ignore[method-assign,assignment] # stands in for the real one
        took = await arena.until(process.candidate.is_leading)
        assert CHECK_SECONDS < took < CHECK_SECONDS + SOON
        process.candidate.leave()
        await arena.until(lambda: process.ended, within=SOON)

    play(scene)


# -- Handing over ------------------------------------------------------------------------------------------------------


@dataclass
class Move:
    """Two elections led on one node, and what is seen of the move of one of them."""

    arena: Arena
    old: Process
    """Leads what is to move."""
    nominee: Process
    """The only one on another node."""
    others: list[Process] = field(default_factory=list)

    async def nominated(self) -> None:
        """Wait until the nomination is written."""
        await self.arena.until(lambda: (found := claim(self.arena)) is not None and found.successor != "", within=2.0)

    async def accepted(self) -> None:
        """Wait until the acceptance is written."""
        await self.arena.until(lambda: self.acceptance > 0, within=2.0)

    async def released(self) -> None:
        """Wait until the lock is released for the successor."""
        await self.arena.until(lambda: (found := claim(self.arena)) is not None and not found.holder, within=2.0)

    @property
    def acceptance(self) -> int:
        """The version that the nominee accepted."""
        known = registrations(annotated(self.arena)).get(registration_key(self.nominee.identity))
        return known.accepted if known else 0


async def ready_to_move(arena: Arena) -> Move:
    """Have node n1 lead two elections, one of which then gets a candidate on n2."""
    arena.start("other-0", election="other", node="n1", balance=FULL)
    await arena.leader(election="other")
    old = arena.start("a", node="n1", balance=FULL)
    await arena.until(old.candidate.is_leading)
    others = [arena.start(name, node="n1", balance=FULL) for name in ("b", "c")]
    await asyncio.sleep(5)
    nominee = arena.start("z", node="n2", balance=FULL)
    return Move(arena, old, nominee, others)


@pytest.mark.parametrize("seed", range(2))
def test_hand_over_takes_moments(seed: int) -> None:
    """From the old leader's revocation to the successor's leadership is a release, a watch event, and a bid."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await arena.until(lambda: not move.old.candidate.is_leading(), within=3.0)
        assert move.old.candidate.status().role == "releasing"
        assert await arena.until(move.nominee.candidate.is_leading, within=1.0) < 0.3
        await asyncio.sleep(60)
        assert arena.handovers == 1, "and then nothing moves any more"
        assert arena.leaders() == [move.nominee]

    play(scene, seed)


@pytest.mark.parametrize("seed", range(6))
def test_nominee_that_dies_before_it_accepts_costs_nothing(seed: int) -> None:
    """The leader leads on, strikes the nominee out, and does not nominate it again."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await arena.until(lambda: registration_key("z") in annotated(arena), within=SOON)
        arena.kill(move.nominee)
        began = arena.loop.time()
        await arena.until(lambda: registration_key("z") not in annotated(arena), within=4.0)
        while arena.loop.time() < began + 20:
            assert arena.leaders() == [move.old]
            await asyncio.sleep(0.01)
        assert arena.handovers == 0

    play(scene, seed)


@pytest.mark.parametrize("seed", range(6))
def test_nominee_that_dies_after_it_accepted_costs_a_second_and_a_half(seed: int) -> None:
    """Somebody else leads at most 1.5 s after the old leader stopped, and the dead one is not waited for again."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await move.accepted()
        arena.kill(move.nominee)
        await arena.until(lambda: not move.old.candidate.is_leading(), within=2.0)
        assert await arena.until(lambda: bool(arena.leaders()), within=5.0) <= 1.5
        [leader] = arena.leaders()
        await asyncio.sleep(60)
        assert arena.leaders() == [leader]
        assert arena.handovers == 1

    play(scene, seed)


@pytest.mark.parametrize("seed", range(2))
def test_another_pod_of_the_nominees_name_is_not_the_successor(seed: int) -> None:
    """The nominee is made again under its name: where the lock is released for the old pod, the new one waits too."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await move.accepted()
        arena.kill(move.nominee)
        again = arena.start("z", node="n2", balance=FULL)
        dead = move.nominee.candidate._state.candidacy.pod_uid
        without, for_the_dead = 0.0, False
        while arena.loop.time() < 30:
            await asyncio.sleep(0.01)
            found = claim(arena)
            for_the_dead |= found is not None and not found.holder and found.pod_uid == dead
            if arena.leaders():
                assert not for_the_dead or without >= SUCCESSOR_SECONDS - 0.1
                without, for_the_dead = 0.0, False
            else:
                without += 0.01
                assert without <= 1.5
        assert arena.leaders() == [again]

    play(scene, seed)


MOMENTS = [0.0, 0.005, 0.01, 0.02, 0.03, 0.05, 0.08, 0.12, 0.2]


@pytest.mark.parametrize("after", MOMENTS)
@pytest.mark.parametrize("seed", range(2))
def test_leader_is_told_to_end_in_the_middle_of_a_hand_over(after: float, seed: int) -> None:
    """SIGTERM at any instant between nomination and release: it ends soon, and somebody leads soon."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await move.nominated()
        await asyncio.sleep(after)
        move.old.candidate.leave()
        assert not move.old.candidate.is_leading()
        assert await arena.until(lambda: bool(arena.leaders()), within=5.0) <= 1.5
        await arena.until(lambda: move.old.ended, within=SOON)
        await asyncio.sleep(20)
        assert arena.leaders() == [move.nominee], "the only one on the other node"
        assert registration_key("a") not in annotated(arena)

    play(scene, seed)


@pytest.mark.parametrize("after", MOMENTS)
@pytest.mark.parametrize("seed", range(2))
def test_nominee_is_told_to_end_in_the_middle_of_a_hand_over(after: float, seed: int) -> None:
    """SIGTERM of the one that is nominated, at any instant: at most a second and a half without a leader."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await move.nominated()
        await asyncio.sleep(after)
        move.nominee.candidate.leave()
        without = 0.0
        while arena.loop.time() < 20 or not arena.leaders():
            await asyncio.sleep(0.01)
            without = 0.0 if arena.leaders() else without + 0.01
            assert without <= 1.5
        assert len(arena.leaders()) == 1
        assert move.nominee.ended

    play(scene, seed)


@pytest.mark.parametrize("after", MOMENTS)
def test_leader_that_dies_in_the_middle_of_a_hand_over(after: float) -> None:
    """SIGKILL between nomination and release: the lease runs out at worst."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await move.nominated()
        await asyncio.sleep(after)
        arena.kill(move.old)
        assert await arena.until(lambda: bool(arena.leaders()), within=2 * TTL) < TTL + 2.5
        await asyncio.sleep(40)
        assert arena.leaders() == [move.nominee]

    play(scene)


@pytest.mark.parametrize("after", MOMENTS)
def test_api_server_that_hangs_in_the_middle_of_a_hand_over(after: float) -> None:
    """The leader gets no answer any more: its lease runs out at worst, and it does not come back by itself."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await move.accepted()
        await asyncio.sleep(after)
        move.old.network.hangs = True
        await arena.until(lambda: not move.old.candidate.is_leading(), within=DEADLINE)
        assert await arena.until(lambda: bool(arena.leaders()), within=2 * TTL) < TTL + 2.5
        move.old.network.heal()
        await asyncio.sleep(40)
        assert arena.leaders() == [move.nominee]
        assert move.old.candidate.leader_name() == "z"

    play(scene)


def test_everybody_hangs_in_the_middle_of_a_hand_over() -> None:
    """The API server answers nobody after the acceptance: nobody leads until it does, and then one does."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        await move.accepted()
        for process in arena.processes:
            process.network.hangs = True
        await arena.until(lambda: not arena.leaders(), within=DEADLINE)
        await asyncio.sleep(3 * TTL)
        assert not arena.leaders()
        for process in arena.processes:
            process.network.heal()
        assert await arena.until(lambda: bool(arena.leaders()), within=TTL) < RETRY + TIMEOUT + SOON
        await asyncio.sleep(60)
        assert [leader.node for leader in arena.leaders()] == ["n2"]

    play(scene)


# -- Beside stock peers ------------------------------------------------------------------------------------------------


class StockPeer:
    """A candidate as the stock image and client-go have them: it knows the record, and leaves all else as it finds it.

    It polls once a retry period, judges leases by its own ttl and by its own clock, and leads from a successful write
    until its renew deadline.
    """

    def __init__(self, arena: Arena, identity: str) -> None:
        self.identity = identity
        self._arena = arena
        self._client: KubeClient = LabClient(
            arena.store, Network(), random=arena.random, timeout=TIMEOUT, sender=identity, sent=arena.requests.append
        )
        self._seen: tuple[str | None, float] = (None, 0.0)
        self._valid_until = 0.0
        self.task = asyncio.create_task(self._take_part(), name=identity)

    def leads(self) -> bool:
        """Tell whether it says that it leads."""
        return not self.task.done() and self._arena.loop.time() < self._valid_until

    async def _take_part(self) -> None:
        while True:
            began = self._arena.loop.time()
            with suppress(ApiError):
                await self._try(began)
            await asyncio.sleep(max(0.0, RETRY - (self._arena.loop.time() - began)))

    async def _try(self, began: float) -> None:
        path = "/api/v1/namespaces/default/endpoints"
        try:
            found = await self._client.get(f"{path}/{ELECTION}")
        except NotFoundError:
            await self._client.create(path, self._with({"metadata": {"name": ELECTION}}, None))
        else:
            text = found["metadata"].get("annotations", {}).get(RECORD_ANNOTATION)
            if text != self._seen[0]:
                self._seen = (text, self._arena.loop.time())
            record = parse_record(text) if text else None
            held = isinstance(record, Record) and record.holder not in ("", self.identity)
            if held and self._arena.loop.time() < self._seen[1] + TTL:
                return
            body = self._with(found, record if isinstance(record, Record) else None)
            await self._client.update(f"{path}/{ELECTION}", body)
        self._valid_until = began + DEADLINE

    def _with(self, body: Any, old: Record | None) -> dict[str, Any]:  # noqa: ANN401 - an object as it came
        wall = format_time(int(EPOCH + self._arena.loop.time()))
        record = Record(
            holder=self.identity,
            lease_seconds=TTL,
            acquire_time=old.acquire_time if old and old.holder == self.identity else wall,
            renew_time=wall,
            transitions=0,
        )
        kept = body["metadata"].get("annotations", {})
        return {**body, "metadata": {**body["metadata"], "annotations": {**kept, RECORD_ANNOTATION: record.encode()}}}


async def nobody_twice(arena: Arena, peers: list[StockPeer], seconds: float) -> None:
    """Look on for a while: of ours and the peers together never two lead, and no peer is ever nominated."""
    until = arena.loop.time() + seconds
    names = {peer.identity for peer in peers}
    while arena.loop.time() < until:
        leading = [process.identity for process in arena.leaders()] + [peer.identity for peer in peers if peer.leads()]
        assert len(leading) <= 1, f"{arena.loop.time():.3f}: {leading}"
        found = claim(arena)
        assert found is None or found.successor not in names
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("seed", range(6))
def test_stock_peers_in_the_same_election(seed: int) -> None:
    """Leadership goes to and fro between ours and theirs, with our claims stale beside their records."""

    async def scene(arena: Arena) -> None:
        other = arena.start("other-0", election="other", node="n1", balance=FULL)
        ours = [arena.start(name, node=node, balance=FULL) for name, node in (("a", "n1"), ("b", "n2"))]
        await arena.until(lambda: len(arena.leaders()) == 1)
        peers = [StockPeer(arena, "stock-0"), StockPeer(arena, "stock-1")]
        await nobody_twice(arena, peers, 20)
        assert claim(arena) is not None
        # Both of ours go without a word: one of theirs takes over, and leaves the claim standing.
        for process in ours:
            arena.kill(process)
        await nobody_twice(arena, peers, 2 * TTL)
        [stock] = [peer for peer in peers if peer.leads()]
        stale = claim(arena)
        assert stale is not None
        assert stale.holder in {"a", "b"}
        # New ones of ours: they name the stock leader, do not disturb it, and take over from it when all theirs die.
        fresh = [arena.start(name, node=node, balance=FULL) for name, node in (("c", "n1"), ("d", "n2"))]
        await nobody_twice(arena, peers, 2 * TTL)
        assert stock.leads()
        assert {process.candidate.leader_name() for process in fresh} == {stock.identity}
        assert {process.candidate.status().leader_node for process in fresh} == {""}
        for peer in peers:
            peer.task.cancel()
        await nobody_twice(arena, peers, 3 * TTL)
        [leader] = arena.leaders()
        assert leader in fresh
        assert other.candidate.is_leading()
        assert {each.node for each in (leader, other)} == {"n1", "n2"}, "and nothing of theirs stands in the way"

    play(scene, seed)


def test_hand_over_beside_a_stock_peer() -> None:
    """A stock peer may be faster than the successor: then it leads, and everybody sees it so."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        peers = [StockPeer(arena, f"stock-{number}") for number in range(3)]
        await nobody_twice(arena, peers, 40)
        leading = [process.identity for process in arena.leaders()] + [peer.identity for peer in peers if peer.leads()]
        assert len(leading) == 1
        named = {process.candidate.leader_name() for process in (move.old, move.nominee, *move.others)}
        assert named == set(leading)
        for peer in peers:
            peer.task.cancel()

    play(scene)


# -- A vacancy after a crash -------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(2))
def test_crash_costs_the_lease_and_half_a_second(seed: int) -> None:
    """The leader dies while a candidate on an equally loaded node is there: lease + 0.5 s."""

    async def scene(arena: Arena) -> None:
        for number, node in enumerate(("n1", "n2", "n3")):
            arena.start(f"app-{number}", node=node, balance=FULL)
        leader = await arena.leader()
        await asyncio.sleep(40)
        arena.kill(leader)
        took = await arena.until(lambda: bool(arena.leaders()), within=2 * TTL)
        assert TTL - RETRY - 0.1 < took < TTL + 0.5

    play(scene, seed)


@pytest.mark.parametrize("seed", range(2))
def test_crash_costs_at_most_two_seconds_more_on_loaded_nodes(seed: int) -> None:
    """Whoever is left runs on nodes that carry many leaders: lease + 2.5 s at most, however many."""

    async def scene(arena: Arena) -> None:
        for number in range(6):
            arena.start(f"heavy-{number}", election=f"heavy-{number}", node="n1", balance=FULL)
        leader = arena.start("a", node="n2", balance=FULL)
        await arena.until(leader.candidate.is_leading)
        for name in ("b", "c"):
            arena.start(name, node="n1", balance=FULL)
        arena.start("d", election="far", node="n3", balance=FULL)
        await asyncio.sleep(40)
        arena.kill(leader)
        took = await arena.until(lambda: bool(arena.leaders()), within=2 * TTL)
        assert TTL - RETRY - 0.1 < took < TTL + 2.5

    play(scene, seed)


# -- Nothing of the balance is ever in the way -------------------------------------------------------------------------


def forbid(*verbs: str) -> Callable[[Arena, Process], None]:
    """Return what answers these verbs with 403."""

    def set_up(_arena: Arena, process: Process) -> None:
        process.network.forbidden = frozenset(verbs)

    return set_up


def lists(answer: Callable[[Any], Awaitable[Any]]) -> Callable[[Arena, Process], None]:
    """Return what has LIST requests answered in another way; `answer` is given what asks as usual."""

    def set_up(_arena: Arena, process: Process) -> None:
        client = client_of(process)
        asked = client.list_metadata

        async def list_metadata(*arguments: Any, **options: Any) -> Any:  # noqa: ANN401 - hands on what it gets
            return await answer(lambda: asked(*arguments, **options))

        client.list_metadata = list_metadata

    return set_up


async def fail(_ask: object) -> None:
    """Answer with 500."""
    raise ApiError("list: 500", status=500)


async def hang(_ask: object) -> None:
    """Never answer."""
    await asyncio.Event().wait()


async def dawdle(ask: Any) -> Any:  # noqa: ANN401 - hands on what it gets
    """Answer just before it is given up."""
    await asyncio.sleep(0.9 * CENSUS_SECONDS)
    return await ask()


async def make_things_up(ask: Any) -> Any:  # noqa: ANN401 - hands on what it gets
    """Answer with things that are no objects beside those that are."""
    return [*await ask(), *GARBAGE_OBJECTS]


GARBAGE = [
    "",
    "{",
    "null",
    "[]",
    "0",
    '"x"',
    "[" * 50_000,
    "\ufffd\x00",
    '{"holder":1,"node":[],"pod_uid":{},"weight":"x","state":3,"successor":null,"term":-1,"moves":1e99}',
    '{"holder":"x","node":"n1","pod_uid":"x","weight":99999999999999999999,"term":18446744073709551615,"moves":-1}',
    '{"holder":"","node":"' + "n" * 5000 + '","pod_uid":"x","successor":"y"}',
    '{"identity":"' + "x" * 5000 + '","node":"n1","pod_uid":"u"}',
    '{"identity":"x","node":"n9","pod_uid":"u","seen":-1,"accepted":1e400}',
]
"""What may stand in an annotation: no JSON, no object, wrong types, sizes and numbers."""

GARBAGE_OBJECTS: list[Any] = [
    {},
    {"metadata": None},
    {"metadata": []},
    {"metadata": {"name": "../../pods", "namespace": "default", "resourceVersion": "5"}},
    {"metadata": {"name": "x", "namespace": "default", "resourceVersion": "-5"}},
    {"metadata": {"name": "x", "namespace": "default", "resourceVersion": "9" * 100}},
    {"metadata": {"name": "x", "namespace": "default", "resourceVersion": "5", "annotations": {"a": 1}}},
    {"metadata": {"name": 7, "namespace": None, "resourceVersion": 5, "annotations": []}},
    {"metadata": {"name": "y", "namespace": "default", "resourceVersion": "5", "annotations": None, "labels": 3}},
]


def others_objects(arena: Arena, _process: Process) -> None:
    """Make lock objects in the group that are full of garbage."""
    if arena.lock("garbage-0-0"):
        return
    for number, garbage in enumerate(GARBAGE):
        led = Record(holder="x", lease_seconds=TTL, acquire_time="", renew_time="", transitions=0).encode()
        for which, found in enumerate(
            (
                {RECORD_ANNOTATION: garbage, CLAIM_ANNOTATION: garbage, LOOK_ANNOTATION: garbage},
                {RECORD_ANNOTATION: led, CLAIM_ANNOTATION: garbage, registration_key("x"): garbage},
                {RECORD_ANNOTATION: led, REGISTRATION_PREFIX + "x" * 20: garbage, LOOK_ANNOTATION: "9" * 50},
            )
        ):
            metadata = {"name": f"garbage-{number}-{which}", "labels": {GROUP_LABEL: GROUP}, "annotations": found}
            arena.store.create(ENDPOINTS, "default", {"metadata": metadata})


def own_object(garbage: str) -> Callable[[Arena, Process], None]:
    """Return what makes the election's own lock object, with garbage in everything but the record."""

    def set_up(arena: Arena, _process: Process) -> None:
        if arena.exists():
            return
        found = {
            CLAIM_ANNOTATION: garbage,
            LOOK_ANNOTATION: garbage,
            registration_key("a"): garbage,
            registration_key("x"): garbage,
        }
        metadata = {"name": ELECTION, "labels": {GROUP_LABEL: "no-such-group"}, "annotations": found}
        arena.store.create(ENDPOINTS, "default", {"metadata": metadata})

    return set_up


def crowd(election: str, node: str = "n1", size: int = 600) -> Callable[[Arena, Process], None]:
    """Return what makes a lock object with registrations of candidates that are not there."""

    def set_up(arena: Arena, _process: Process) -> None:
        if arena.lock(election):
            return
        found = {
            registration_key(f"{number:03}"): Registration(identity=f"{number:03}", node=node, pod_uid="u").encode()
            for number in range(size)
        }
        metadata = {"name": election, "labels": {GROUP_LABEL: GROUP}, "annotations": found}
        arena.store.create(ENDPOINTS, "default", {"metadata": metadata})

    return set_up


NOTHING = cast("Callable[[Arena, Process], None]", lambda _arena, _process: None)

OBSTACLES = [
    pytest.param(NOTHING, "", 0.0, id="none"),
    pytest.param(forbid("list"), "'list'", 0.0, id="list-forbidden"),
    pytest.param(forbid("patch"), "'patch'", 0.0, id="patch-forbidden"),
    pytest.param(forbid("list", "patch"), "'list'", 0.0, id="list-and-patch-forbidden"),
    pytest.param(forbid("list", "patch", "watch"), "'list'", 0.0, id="get-create-and-update-only"),
    pytest.param(lists(fail), "list failed", 0.0, id="list-fails"),
    pytest.param(lists(hang), "list failed", CENSUS_SECONDS, id="list-hangs"),
    pytest.param(lists(dawdle), "", 2 * CENSUS_SECONDS, id="list-slow"),
    pytest.param(lists(make_things_up), "", 0.0, id="list-of-things-that-are-no-objects"),
    pytest.param(others_objects, "", 0.0, id="garbage-in-others-objects"),
    *(pytest.param(own_object(text), "", 0.0, id=f"garbage-{number}") for number, text in enumerate(GARBAGE)),
    pytest.param(crowd(ELECTION), "", 0.0, id="600-registrations"),
    pytest.param(crowd("other"), "", 0.0, id="600-registrations-elsewhere"),
]
"""What stands in the way, what the log says of it, and what it may cost before somebody leads, in seconds."""


@pytest.mark.parametrize(("set_up", "told", "extra"), OBSTACLES)
def test_elects_as_usual(set_up: Callable[[Arena, Process], None], told: str, extra: float) -> None:
    """Whatever does not work: somebody leads in the usual time, stays, is followed, and the log says once why."""

    async def scene(arena: Arena) -> None:
        processes = [arena.start(name, node=node, balance=FULL) for name, node in (("a", "n1"), ("b", "n2"))]
        for process in processes:
            set_up(arena, process)
        polls = RETRY if "watch" in processes[0].network.forbidden else 0.0
        assert await arena.until(lambda: bool(arena.leaders()), within=TTL) < SOON + extra
        [leader] = arena.leaders()
        [other] = [process for process in processes if process is not leader]
        await arena.until(lambda: other.candidate.leader_name() == leader.identity, within=2.0 + 1.2 * polls)
        await asyncio.sleep(180)
        assert arena.leaders() == [leader]
        told_by = [sum(told in line for line in arena.said(process)) if told else 0 for process in processes]
        assert max(told_by) == bool(told), arena.log
        assert max(len(arena.said(process)) for process in processes) <= 12, arena.log
        leader.candidate.leave()
        took = await arena.until(lambda: bool(arena.leaders()), within=TTL)
        assert took < SOON + extra + 1.2 * polls
        arena.kill(other)
        again = arena.start("c", node="n3", balance=FULL)
        set_up(arena, again)
        assert await arena.until(again.candidate.is_leading, within=2 * TTL) < TTL + 0.5 + extra + polls

    play(scene)


@pytest.mark.parametrize("dead", [1, 5, 400])
def test_registrations_of_the_dead_where_nothing_is_led(dead: int) -> None:
    """The best place is one where nobody lives: that costs a second before it leads, and a few nominations."""

    async def scene(arena: Arena) -> None:
        arena.start("other-0", election="other", node="n1", balance=FULL)
        await arena.leader(election="other")
        process = arena.start("z", node="n1", balance=FULL)
        crowd(ELECTION, "n9", dead)(arena, process)
        took = await arena.until(process.candidate.is_leading, within=TTL)
        assert took < SOON + 1.5
        nominated = {found.successor for found in arena.claims.values() if found is not None}
        while arena.loop.time() < 120:
            assert arena.leaders() == [process]
            nominated |= {found.successor for found in arena.claims.values() if found is not None}
            await asyncio.sleep(1.0)
        assert 1 <= len(nominated - {""}) <= min(dead, MOVE_LIMIT * (1 + 120 / CALM_SECONDS))
        assert arena.handovers == 0

    play(scene)


def test_without_a_node_name_it_is_the_stock_election() -> None:
    """A candidate that does not take part elects and is elected beside those who do; it is never nominated."""

    async def scene(arena: Arena) -> None:
        blind = arena.start("blind")
        await arena.until(blind.candidate.is_leading, within=SOON)
        seeing = arena.start("a", balance=FULL)
        await arena.until(lambda: seeing.candidate.leader_name() == "blind", within=SOON)
        blind.candidate.leave()
        assert await arena.until(seeing.candidate.is_leading, within=TTL) < SOON
        back = arena.start("blind")
        await asyncio.sleep(60)
        assert arena.leaders() == [seeing]
        assert registration_key("blind") not in annotated(arena)
        assert "list" not in arena.requests_since(0, back)

    play(scene)


def test_group_of_one() -> None:
    """One election, one candidate, one node: it leads, and rests."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a", balance=FULL)
        assert await arena.until(process.candidate.is_leading) < SOON
        await asyncio.sleep(120)
        since = arena.loop.time()
        await asyncio.sleep(400)
        assert set(arena.requests_since(since)) <= {"update", "patch", "list"}
        assert arena.requests_since(since).count("list") <= 1
        assert arena.handovers == 0

    play(scene)


@pytest.mark.parametrize("seed", range(5))
def test_all_candidates_on_one_node(seed: int) -> None:
    """There is nowhere else to go: each election has its leader in the usual time, and nothing moves."""

    async def scene(arena: Arena) -> None:
        elections = [f"app-{number}" for number in range(4)]
        for election in elections:
            for number in range(3):
                arena.start(f"{election}-{number}", election=election, node="n1", balance=FULL)
        await arena.until(lambda: all(arena.leaders(election) for election in elections), within=SOON)
        await asyncio.sleep(60)
        assert arena.handovers == 0
        assert all(len(tokens) == 1 for tokens in arena.tokens.values())

    play(scene, seed)


@pytest.mark.parametrize("patch", [True, False])
def test_spreads_without_the_permission_to_patch(*, patch: bool) -> None:
    """Registrations and acceptances go by compare-and-swap where patches are not allowed; only nudges are missing."""

    async def scene(arena: Arena) -> None:
        move = await ready_to_move(arena)
        for process in arena.processes:
            process.network.forbidden = frozenset() if patch else frozenset({"patch"})
        await arena.until(move.nominee.candidate.is_leading, within=10.0)
        assert arena.handovers == 1

    play(scene)


def test_leaving_while_a_census_hangs() -> None:
    """A candidate that holds nothing and waits for a census goes at once when it is told to."""

    async def scene(arena: Arena) -> None:
        process = arena.start("a", balance=FULL)
        lists(hang)(arena, process)
        await asyncio.sleep(0.5)
        process.candidate.leave()
        assert await arena.until(lambda: process.ended, within=5.0) < 0.1

    play(scene)


# -- Everything at once ------------------------------------------------------------------------------------------------

SEEDS = range(14)

HEALED_WITHIN = 60.0
"""Seconds after the last disturbance within which leaders are spread as evenly as they can be."""

AFTER_DENIAL = 1_500.0
"""The same where permissions were missing: that they were granted is noticed after ten minutes, or twenty."""


def lose_a_node(arena: Arena, process: Process, random: Random) -> None:
    """Everything on one node dies, and is made again there some time later."""
    lost = [each for each in arena.processes if each.node == process.node and not each.ended]
    # Whoever was about to go has its successor already.
    missed = [each for each in lost if not each.candidate._state.leaving]
    same_pods = random.random() < 0.3
    for each in lost:
        arena.kill(each)
        each.network.cut_watch()
    later = random.choice([0.0, 1.0, 5.0, 15.0])

    def come_back() -> None:
        for each in missed:
            start_again(arena, each, random, same_pod=same_pods)

    arena.loop.call_later(later, come_back)


def deny(_arena: Arena, process: Process, random: Random) -> None:
    """Somebody edits the Role: all but the stock image's permissions may be missing."""
    process.network.forbidden = frozenset(random.sample(["list", "patch", "watch"], random.randint(1, 3)))
    if "watch" in process.network.forbidden:
        process.network.cut_watch()


def where_led(arena: Arena, elections: list[str]) -> dict[str, str]:
    """Return where each election is led."""
    return {election: leaders[0].node for election in elections if (leaders := arena.leaders(election))}


def is_spread(arena: Arena, elections: list[str]) -> bool:
    """Tell whether every election has its leader, and none of them could be led on a better node."""
    led = where_led(arena, elections)
    nodes = {
        election: {each.node for each in arena.processes if each.election == election and not each.ended}
        for election in elections
    }
    contests = {election: Contest(1, tuple(sorted(found))) for election, found in nodes.items()}
    return len(led) == len(elections) and optimum.is_balanced(contests, led)


def start_all(arena: Arena, random: Random, balances: tuple[Balance | None, ...] = (FULL,)) -> list[str]:
    """Start two to five elections of two to four candidates each on two to four nodes; return the elections."""
    nodes = [f"n{number}" for number in range(random.randint(2, 4))]
    elections = [f"app-{number}" for number in range(random.randint(2, 5))]
    for election in elections:
        for number in range(random.randint(2, 4)):
            arena.start(
                f"{election}-{number}",
                election=election,
                node=random.choice(nodes),
                balance=random.choice(balances),
                rate=random.uniform(0.9, 1.3),
                offset=random.uniform(0, 1e6),
            )
    return elections


async def disturb(arena: Arena, random: Random) -> bool:
    """Let five to twenty things go wrong, and then all be well again; tell whether permissions were missing."""
    count, denied = len(arena.processes), False
    for _ in range(random.randrange(5, 20)):
        await asyncio.sleep(random.choice([0.05, 0.3, 1.0, 3.0, 8.0]))
        if staying := alive(arena):
            random.choice([*TROUBLES, lose_a_node, lose_a_node, deny])(arena, random.choice(staying), random)
        denied |= any(each.network.forbidden or each.network.watch == "forbidden" for each in arena.processes)
        if random.random() < 0.4:
            heal(arena)
    await arena.until(
        lambda: len(alive(arena)) == count and not any(each.name in arena.loop.stopped for each in arena.processes)
    )
    heal(arena)
    return denied


def alive(arena: Arena) -> list[Process]:
    """Return whoever takes part and goes on doing so."""
    return [each for each in arena.processes if not each.candidate._state.leaving]


def heal(arena: Arena) -> None:
    """Make everything work again for everybody."""
    for process in arena.processes:
        process.network.heal()


@pytest.mark.parametrize("seed", SEEDS, ids=lambda seed: f"seed-{seed}")
def test_never_two_lead_and_all_are_spread_in_the_end(seed: int) -> None:
    """Several elections, and everything that can go wrong: at no instant have two of one election led.

    When all is well again each has exactly one leader, they are spread as evenly as can be, and they stay.
    """

    async def scene(arena: Arena) -> None:
        random = Random(f"chaos {seed}")  # noqa: S311 - plays, protects nothing
        elections = start_all(arena, random)
        denied = await disturb(arena, random)
        within = AFTER_DENIAL if denied else HEALED_WITHIN
        await arena.until(lambda: is_spread(arena, elections), within, every=0.5)
        await asyncio.sleep(30)
        assert is_spread(arena, elections), where_led(arena, elections)
        for process in alive(arena):
            [leader] = arena.leaders(process.election)
            assert process.candidate.leader_name() == leader.identity
            assert process.candidate.is_alive()

    play(scene, seed)


@pytest.mark.parametrize("seed", range(5), ids=lambda seed: f"seed-{seed}")
def test_never_two_lead_among_candidates_of_all_kinds(seed: int) -> None:
    """The same among some who do not know their node, some who never hand over, and some who do: one leads each."""

    async def scene(arena: Arena) -> None:
        random = Random(f"mixed {seed}")  # noqa: S311 - plays, protects nothing
        elections = start_all(arena, random, balances=(None, Balance(rebalance=False), FULL))
        await disturb(arena, random)
        for election in elections:
            await arena.leader(within=TTL + RETRY + CHECK_SECONDS, election=election)
        await asyncio.sleep(60)
        assert all(len(arena.leaders(election)) == 1 for election in elections)

    play(scene, seed)
