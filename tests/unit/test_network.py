"""The client without a network: it reaches what the real client reaches, and everything on the way can go wrong."""

from __future__ import annotations

import asyncio
import math
from collections import Counter
from datetime import UTC, datetime
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.kube import ApiError, ConflictError, ForbiddenError, GoneError, NotFoundError
from sidecar.lab.network import LabClient, Network, Request
from sidecar.lab.resources import ENDPOINTS, PODS
from sidecar.lab.store import Store
from sidecar.lab.virtualtime import EPOCH, PROCESS, VirtualTimeLoop, run

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

COLLECTION = "/api/v1/namespaces/default/endpoints"
PATH = f"{COLLECTION}/example"
TIMEOUT = 2.0


class Bench:
    """A store, and a client of it."""

    def __init__(self, network: Network | None = None) -> None:
        self.loop = asyncio.get_running_loop()
        self.random = Random(0)  # noqa: S311 - plays, protects nothing
        self.store = Store(now=lambda: datetime.fromtimestamp(EPOCH + self.loop.time(), UTC), random=self.random)
        self.network = network or Network(latency=(0.1, 0.1))
        self.requests: list[Request] = []
        self.client = LabClient(
            self.store, self.network, random=self.random, timeout=TIMEOUT, sender="me", sent=self.requests.append
        )

    def put(self, name: str = "example", namespace: str = "default", **annotations: str) -> None:
        """Create an Endpoints object, or replace its annotations."""
        body: dict[str, Any] = {
            "metadata": {"name": name, "labels": {"group": "one"}, "annotations": annotations},
        }
        self.store.update(ENDPOINTS, namespace, name, body)

    def version(self) -> int:
        """Return the version of the last change."""
        return self.store.version


def play(scene: Callable[[Bench], Awaitable[None]], network: Network | None = None) -> None:
    """Play a scene in virtual time."""

    async def main() -> None:
        await scene(Bench(network))

    run(main())


async def seen(bench: Bench, count: int, *, version: int, seconds: int = 100) -> list[tuple[str, str, float]]:
    """Return the first events of a watch: kind, the annotation `a`, and when they came."""
    found: list[tuple[str, str, float]] = []
    async with bench.client.watch(COLLECTION, name="example", version=version, seconds=seconds) as events:
        async for event in events:
            found.append((event.kind, event.body["metadata"].get("annotations", {}).get("a", ""), bench.loop.time()))
            if len(found) == count:
                break
    return found


def test_every_verb_does_what_it_says() -> None:
    """Create, get, update, patch and list reach the store, in any namespace, and each is told under its RBAC verb."""

    async def scene(bench: Bench) -> None:
        elsewhere = "/api/v1/namespaces/kube-system/endpoints"
        created = await bench.client.create(elsewhere, {"metadata": {"name": "x", "labels": {"group": "one"}}})
        assert await bench.client.get(f"{elsewhere}/x") == created
        annotated = {**created, "metadata": {**created["metadata"], "annotations": {"a": "1", "b": "2"}}}
        updated = await bench.client.update(f"{elsewhere}/x", annotated)
        assert updated["metadata"]["annotations"] == {"a": "1", "b": "2"}
        patched = await bench.client.patch(f"{elsewhere}/x", {"metadata": {"annotations": {"a": None, "c": "3"}}})
        assert patched["metadata"]["annotations"] == {"b": "2", "c": "3"}
        listed = await bench.client.list_metadata(elsewhere, label="group=one", cached=False)
        assert [item["metadata"] for item in listed] == [patched["metadata"]]
        assert listed.version == bench.version()
        assert [request.verb for request in bench.requests] == ["create", "get", "update", "patch", "list"]
        assert {request.sender for request in bench.requests} == {"me"}

    play(scene)


def test_a_list_spans_one_namespace_or_all_and_selects_by_label() -> None:
    """The collection of a namespace has its own objects, that of the cluster has all; others' labels are left out."""

    async def scene(bench: Bench) -> None:
        for namespace in ("default", "kube-system"):
            bench.put("x", namespace)
        bench.store.create(ENDPOINTS, "default", {"metadata": {"name": "y", "labels": {"group": "two"}}})
        bench.store.create(ENDPOINTS, "default", {"metadata": {"name": "z"}})

        async def names(path: str) -> list[tuple[str, str]]:
            listed = await bench.client.list_metadata(path, label="group=one", cached=True)
            return [(item["metadata"]["namespace"], item["metadata"]["name"]) for item in listed]

        assert await names(COLLECTION) == [("default", "x")]
        assert await names("/api/v1/endpoints") == [("default", "x"), ("kube-system", "x")]

    play(scene)


def test_pods_can_be_read() -> None:
    """A pod's node is found where the real API server has it; a pod that is not there is 404."""

    async def scene(bench: Bench) -> None:
        bench.store.create(PODS, "default", {"metadata": {"name": "p"}, "spec": {"nodeName": "n"}})
        assert (await bench.client.get("/api/v1/namespaces/default/pods/p"))["spec"]["nodeName"] == "n"
        with pytest.raises(NotFoundError):
            await bench.client.get("/api/v1/namespaces/default/pods/q")

    play(scene)


@pytest.mark.parametrize("path", ["/api/v1/namespaces/default/secrets/x", "/version", "/api/v2/endpoints"])
def test_a_path_that_the_laboratory_does_not_have_is_an_error_of_the_test(path: str) -> None:
    """What the laboratory cannot answer is not answered by a 404, which a candidate might live with."""

    async def scene(bench: Bench) -> None:
        with pytest.raises(ValueError, match="has no"):
            await bench.client.get(path)

    play(scene)


def test_errors_are_what_the_client_raises() -> None:
    """404, 409 of either kind, and 410 come as the classes that the candidate tells apart, with their status."""

    async def scene(bench: Bench) -> None:
        with pytest.raises(NotFoundError) as missing:
            await bench.client.get(PATH)
        assert missing.value.status == 404
        bench.put(a="1")
        with pytest.raises(ConflictError) as exists:
            await bench.client.create(COLLECTION, {"metadata": {"name": "example"}})
        assert exists.value.refused
        stale = await bench.client.get(PATH)
        bench.put(a="2")
        with pytest.raises(ConflictError):
            await bench.client.update(PATH, stale)
        bench.store.compact()
        with pytest.raises(GoneError):
            await seen(bench, 1, version=2)

    play(scene)


def test_each_way_takes_the_latency() -> None:
    """A request is done after one way, and answered after two."""

    async def scene(bench: Bench) -> None:
        request = asyncio.create_task(bench.client.create(COLLECTION, {"metadata": {"name": "example"}}))
        await asyncio.sleep(0.09)
        assert bench.version() == 5
        await asyncio.sleep(0.02)
        assert bench.version() == 6
        assert not request.done()
        await request
        assert bench.loop.time() == pytest.approx(0.2, abs=0.001)

    play(scene)


def test_a_cache_is_behind_and_a_consistent_list_is_not() -> None:
    """What was written just before a list arrives is in a consistent list always, in a cached one by chance only."""

    async def scene(bench: Bench) -> None:
        found = Counter[bool]()
        for number in range(100):
            for cached in (True, False):
                bench.put(a=f"{number} {cached}")
                listing = asyncio.create_task(bench.client.list_metadata(COLLECTION, label="group=one", cached=cached))
                await asyncio.sleep(0.05)
                bench.put(a="new")
                (item,) = await listing
                found[cached] += item["metadata"]["annotations"]["a"] == "new"
        assert found[False] == 100
        assert 25 <= found[True] <= 75

    play(scene)


@pytest.mark.parametrize("cached", [False, True])
def test_a_list_is_answered_after_two_ways(*, cached: bool) -> None:
    """A cache is no faster than the network in front of it."""

    async def scene(bench: Bench) -> None:
        await bench.client.list_metadata(COLLECTION, label="group=one", cached=cached)
        assert bench.loop.time() == pytest.approx(0.2, abs=0.001)

    play(scene)


@pytest.mark.parametrize(
    ("network", "done"),
    [
        (Network(hangs=True), False),
        (Network(lost_requests=1.0), False),
        (Network(lost_answers=1.0), True),
        (Network(latency=(1.5, 1.5)), True),
    ],
)
def test_what_is_not_answered_in_time_is_given_up(network: Network, done: bool) -> None:  # noqa: FBT001 - a parameter
    """No answer within the time-out: nobody knows whether it was done, and only a request that arrived was."""

    async def scene(bench: Bench) -> None:
        with pytest.raises(ApiError, match="no answer in time") as error:
            await bench.client.create(COLLECTION, {"metadata": {"name": "example"}})
        assert error.value.status is None
        assert bench.loop.time() == pytest.approx(TIMEOUT, abs=0.001)
        await asyncio.sleep(TIMEOUT)
        assert bool(bench.store.list_objects(ENDPOINTS).items) is done

    play(scene, network)


def test_what_is_under_way_arrives_without_its_sender() -> None:
    """A process that is killed just after it sent a request has it done all the same."""

    async def scene(bench: Bench) -> None:
        assert isinstance(bench.loop, VirtualTimeLoop)

        async def send() -> None:
            PROCESS.set("sender")
            await bench.client.create(COLLECTION, {"metadata": {"name": "example"}})

        task = asyncio.create_task(send())
        await asyncio.sleep(0.05)
        bench.loop.stop_process("sender", math.inf)
        await asyncio.sleep(1)
        assert bench.store.list_objects(ENDPOINTS).items
        assert not task.done()
        bench.loop.continue_process("sender")
        await task

    play(scene)


def test_errors_come_in_turn_and_as_often_as_asked() -> None:
    """The errors of a network that is broken in part are mixed with answers; a forbidden verb is always 403."""

    async def scene(bench: Bench) -> None:
        bench.put()
        bench.network.errors = (ApiError("500", status=500), ApiError("503", status=503))
        bench.network.broken = 0.5
        answers = Counter[int | None]()
        for _ in range(200):
            try:
                await bench.client.get(PATH)
                answers[200] += 1
            except ApiError as error:
                answers[error.status] += 1
        assert answers[200] > 60
        assert abs(answers[500] - answers[503]) <= 1
        bench.network.heal()
        bench.network.forbidden = frozenset({"patch", "watch"})
        await bench.client.get(PATH)
        with pytest.raises(ForbiddenError):
            await bench.client.patch(PATH, {})
        with pytest.raises(ForbiddenError):
            await seen(bench, 1, version=1)

    play(scene)


def test_a_watch_shows_every_change_in_order() -> None:
    """Events keep their order, whatever time each takes; those since the version that is named come first."""

    async def scene(bench: Bench) -> None:
        bench.put(a="0")
        since = bench.version()
        bench.put(a="1")

        async def change() -> None:
            for number in range(2, 40):
                await asyncio.sleep(0.01)
                bench.put(a=str(number))

        changing = asyncio.create_task(change())
        events = await seen(bench, 39, version=since)
        assert [text for _, text, _ in events] == [str(number) for number in range(1, 40)]
        assert {kind for kind, _, _ in events} == {"MODIFIED"}
        await changing

    play(scene, Network(latency=(0.001, 0.2)))


def test_a_watch_ends_when_its_time_is_over() -> None:
    """The events end; what is watched no longer is counted no longer."""

    async def scene(bench: Bench) -> None:
        bench.put(a="0")
        assert await seen(bench, 2, version=bench.version(), seconds=7) == []
        assert bench.loop.time() == pytest.approx(7.1, abs=0.001)
        assert not bench.network.watching

    play(scene)


def test_a_watch_that_is_cut_breaks() -> None:
    """What arrived before is seen, then the connection is reset, and nothing is shown any more."""

    async def scene(bench: Bench) -> None:
        bench.put(a="0")
        async with bench.client.watch(COLLECTION, name="example", version=bench.version(), seconds=100) as events:
            bench.put(a="1")
            await asyncio.sleep(0.15)
            bench.put(a="2")
            bench.network.cut_watch()
            assert (await anext(events)).body["metadata"]["annotations"] == {"a": "1"}
            with pytest.raises(ApiError, match="reset"):
                await anext(events)

    play(scene)


def test_a_silent_watch_shows_all_it_missed_once_it_is_healed() -> None:
    """Silence is not loss: nothing comes for a time, then everything, in order."""

    async def scene(bench: Bench) -> None:
        bench.put(a="0")
        watching = asyncio.create_task(seen(bench, 2, version=bench.version()))
        await asyncio.sleep(1)
        bench.network.watch = "silent"
        bench.put(a="1")
        bench.put(a="2")
        await asyncio.sleep(30)
        assert not watching.done()
        bench.network.heal()
        events = await watching
        assert [text for _, text, _ in events] == ["1", "2"]
        assert events[0][2] > 30

    play(scene)


@pytest.mark.parametrize(
    ("watch", "error"), [("forbidden", ForbiddenError), ("gone", GoneError)], ids=["forbidden", "gone"]
)
def test_a_watch_may_be_refused(watch: str, error: type[ApiError]) -> None:
    """403 and 410 instead of events."""

    async def scene(bench: Bench) -> None:
        bench.put()
        with pytest.raises(error):
            await seen(bench, 1, version=bench.version())

    play(scene, Network(watch=watch))


def test_a_watch_that_falls_behind_is_ended() -> None:
    """The API server ends a watch that takes too little; what it sent before still arrives."""

    async def scene(bench: Bench) -> None:
        bench.put(a="0")
        async with bench.client.watch(COLLECTION, name="example", version=bench.version(), seconds=100) as events:
            bench.network.watch = "silent"
            for number in range(1100):
                bench.put(a=f"n{number}")
            bench.network.heal()
            assert [event async for event in events] == []
        assert bench.loop.time() < 3

    play(scene)
