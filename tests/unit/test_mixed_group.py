"""Groups with elections on Leases: what a list of them shows, and how two kinds make one group at hardly any cost."""

from __future__ import annotations

import asyncio
import json
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qsl

import pytest
import structlog
from kubernetes_asyncio.client import Configuration

from sidecar.balance import LockSeen
from sidecar.group import ABSENCE_SECONDS, OTHER_KIND_SECONDS, LeaseGroup, MixedGroup
from sidecar.kube import DENIAL_SECONDS, ApiError, ForbiddenError, KubeClient
from sidecar.lab import virtualtime
from sidecar.record import CLAIM_ANNOTATION, LOOK_ANNOTATION, RECORD_ANNOTATION, Claim
from tests.unit.wire import Wire, answered, wire

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from structlog.testing import CapturingLogger

CLUSTER = "/apis/coordination.k8s.io/v1/leases"
NAMESPACE = "/apis/coordination.k8s.io/v1/namespaces/apps/leases"
SPEC = {
    "holderIdentity": "a",
    "leaseDurationSeconds": 10,
    "acquireTime": "2024-05-01T10:00:00.000000Z",
    "renewTime": "2024-05-01T10:00:05.000000Z",
    "leaseTransitions": 3,
}
CLAIM = Claim(holder="a", node="n1", pod_uid="u", renewed="2024-05-01T10:00:05Z")


def item(**changes: Any) -> dict[str, Any]:  # noqa: ANN401 - whatever a Lease can have
    """Return one Lease in a list."""
    annotations = {CLAIM_ANNOTATION: CLAIM.encode(), RECORD_ANNOTATION: "of old"}
    metadata = {"name": "a", "namespace": "apps", "resourceVersion": "7", "annotations": annotations}
    return {"metadata": metadata, "spec": SPEC, **changes}


@pytest.fixture
def _no_authorities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/dev/null")


@asynccontextmanager
async def leases_on(*answers: bytes, cluster: bool = False) -> AsyncIterator[tuple[LeaseGroup, Wire]]:
    """Return the Leases of a group, and the server that gives them these answers."""
    async with wire(*answers) as server:

        async def load() -> Configuration:
            configuration = Configuration()
            configuration.host = server.url
            return configuration

        kube = KubeClient(load, timeout=5, user_agent="t")
        try:
            yield LeaseGroup(kube, namespace="apps", group="g", cluster=cluster, log=logs()[0]), server
        finally:
            await kube.close()


def logs() -> tuple[Any, CapturingLogger]:
    """Return a logger, and what it was told."""
    logger = structlog.testing.CapturingLogger()
    log = structlog.wrap_logger(logger, processors=[], wrapper_class=structlog.make_filtering_bound_logger(0))
    return log, logger


# -- Leases ------------------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("_no_authorities")
@pytest.mark.parametrize(("cluster", "path"), [(False, NAMESPACE), (True, CLUSTER)])
async def test_leases_are_listed_with_their_records(path: str, *, cluster: bool) -> None:
    """One list of whole Leases; the record is the spec's, and the claim counts beside it."""
    async with leases_on(answered({"metadata": {}, "items": [item()]}), cluster=cluster) as (group, server):
        (lock,) = await group.locks(cached=True)
    assert (lock.name, lock.version, lock.holder, lock.claim) == ("apps/a", 7, "a", CLAIM)
    (asked,) = server.asked
    target, _, query = asked.target.partition("?")
    assert target == path
    assert ("labelSelector", "leader-elector/group=g") in parse_qsl(query)
    assert asked.headers["accept"] == "application/json"


@pytest.mark.usefixtures("_no_authorities")
@pytest.mark.parametrize("spec", [None, {}, [], "x", {"holderIdentity": "a"}, {"holderIdentity": ""}])
async def test_a_lease_without_a_record_that_can_be_read(spec: object) -> None:
    """It is seen, with its registrations, and led by nobody; an annotation beside it says nothing."""
    async with leases_on(answered({"metadata": {}, "items": [item(spec=spec)]})) as (group, _):
        (lock,) = await group.locks(cached=True)
    assert lock.name == "apps/a"
    assert lock.record is None
    assert lock.claim is None


@pytest.mark.usefixtures("_no_authorities")
async def test_a_lease_is_nudged() -> None:
    """A nudge is one patch of one annotation of the Lease."""
    async with leases_on(answered(item())) as (group, server):
        await group.nudge("other/b", "7")
    (asked,) = server.asked
    assert (asked.method, asked.target) == ("PATCH", NAMESPACE.replace("apps/leases", "other/leases/b"))
    assert json.loads(asked.body) == {"metadata": {"annotations": {LOOK_ANNOTATION: "8"}}}


# -- Both kinds --------------------------------------------------------------------------------------------------------


@dataclass
class Kind:
    """The locks of one kind, as a test says."""

    resource: str
    found: list[LockSeen] = field(default_factory=list)
    error: Exception | None = None
    seconds: float = 0.0
    lists: int = 0
    nudged: list[tuple[str, str]] = field(default_factory=list)

    async def locks(self, *, cached: bool) -> list[LockSeen]:
        """See `Group.locks`."""
        assert cached
        self.lists += 1
        await asyncio.sleep(self.seconds)
        if self.error is not None:
            raise self.error
        return self.found

    async def nudge(self, lock: str, counter: str) -> None:
        """See `Group.nudge`."""
        self.nudged.append((lock, counter))

    async def node_of(self, namespace: str, pod: str) -> str:
        """See `Group.node_of`."""
        return f"{self.resource}: {namespace}/{pod}"


class Bed:
    """A group of both kinds in virtual time."""

    def __init__(self) -> None:
        self.own = Kind("endpoints", [seen("a", 3)])
        self.other = Kind("leases")
        log, self.logger = logs()
        self.group = MixedGroup(self.own, self.other, log=log, clock=asyncio.get_running_loop().time)

    async def locks(self) -> list[tuple[str, int]]:
        """Return what is counted, by name and version."""
        return [(lock.name, lock.version) for lock in await self.group.locks(cached=True)]

    @property
    def told(self) -> list[str]:
        """What was logged."""
        return [call.kwargs["event"] for call in self.logger.calls]


def seen(name: str, version: int) -> LockSeen:
    """Return a lock in a list."""
    return LockSeen(name=f"n/{name}", version=version, annotations={})


def play(scene: Any) -> None:  # noqa: ANN401 - a coroutine function
    """Run `scene` in virtual time."""

    async def main() -> None:
        await scene(Bed())

    virtualtime.run(main())


def test_elections_on_both_kinds_count_once() -> None:
    """Of two objects of one name the later one counts, and is nudged; the others are where they are."""

    async def scene(bed: Bed) -> None:
        bed.own.found = [seen("a", 3), seen("both", 4), seen("left", 9)]
        bed.other.found = [seen("b", 5), seen("both", 6), seen("left", 8)]
        assert await bed.locks() == [("n/a", 3), ("n/both", 6), ("n/left", 9), ("n/b", 5)]
        for name in ("a", "b", "both", "left", "unknown"):
            await bed.group.nudge(f"n/{name}", "1")
        assert bed.own.nudged == [("n/a", "1"), ("n/left", "1"), ("n/unknown", "1")]
        assert bed.other.nudged == [("n/b", "1"), ("n/both", "1")]
        assert await bed.group.node_of("n", "p") == "endpoints: n/p"
        assert bed.told == []

    play(scene)


def test_a_kind_that_the_group_does_not_use_costs_next_to_nothing() -> None:
    """Where there is nothing of the other kind, it is asked for every `ABSENCE_SECONDS`; else each time."""

    async def scene(bed: Bed) -> None:
        for _ in range(10):
            assert await bed.locks() == [("n/a", 3)]
            await asyncio.sleep(ABSENCE_SECONDS / 10)
        assert (bed.own.lists, bed.other.lists) == (10, 1)
        bed.other.found = [seen("b", 5)]
        for _ in range(10):
            assert await bed.locks() == [("n/a", 3), ("n/b", 5)]
        assert (bed.own.lists, bed.other.lists) == (20, 11)
        assert bed.told == []

    play(scene)


def test_a_kind_that_may_not_be_listed_is_left_alone() -> None:
    """A 403 for the other kind is said once, and not met again for ten minutes; the census goes on without it."""

    async def scene(bed: Bed) -> None:
        bed.other.error = ForbiddenError("no", status=403)
        for _ in range(10):
            assert await bed.locks() == [("n/a", 3)]
            await asyncio.sleep(DENIAL_SECONDS / 10 - 1)
        assert bed.other.lists == 1
        await asyncio.sleep(10)
        bed.other.error, bed.other.found = None, [seen("b", 5)]
        assert await bed.locks() == [("n/a", 3), ("n/b", 5)]
        assert bed.told == [
            "leases may not be listed: elections on them are not counted",
            "leases can be listed again",
        ]

    play(scene)


@pytest.mark.parametrize("seconds", [0.0, 100.0])
def test_a_list_of_the_other_kind_that_fails_is_no_failure(seconds: float) -> None:
    """Whatever the other list fails with, and however long it takes, the census is taken in time; it is said once."""

    async def scene(bed: Bed) -> None:
        bed.other.error, bed.other.seconds = ApiError("busy", status=503), seconds
        for turn in range(1, 4):
            began = asyncio.get_running_loop().time()
            assert await bed.locks() == [("n/a", 3)]
            assert asyncio.get_running_loop().time() - began < OTHER_KIND_SECONDS + 0.01
            assert bed.other.lists == turn
        assert bed.told == ["leases cannot be listed: elections on them are not counted meanwhile"]

    play(scene)


def test_both_kinds_are_listed_at_the_same_time() -> None:
    """A census takes as long as the slower one of the two lists, and no longer."""

    async def scene(bed: Bed) -> None:
        bed.own.seconds, bed.other.seconds = 0.4, 0.3
        began = asyncio.get_running_loop().time()
        await bed.locks()
        assert asyncio.get_running_loop().time() - began == pytest.approx(0.4, abs=0.01)

    play(scene)


def test_a_list_of_the_own_kind_that_fails_is_an_error() -> None:
    """Without its own kind there is no census, and nothing goes on in the background."""

    async def scene(bed: Bed) -> None:
        bed.own.error = ApiError("busy", status=503)
        bed.other.seconds = 0.3
        with pytest.raises(ApiError):
            await bed.locks()
        await asyncio.sleep(0)
        assert len(asyncio.all_tasks()) == 1

    play(scene)
