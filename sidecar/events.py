"""Kubernetes Events: who became leader, and who stopped leading, as `kubectl describe` shows it.

They are told in the words of client-go, about the pod where it is known, else about the lock object. They are for
people, and best effort: few of them, from a bounded queue, and none is waited for.
"""

from __future__ import annotations

import asyncio
from collections import deque
from contextlib import suppress
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sidecar.kube import ApiError, ConflictError, ForbiddenError, Permission
from sidecar.record import format_time

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.candidate import Candidate
    from sidecar.kube import KubeClient

COMPONENT = "leader-elector"
"""Who reports, as Events name it."""

REASON = "LeaderElection"

BURST = 6
"""Events that may be written one after the other; a leadership has two."""

REFILL_SECONDS = 60.0
"""Seconds until one more may be written. What would be more is left out: etcd keeps each of them for an hour."""

QUEUE_LIMIT = 16
"""Events that wait to be written; the oldest ones are left out first."""

ATTEMPTS = 3
"""How often it is tried to write one."""

RETRY_SECONDS = 2.0
"""Seconds between two attempts."""

_LONGEST_STEM = 230
"""Characters of the object's name in an Event's name, which has at most 253 with the instant behind it."""

_LONGEST_INSTANCE = 128
"""Characters of `reportingInstance`."""


@dataclass(frozen=True, slots=True)
class Bucket:
    """How many Events may be written, at an instant: a token bucket."""

    tokens: float = BURST
    at: float = 0.0

    def take(self, now: float) -> Bucket | None:
        """Return what is left after one more, `None` where there must not be one."""
        tokens = min(float(BURST), self.tokens + max(0.0, now - self.at) / REFILL_SECONDS)
        return Bucket(tokens - 1, now) if tokens >= 1 else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """The object that Events are about. An Event is in its object's namespace."""

    api_version: str
    kind: str
    namespace: str
    name: str
    uid: str = ""
    """`kubectl describe` shows only what names it. Where it is empty, it is read."""

    @property
    def path(self) -> str:
        """Return where the object is."""
        root = f"/apis/{self.api_version}" if "/" in self.api_version else f"/api/{self.api_version}"
        plural = {"Endpoints": "endpoints", "Lease": "leases", "Pod": "pods"}[self.kind]
        return f"{root}/namespaces/{self.namespace}/{plural}/{self.name}"


@dataclass(frozen=True, slots=True)
class Entry:
    """What is to be told, and when it was so, in seconds since the epoch."""

    message: str
    at: float


def event_body(subject: Subject, entry: Entry, *, identity: str, uid: str) -> Mapping[str, Any]:
    """Return the Event, as core/v1 has it. Its name is the object's with the instant, as client-go makes it."""
    when = format_time(int(entry.at))
    about = {"apiVersion": subject.api_version, "kind": subject.kind, "name": subject.name}
    about |= {"namespace": subject.namespace} | ({"uid": uid} if uid else {})
    return {
        "apiVersion": "v1",
        "kind": "Event",
        "metadata": {
            "name": f"{subject.name[:_LONGEST_STEM].rstrip('-.')}.{int(entry.at * 1e9):x}",
            "namespace": subject.namespace,
        },
        "involvedObject": about,
        "reason": REASON,
        "message": entry.message,
        "type": "Normal",
        "source": {"component": COMPONENT},
        "reportingComponent": COMPONENT,
        "reportingInstance": identity[:_LONGEST_INSTANCE],
        "firstTimestamp": when,
        "lastTimestamp": when,
        "count": 1,
    }


class EventRecorder:
    """Writes an Event for each beginning and each end of a candidate's leadership.

    `now` returns seconds, `wall` seconds since the epoch.
    """

    name = "events"

    def __init__(
        self,
        candidate: Candidate,
        kube: KubeClient,
        subject: Subject,
        *,
        identity: str,
        now: Callable[[], float],
        wall: Callable[[], float],
        log: FilteringBoundLogger,
    ) -> None:
        self._candidate = candidate
        self._kube = kube
        self._subject = subject
        self._identity = identity
        self._now = now
        self._wall = wall
        self._log = log
        self._led = False
        self._bucket = Bucket(at=now())
        self._left_out = 0
        self._queue: deque[Entry] = deque(maxlen=QUEUE_LIMIT)
        self._stirred = asyncio.Event()
        self._idle = asyncio.Event()
        self._idle.set()
        self._writing = Permission(now)
        self._failing = False
        candidate.on_change(self._changed)

    def _changed(self) -> None:
        leads = self._candidate.is_leading()
        if leads == self._led:
            return
        self._led = leads
        if self._writing.denied:
            return
        now = self._now()
        left = self._bucket.take(now)
        if left is None:
            self._left_out += 1
            if self._left_out == 1:
                self._log.warning("the leader changes often: Events of it are left out")
            return
        self._bucket = left
        if self._left_out:
            self._log.info("Events are written again", left_out=self._left_out)
            self._left_out = 0
        self._queue.append(Entry(f"{self._identity} {'became leader' if leads else 'stopped leading'}", self._wall()))
        self._idle.clear()
        self._stirred.set()

    async def run(self) -> None:
        """See `Companion.run`."""
        while True:
            self._stirred.clear()
            while self._queue:
                await self._write(self._queue.popleft())
            self._idle.set()
            await self._stirred.wait()

    async def finish(self) -> None:
        """See `Companion.finish`: what was told last is still written."""
        self._changed()
        await self._idle.wait()

    async def _write(self, entry: Entry) -> None:
        for attempt in range(ATTEMPTS):
            if attempt:
                await asyncio.sleep(RETRY_SECONDS)
            if self._writing.denied or await self._is_done(entry):
                return

    async def _is_done(self, entry: Entry) -> bool:
        """Try to write an Event; tell whether there is no use in trying again."""
        try:
            await self._create(entry)
        except ForbiddenError as error:
            if self._writing.deny():
                self._log.info("Events may not be written: who leads is in this log only", error=str(error))
            return True
        except ApiError as error:
            if not self._failing:
                self._failing = True
                self._log.info("an Event could not be written", error=str(error))
            return error.refused
        if self._writing.allow() or self._failing:
            self._failing = False
            self._log.info("Events can be written again")
        return True

    async def _create(self, entry: Entry) -> None:
        subject = self._subject
        uid = subject.uid or await self._uid()
        body = event_body(subject, entry, identity=self._identity, uid=uid)
        with suppress(ConflictError):  # it is there: the answer to the attempt before was lost
            await self._kube.create(f"/api/v1/namespaces/{subject.namespace}/events", body)

    async def _uid(self) -> str:
        """Return the UID of the lock object, `""` where it cannot be had; it may be another one each time."""
        try:
            uid = (await self._kube.get(self._subject.path))["metadata"]["uid"]
        except (ApiError, KeyError, TypeError):
            return ""
        return uid if isinstance(uid, str) else ""
