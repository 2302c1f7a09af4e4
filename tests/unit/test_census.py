"""Taking a census: what it counts, what it costs, and how soon it is given up."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

import pytest
import structlog

from sidecar.balance import LockSeen
from sidecar.census import (
    CENSUS_SECONDS,
    ELECTIONS,
    FAILURE_SECONDS,
    KNOWN_PODS,
    KNOWN_SECONDS,
    PODS,
    CensusTaker,
    Taken,
)
from sidecar.kube import DENIAL_SECONDS, ApiError, ForbiddenError
from sidecar.lab.virtualtime import EPOCH, VirtualClock, run
from sidecar.record import CLAIM_ANNOTATION, LOOK_ANNOTATION, RECORD_ANNOTATION, Claim
from sidecar.troubles import Troubles
from tests.unit.player import record

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine

    from structlog.testing import CapturingLogger

    from sidecar.balance import Census

FORBIDDEN = ForbiddenError("403 Forbidden", status=403)


def lock(number: int, *, claimed: bool = False) -> LockSeen:
    """Return a lock object that is held by a pod of its own, on a node that is told by a claim or by the pod."""
    pod = f"pod-{number:05}"
    held = record(pod)
    annotations = {RECORD_ANNOTATION: held.encode()}
    if claimed:
        claim = Claim(holder=pod, node="claimed", pod_uid="u", renewed=held.renew_time)
        annotations[CLAIM_ANNOTATION] = claim.encode()
    return LockSeen(name=f"apps/e-{number:05}", version=number + 1, annotations=annotations)


@dataclass
class FakeGroup:
    """A group that answers what it is told to, after as long as it is told, and counts what it is asked."""

    seen: list[LockSeen] = field(default_factory=list)
    error: ApiError | None = None
    pod_error: ApiError | None = None
    list_seconds: float = 0.0
    pod_seconds: float = 0.0
    nodes: Callable[[str], str] = "node-of-{}".format
    lists: list[bool] = field(default_factory=list)
    pods: list[tuple[str, str]] = field(default_factory=list)

    async def locks(self, *, cached: bool) -> list[LockSeen]:
        """See `Group.locks`."""
        self.lists.append(cached)
        await asyncio.sleep(self.list_seconds)
        if self.error:
            raise self.error
        return list(self.seen)

    async def nudge(self, lock: str, counter: str) -> None:
        """See `Group.nudge`: a census nudges nobody."""
        raise AssertionError(lock, counter)

    async def node_of(self, namespace: str, pod: str) -> str:
        """See `Group.node_of`."""
        self.pods.append((namespace, pod))
        await asyncio.sleep(self.pod_seconds)
        if self.pod_error:
            raise self.pod_error
        return self.nodes(pod)


@dataclass
class Office:
    """Where censuses are taken, in virtual time."""

    group: FakeGroup
    taker: CensusTaker
    clock: VirtualClock
    log: CapturingLogger

    async def take(self, *, cached: bool = True) -> Census:
        """Take a census, which must succeed."""
        census = await self.taker.take(cached=cached)
        assert census is not None
        return census

    async def loads(self) -> dict[str, int]:
        """Take a census, which must succeed, and return the loads."""
        return (await self.take()).loads()

    async def fails(self) -> float:
        """Take a census, which must come to nothing, and return the seconds that it took."""
        began = self.clock.now()
        assert await self.taker.take(cached=True) is None
        return round(self.clock.now() - began, 3)

    def told(self) -> list[str]:
        """Return what was logged for people."""
        return [call.method_name for call in self.log.calls if call.method_name != "debug"]


def in_virtual_time(test: Callable[[Office], Coroutine[None, None, None]]) -> Callable[[], None]:
    """Run a test in a virtual time of its own, with a group that has nobody in it yet."""

    async def main() -> None:
        log = structlog.testing.CapturingLogger()
        logger = structlog.wrap_logger(log, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))
        clock, group = VirtualClock(), FakeGroup()
        troubles = Troubles(logger, resource="endpoints", wall=clock.wall)
        await test(Office(group, CensusTaker(group, now=clock.now, wall=clock.wall, troubles=troubles), clock, log))

    def in_time() -> None:
        run(main())

    in_time.__name__, in_time.__doc__ = test.__name__, test.__doc__
    return in_time


# -- What it counts ----------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_census(office: Office) -> None:
    """One list, as fresh as asked for, shows who leads where; the last one and its time are remembered."""
    nudged = lock(2)
    nudged = replace(nudged, annotations={**nudged.annotations, LOOK_ANNOTATION: "7"})
    office.group.seen = [nudged, lock(1, claimed=True)]
    await asyncio.sleep(100.0)
    census = await office.take(cached=False)
    assert census.loads() == {"claimed": 1, "node-of-pod-00002": 1}
    assert office.group.lists == [False]
    assert office.group.pods == [("apps", "pod-00002")], "who made a claim needs no pod looked up"
    assert office.taker.last == Taken(census, int(EPOCH) + 100, {"apps/e-00002": "7"})
    await office.take(cached=True)
    assert office.group.lists == [False, True]
    assert office.told() == []


@in_virtual_time
async def test_no_pods_are_looked_up_of_nobody(office: Office) -> None:
    """A lock that was released, was never held, or cannot be read has no leader whose pod could be read."""
    texts = [record("").encode(), "garbage", None]
    office.group.seen = [
        LockSeen(name=f"apps/{index}", version=1, annotations={} if text is None else {RECORD_ANNOTATION: text})
        for index, text in enumerate(texts)
    ]
    assert await office.loads() == {}
    assert office.group.pods == []


@in_virtual_time
async def test_elections_are_bounded(office: Office) -> None:
    """Of more elections than the limit everybody counts the same: the first by name."""
    office.group.seen = [lock(number, claimed=True) for number in reversed(range(ELECTIONS + 100))]
    assert [each.name for each in (await office.take()).elections] == [lock(number).name for number in range(ELECTIONS)]


# -- Pods --------------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_pods_are_looked_up_a_few_at_a_time(office: Office) -> None:
    """A census looks up so many pods at most; those of the other leaders are looked up for the next one."""
    office.group.seen = [lock(number) for number in range(2 * PODS + 5)]
    for counted in (PODS, 2 * PODS, 2 * PODS + 5, 2 * PODS + 5):
        assert len(await office.loads()) == counted
    assert office.group.pods == [("apps", f"pod-{number:05}") for number in range(2 * PODS + 5)], "none of them twice"


@in_virtual_time
async def test_holders_that_are_no_pods_hide_none(office: Office) -> None:
    """Names that no pod bears are remembered as well, and do not keep the others from being looked up."""
    office.group.nodes = lambda pod: "" if pod < f"pod-{PODS:05}" else "n1"
    office.group.seen = [lock(number) for number in range(PODS + 3)]
    assert await office.loads() == {}
    assert await office.loads() == {"n1": 3}
    assert len(office.group.pods) == PODS + 3


@in_virtual_time
async def test_pods_are_not_remembered_for_ever(office: Office) -> None:
    """A pod of the same name may be made again on another node, and is looked up again after a while."""
    office.group.seen = [lock(1)]
    assert await office.loads() == {"node-of-pod-00001": 1}
    office.group.nodes = lambda _: "elsewhere"
    await asyncio.sleep(KNOWN_SECONDS - 1)
    assert await office.loads() == {"node-of-pod-00001": 1}
    await asyncio.sleep(2)
    assert await office.loads() == {"elsewhere": 1}


@in_virtual_time
async def test_remembered_pods_are_bounded(office: Office) -> None:
    """However many holders come and go, no more are remembered than the limit, until some are forgotten."""
    for first in range(0, KNOWN_PODS + 5 * PODS, PODS):
        office.group.seen = [lock(number) for number in range(first, first + PODS)]
        await office.take()
    assert len(office.group.pods) == len(office.taker._nodes) == KNOWN_PODS
    assert await office.loads() == {}
    await asyncio.sleep(KNOWN_SECONDS)
    assert len(await office.loads()) == PODS


@in_virtual_time
async def test_slow_pods_are_counted_in_the_end(office: Office) -> None:
    """Where pods take so long that a census is given up, the next one goes on where it ended."""
    office.group.pod_seconds = CENSUS_SECONDS / 4.5
    office.group.seen = [lock(number) for number in range(10)]
    for looked_up in (5, 10):
        assert await office.fails() == CENSUS_SECONDS
        assert len(office.group.pods) == looked_up
        await asyncio.sleep(FAILURE_SECONDS)
    assert len(await office.loads()) == 10


# -- Failures ----------------------------------------------------------------------------------------------------------


@in_virtual_time
async def test_a_census_that_hangs_is_given_up(office: Office) -> None:
    """A bid waits for it, so there is a limit; for a while after it nobody waits at all."""
    office.group.seen = [lock(1, claimed=True)]
    office.group.list_seconds = 3600.0
    assert await office.fails() == CENSUS_SECONDS
    assert await office.fails() == 0.0
    assert office.group.lists == [True]
    assert office.told() == ["warning"]
    assert "no census within 1 s" in str(office.log.calls[0])


@in_virtual_time
async def test_hanging_pods_do_not_hold_it_up_either(office: Office) -> None:
    """The limit is one for the list and the pods together."""
    office.group.seen = [lock(number) for number in range(PODS)]
    office.group.list_seconds, office.group.pod_seconds = 0.9 * CENSUS_SECONDS, 0.9 * CENSUS_SECONDS
    assert await office.fails() == CENSUS_SECONDS


@pytest.mark.parametrize(
    ("error", "pod_error", "seconds"),
    [
        pytest.param(ApiError("500", status=500), None, FAILURE_SECONDS, id="list-fails"),
        pytest.param(ApiError("no connection"), None, FAILURE_SECONDS, id="no-answer"),
        pytest.param(None, ApiError("500", status=500), FAILURE_SECONDS, id="pods-fail"),
        pytest.param(FORBIDDEN, None, DENIAL_SECONDS, id="list-forbidden"),
    ],
)
def test_after_a_failure_there_is_a_pause(error: ApiError | None, pod_error: ApiError | None, seconds: float) -> None:
    """A census that failed is not tried again for a while, one that is forbidden for longer; it is told once."""

    @in_virtual_time
    async def pauses(office: Office) -> None:
        office.group.seen = [lock(1)]
        office.group.error, office.group.pod_error = error, pod_error
        assert await office.fails() == 0.0
        office.group.error = office.group.pod_error = None
        await asyncio.sleep(seconds - 0.1)
        await office.fails()
        assert len(office.group.lists) == 1
        await asyncio.sleep(0.2)
        await office.take()
        assert office.told() == ["warning", "info"]

    pauses()


@in_virtual_time
async def test_what_goes_on_failing_is_told_once(office: Office) -> None:
    """However often a census fails it is said once, with what happens instead, and once that it is over."""
    office.group.error = FORBIDDEN
    for _ in range(5):
        await office.fails()
        await asyncio.sleep(DENIAL_SECONDS)
    assert len(office.group.lists) == 5
    (told,) = (call for call in office.log.calls if call.method_name == "warning")
    assert "the verb 'list' on 'endpoints'; nodes do not matter meanwhile" in str(told)
    office.group.error = None
    await office.take()
    await office.take()
    assert office.told() == ["warning", "info"]


@in_virtual_time
async def test_the_last_census_outlives_a_failure(office: Office) -> None:
    """What was last known of the group is still shown while no census is to be had."""
    office.group.seen = [lock(1, claimed=True)]
    census = await office.take()
    office.group.error = ApiError("500", status=500)
    await office.fails()
    assert office.taker.last is not None
    assert office.taker.last.census is census


@in_virtual_time
async def test_who_is_cancelled_is_cancelled(office: Office) -> None:
    """Leaving does not wait for a census, and is no failure of it."""
    office.group.list_seconds = 3600.0
    task = asyncio.create_task(office.taker.take(cached=True))
    await asyncio.sleep(0.1)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert office.told() == []
