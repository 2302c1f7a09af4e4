"""Sees what happens to the elections of one namespace: their lock objects, their pods, and what every sidecar answers.

    async with observing(cluster, namespace) as seen:
        ...
    assert seen.at_once() == []

All times are of one clock, `time.monotonic` where the tests run. Whatever is concluded from two of them stays true on a
slow machine: an event was seen after it happened, an answer was given between its question and its arrival.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from itertools import combinations, pairwise
from typing import TYPE_CHECKING, Any

from tests.cluster.manifests import APPLICATION, SIDECAR
from tests.cluster.reach import reaching
from tests.cluster.streams import streaming
from tests.cluster.terms import Term, Version, terms, version_of
from tests.testbed.monitor import AtOnce, Monitor, Naming, ask, longest_gap, spans, unproven
from tests.testbed.sidecar import until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Sequence

    from tests.cluster.reach import Reach
    from tests.testbed.cluster import Cluster
    from tests.testbed.monitor import Streams

EVERY = 0.05
"""Seconds from one question to a sidecar to the next."""

PORT = 4040


class ObserverError(Exception):
    """Something may have been missed; the message says why."""


@dataclass(eq=False, kw_only=True)
class Pod:
    """One pod, told apart by its UID: names come back."""

    name: str
    uid: str
    body: dict[str, Any]
    """The last version that was seen."""
    deleted: float | None = None
    """When it was seen to be deleted."""
    answers: list[Naming] = field(default_factory=list)
    """What its sidecar answered, from when its container was seen to be started."""
    asked: str = ""
    """Which of its sidecar's containers is asked."""
    asking: asyncio.Task[None] | None = None

    @property
    def label(self) -> str:
        """What messages call it."""
        return f"{self.name} ({self.uid[:8]} on {self.node or 'no node'})"

    @property
    def node(self) -> str:
        """The node that it was scheduled to, `""` before that."""
        return str(self.body["spec"].get("nodeName") or "")

    @property
    def address(self) -> str:
        """Its IP address, `""` before it has one."""
        return str(self.body["status"].get("podIP") or "")

    @property
    def application(self) -> str:
        """The application that it says it is of, `""` where it says nothing."""
        return str((self.body["metadata"].get("labels") or {}).get(APPLICATION) or "")

    @property
    def started(self) -> str:
        """Its sidecar's container, another one whenever it is started again; `""` before the first start."""
        return str(self.container(SIDECAR).get("containerID") or "")

    def is_ready(self) -> bool:
        """Tell whether the API server says that it is ready."""
        conditions = self.body["status"].get("conditions") or []
        return any(one["type"] == "Ready" and one["status"] == "True" for one in conditions)

    def container(self, name: str) -> dict[str, Any]:
        """Return the status of a container, sidecars included; empty when it has none."""
        status = self.body["status"]
        for one in [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]:
            if one["name"] == name:
                return dict(one)
        return {}

    def last_name(self, *, since: float = 0.0) -> str | None:
        """Return whom its sidecar named last; None when nothing that was asked from `since` on was answered."""
        return self.answers[-1].name if self.answers and self.answers[-1].sent >= since else None


class Observer:
    """What was seen so far. Made by `observing`. Raises ObserverError from when something may have been missed."""

    def __init__(self, namespace: str, reach: Reach, clock: Monitor, *, every: float) -> None:
        self._namespace = namespace
        self._reach = reach
        self._clock = clock
        self._every = every
        self._pods: dict[str, Pod] = {}
        self._versions: defaultdict[str, list[Version]] = defaultdict(list)
        self._problem = ""

    # -- What the API server shows --

    def pods(self) -> list[Pod]:
        """Return all pods that were ever seen, in that order."""
        self._check()
        return list(self._pods.values())

    def living(self, application: str = "") -> list[Pod]:
        """Return the pods that were not seen to be deleted, by name, of all applications or of one."""
        found = [pod for pod in self.pods() if pod.deleted is None and application in ("", pod.application)]
        return sorted(found, key=lambda pod: pod.name)

    def pod(self, name: str) -> Pod:
        """Return the living pod of that name. Raises StopIteration."""
        return next(pod for pod in self.living() if pod.name == name)

    def versions(self, election: str) -> list[Version]:
        """Return all versions of the lock object of an election."""
        self._check()
        return self._versions[election]

    def terms(self, election: str) -> list[Term]:
        """Return who led an election, one after the other."""
        return terms(self.versions(election))

    def present_term(self, election: str) -> Term | None:
        """Return the term that has not ended; None while nobody leads."""
        found = self.terms(election)
        return found[-1] if found and found[-1].ended is None else None

    def gaps_on_time(self, election: str) -> list[float]:
        """Return the seconds without a leader between each two terms, less those by which this process was late.

        A machine that is too busy to go on here is hardly less so for the pods.
        """
        return [
            self._clock.on_time(earlier.ended, later.began) if earlier.ended is not None else 0.0
            for earlier, later in pairwise(self.terms(election))
        ]

    async def led(self, election: str, *, since: float = 0.0, seconds: float = 60) -> Term:
        """Wait until the lock object names a leader that began to lead after `since`; return its term."""
        found: list[Term] = []

        def is_led() -> bool:
            term = self.present_term(election)
            found[:] = [term] if term is not None and term.began > since else []
            return bool(found)

        await until(is_led, f"{election} is led", seconds=seconds)
        return found[0]

    async def renewed(self, election: str, *, seconds: float = 60) -> None:
        """Wait until the present leader has renewed, as it does some seconds after it began.

        Before that, writes within one second are told apart by a time in the record that is ahead of the clock.
        """

        def is_renewed() -> bool:
            term = self.present_term(election)
            return term is not None and term.renewed - term.began > 1

        await until(is_renewed, f"the leader of {election} renews", seconds=seconds)

    async def ready(self, count: int, application: str = "", *, seconds: float = 90) -> list[Pod]:
        """Wait until so many pods are there and all of them are ready; return them."""

        def are_ready() -> bool:
            pods = self.living(application)
            return len(pods) == count and all(pod.is_ready() for pod in pods)

        await until(are_ready, f"{count} pods of {application or 'all applications'} are ready", seconds=seconds)
        return self.living(application)

    # -- What the sidecars say --

    def at_once(self) -> list[AtOnce]:
        """Return which pods of one application named themselves at once; empty when that is proven of no two."""
        gap = longest_gap(self._every)
        found = {pod: list(spans(pod.name, pod.answers, gap=gap)) for pod in self.pods()}
        return [
            AtOnce(one.label, another.label, (span, other))
            for one, another in combinations(found, 2)
            if one.application == another.application
            for span in found[one]
            for other in found[another]
            if span.overlaps(other)
        ]

    def unproven(self) -> tuple[float, float]:
        """Return for how many seconds leaders named themselves, and in how many of those another could not be seen.

        The second figure is how much of the judgement was lost because questions were late.
        """
        gap = longest_gap(self._every)
        lost = sum(unproven(pod.name, pod.answers, gap=gap) for pod in self.pods())
        seen = sum(
            max(0.0, span.end - span.begin) for pod in self.pods() for span in spans(pod.name, pod.answers, gap=gap)
        )
        return seen + lost, lost

    async def agreed(self, election: str, among: Sequence[Pod], *, seconds: float = 30) -> Pod:
        """Wait until these pods, asked from now on, all name one of them, whom the lock names too; return that one."""
        since = time.monotonic()
        found: list[Pod] = []

        def agree() -> bool:
            named = {pod.last_name(since=since) for pod in among}
            term = self.present_term(election)
            found[:] = [pod for pod in among if {pod.name} == named and term is not None and term.holder == pod.name]
            return bool(found)

        await until(agree, f"all sidecars of {election} name its leader", seconds=seconds)
        return found[0]

    # -- Taking in --

    async def follow(self, cluster: Cluster, resource: str, version: str) -> None:
        """Take in what happens to the pods or the endpoints of the namespace after a version, until cancelled."""
        path = f"{self._path(resource)}?watch=true&resourceVersion={version}"
        try:
            async with streaming(cluster, "get", "--raw", path) as events:
                async for line in events:
                    at = time.monotonic()
                    event = json.loads(line)
                    # An error, which is no object of that kind, is a KeyError there.
                    self.take(event["type"], event["object"], at)
            self._problem = f"{path}: the watch ended"
        except (KeyError, ValueError) as error:
            self._problem = f"{path}: {error!r}"

    async def take_all(self, cluster: Cluster, resource: str) -> str:
        """Take in all that is there of a resource; return the version from which on to follow it."""
        at = time.monotonic()
        found = json.loads(await asyncio.to_thread(cluster.kubectl, "get", "--raw", self._path(resource)))
        for body in found["items"]:
            self.take("ADDED", {"kind": found["kind"].removesuffix("List"), **body}, at)
        return str(found["metadata"]["resourceVersion"])

    def take(self, event: str, body: dict[str, Any], at: float) -> None:
        """Take in a pod, or endpoints, that was added, modified or deleted. Raises KeyError for anything else."""
        {"Pod": self._take_pod, "Endpoints": self._take_lock}[body["kind"]](event, body, at)

    def _path(self, resource: str) -> str:
        return f"/api/v1/namespaces/{self._namespace}/{resource}"

    async def close(self) -> None:
        """Ask nobody any more."""
        asking = [pod.asking for pod in self._pods.values() if pod.asking is not None]
        for task in asking:
            task.cancel()
        await asyncio.gather(*asking, return_exceptions=True)

    def _check(self) -> None:
        failed = [pod.asking for pod in self._pods.values() if pod.asking is not None and pod.asking.done()]
        for task in failed:
            if not task.cancelled():
                task.result()
        if self._problem:
            raise ObserverError(self._problem)

    def _take_lock(self, event: str, body: dict[str, Any], at: float) -> None:
        self._versions[body["metadata"]["name"]].append(version_of(body, at=at, deleted=event == "DELETED"))

    def _take_pod(self, event: str, body: dict[str, Any], at: float) -> None:
        metadata = body["metadata"]
        pod = self._pods.setdefault(metadata["uid"], Pod(name=metadata["name"], uid=metadata["uid"], body=body))
        pod.body = body
        if event == "DELETED":
            pod.deleted = at
        elif pod.address and pod.started != pod.asked:
            # What was asked when its node was switched off would never be answered.
            if pod.asking is not None:
                pod.asking.cancel()
            pod.asked = pod.started
            question = self._reach.question(self._namespace, pod.name, PORT)
            pod.asking = asyncio.create_task(
                ask(lambda: self._connect(pod), pod.answers, question=question, every=self._every)
            )

    async def _connect(self, pod: Pod) -> Streams:
        # When a pod was deleted, its address may soon be another's. Over an open connection it is still heard: one that
        # was deleted by force lives on.
        if pod.deleted is not None:
            raise ConnectionError(f"{pod.label} is deleted")
        return await self._reach.connect(pod.node, pod.address, PORT)


@asynccontextmanager
async def observing(cluster: Cluster, namespace: str, *, every: float = EVERY) -> AsyncIterator[Observer]:
    """Observe a namespace while the block runs; every sidecar is asked `every` so many seconds."""
    async with AsyncExitStack() as stack:
        clock = await stack.enter_async_context(Monitor())
        observer = Observer(namespace, await stack.enter_async_context(reaching(cluster)), clock, every=every)
        stack.push_async_callback(observer.close)
        versions = {name: await observer.take_all(cluster, name) for name in ("pods", "endpoints")}
        watches = [asyncio.create_task(observer.follow(cluster, *listed)) for listed in versions.items()]

        async def end() -> None:
            for watch in watches:
                watch.cancel()
            await asyncio.gather(*watches, return_exceptions=True)

        stack.push_async_callback(end)
        yield observer
