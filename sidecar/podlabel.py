"""The leader's label: one pod at most has it, and so a Service can select the leader's pod.

A Service should rather have nobody than two to send writes to. So whoever begins to lead takes the label off all other
pods that this election labelled, and only then labels its own; and whoever stops leading takes its label off before it
releases the lock. An annotation beside the label names the election, so that nobody else's labels are touched. Every
patch names the UID of the pod that it means, and that of somebody else's pod its version as well: a pod of the same
name made anew, or labelled anew meanwhile, is left alone.

`next_step` decides, purely; `PodLabel` asks and patches, one request at a time, so that none overtakes another.
"""

from __future__ import annotations

import asyncio
import hashlib
import math
import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from sidecar.kube import ApiError, ConflictError, ForbiddenError, NotFoundError, Permission

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Iterable, Mapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.candidate import Candidate
    from sidecar.kube import KubeClient

LEADS_PREFIX = "leader-elector/leads."
"""What the annotation of a labelled pod begins with. The election follows: a pod may lead several, by labels of their
own."""

BACKOFF = (0.25, 15.0)
"""Seconds between two attempts, after the first failure and at most."""

_INVALID = 422
"""How the API server answers a patch that names another UID than the pod's."""

_LONGEST_REST = 60.0
"""Seconds after which it is looked what there is to do although nothing happened."""

_NAME = re.compile(r"[A-Za-z0-9][-A-Za-z0-9_.]*")
_LONGEST_NAME = 63
"""Characters after the slash of an annotation's key (Kubernetes, labels and annotations: syntax)."""


# -- What to do next ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class Pod:
    """A pod, as it was when it was seen."""

    name: str
    uid: str
    version: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Labels:
    """Who has the label, as far as is known."""

    own: bool | None = None
    """Whether this candidate's pod may have it. `None`: nobody has looked, and an earlier process may have left it."""
    is_unsure: bool = False
    """A patch that puts it on may still arrive, whatever a look shows."""
    others: tuple[Pod, ...] | None = None
    """Who else has it. `None`: nobody has looked since this leadership began."""
    look_at: float = math.inf
    """When to look once more."""


@dataclass(frozen=True, slots=True)
class Look:
    """List the pods that have the label."""


@dataclass(frozen=True, slots=True)
class Strip:
    """Take the label off somebody else's pod."""

    pod: Pod


@dataclass(frozen=True, slots=True)
class PutOn:
    """Label the own pod."""


@dataclass(frozen=True, slots=True)
class TakeOff:
    """Take the label off the own pod."""


@dataclass(frozen=True, slots=True)
class Rest:
    """Do nothing before the instant `until`, unless leadership changes."""

    until: float


Step = Look | Strip | PutOn | TakeOff | Rest


def next_step(labels: Labels, *, leads: bool, now: float) -> Step:
    """Return what to do now."""
    if not leads:
        if labels.own is None:
            return Look()
        return TakeOff() if labels.own or labels.is_unsure else Rest(math.inf)
    if labels.others is None or now >= labels.look_at:
        return Look()
    if labels.others:
        return Strip(labels.others[0])
    return Rest(labels.look_at) if labels.own else PutOn()


def begun(labels: Labels) -> Labels:
    """Return what is known when a leadership begins: somebody else may have led, and labelled, in between."""
    return replace(labels, others=None, look_at=math.inf)


def looked(labels: Labels, found: Iterable[Pod], me: Pod, *, again_at: float) -> Labels:
    """Return what is known after a look; the first one of a leadership is followed by another one, at `again_at`."""
    found = tuple(found)
    others = tuple(pod for pod in found if (pod.name, pod.uid) != (me.name, me.uid))
    look_at = again_at if labels.others is None else math.inf
    return replace(labels, own=len(others) < len(found), others=others, look_at=look_at)


def stripped(labels: Labels, pod: Pod) -> Labels:
    """Return what is known once a pod is without the label, or is no more."""
    if labels.others is None:
        return labels
    return replace(labels, others=tuple(other for other in labels.others if other != pod))


# -- Doing it ----------------------------------------------------------------------------------------------------------


def leads_key(election: str) -> str:
    """Return the annotation of the pods that this election labelled; a hash stands in for what cannot be in a key."""
    name = LEADS_PREFIX.partition("/")[2] + election
    if len(name) <= _LONGEST_NAME and _NAME.fullmatch(election):
        return f"{LEADS_PREFIX}{election}"
    return f"{LEADS_PREFIX}{hashlib.sha256(election.encode()).hexdigest()[:16]}"


class PodLabel:
    """Keeps the label on this candidate's pod while it leads, and off it, and all others, as said above.

    `election` is the namespace and name of the lock object. One more look, `settle_seconds` later, finds what arrived
    late: a patch that a former leader had sent, or one that took the label off this pod. `now` returns seconds.
    """

    name = "pod label"

    def __init__(
        self,
        candidate: Candidate,
        kube: KubeClient,
        *,
        label: tuple[str, str],
        election: tuple[str, str],
        namespace: str,
        pod: str,
        uid: str,
        settle_seconds: float,
        now: Callable[[], float],
        random: random.Random,
        log: FilteringBoundLogger,
    ) -> None:
        self._candidate = candidate
        self._kube = kube
        self._key, self._value = label
        self._annotation = leads_key(election[1])
        self._election = "/".join(election)
        self._pods = f"/api/v1/namespaces/{namespace}/pods"
        self._me = Pod(name=pod, uid=uid)
        self._settle_seconds = settle_seconds
        self._now = now
        self._random = random
        self._log = log
        self._labels = Labels()
        self._leads = False
        self._terms = 0
        self._failures = 0
        self._stirred = asyncio.Event()
        self._done = asyncio.Event()
        self._patching = Permission(now)
        candidate.on_change(self._observe)
        candidate.before_release(self._undone)

    def _observe(self) -> None:
        leads = self._candidate.is_leading()
        if leads == self._leads:
            return
        self._leads = leads
        if leads:
            self._terms += 1
            self._labels = begun(self._labels)
        self._failures = 0
        self._stirred.set()

    async def run(self) -> None:
        """See `Companion.run`."""
        while True:
            self._stirred.clear()
            self._observe()
            step = next_step(self._labels, leads=self._leads, now=self._now())
            if isinstance(step, Rest) or self._patching.denied:
                self._tell()
                await self._rest(step.until - self._now() if isinstance(step, Rest) else _LONGEST_REST)
                continue
            try:
                await self._take(step)
            except ApiError as error:
                await self._failed(error)
            else:
                self._failures = 0
            self._tell()

    async def finish(self) -> None:
        """See `Companion.finish`: the label is off, where the lock was not released."""
        await self._undone()

    async def _undone(self) -> None:
        """Return once this pod, whose candidate does not lead, is without the label."""
        self._observe()
        while (self._labels.own or self._labels.is_unsure) and not (self._patching.denied or self._leads):
            self._done.clear()
            await self._done.wait()

    def _tell(self) -> None:
        self._done.set()

    async def _rest(self, seconds: float) -> None:
        try:
            async with asyncio.timeout(max(0.0, min(seconds, _LONGEST_REST))):
                await self._stirred.wait()
        except TimeoutError:
            pass

    async def _failed(self, error: ApiError) -> None:
        """Say it once, and wait a while."""
        self._failures += 1
        if isinstance(error, ForbiddenError):
            if self._patching.deny():
                self._log.warning(
                    "the leader's pod is not labelled: see that the Role of this service account allows the verbs"
                    " 'list' and 'patch' on 'pods'",
                    error=str(error),
                )
            return
        if self._failures == 1:
            self._log.info("the leader's label could not be brought in order; it is tried again", error=str(error))
        first, longest = BACKOFF
        pause = min(longest, first * 2 ** min(self._failures - 1, 8)) * (0.5 + self._random.random() / 2)
        self._tell()
        await self._rest(max(pause, min(error.retry_after, longest)))

    async def _take(self, step: Look | Strip | PutOn | TakeOff) -> None:
        match step:
            case Look():
                terms = self._terms
                found = await self._labelled()
                again_at = self._now() + self._settle_seconds
                self._labels = looked(self._labels, found, self._me, again_at=again_at)
                if self._terms != terms:
                    self._labels = begun(self._labels)
            case Strip(pod):
                await self._strip(pod)
            case PutOn():
                await self._put_on()
            case TakeOff():
                await self._take_off()
        if self._patching.allow():
            self._log.info("pods may be labelled again")

    async def _labelled(self) -> list[Pod]:
        """Return the pods that this election labelled."""
        listing = await self._kube.list_metadata(self._pods, label=f"{self._key}={self._value}", cached=False)
        found = (_seen(item, self._annotation, self._election) for item in listing)
        return [pod for pod in found if pod is not None]

    async def _strip(self, pod: Pod) -> None:
        try:
            await self._patch(pod, labelled=False)
        except NotFoundError:
            pass
        except ConflictError:
            # It changed since: perhaps it leads by now, and labelled itself.
            self._labels = replace(self._labels, others=None)
            return
        except ApiError as error:
            if error.status != _INVALID:
                raise
        else:
            self._log.info("took the leader's label off the pod of another", pod=pod.name)
        self._labels = stripped(self._labels, pod)

    async def _put_on(self) -> None:
        # Before anything is sent: whatever becomes of the answer, it may be on.
        self._labels = replace(self._labels, own=True, look_at=self._now() + self._settle_seconds)
        try:
            await self._patch(self._me, labelled=True)
        except ApiError as error:
            self._labels = replace(self._labels, own=not error.refused, look_at=math.inf)
            if isinstance(error, NotFoundError) or error.status == _INVALID:
                # Not before somebody has had the time to see to it; the API server would be asked in vain.
                self._labels = replace(self._labels, own=False)
                if self._patching.deny():
                    self._log.warning(
                        "this pod cannot be labelled: see POD_NAME, POD_UID, POD_NAMESPACE", error=str(error)
                    )
                return
            if not error.refused:
                # Leading still, it is to be put on again; not leading, to be taken off.
                self._labels = replace(self._labels, is_unsure=True, look_at=-math.inf)
            raise
        self._log.info("labelled this pod as the leader's", label=f"{self._key}={self._value}")

    async def _take_off(self) -> None:
        try:
            await self._patch(self._me, labelled=False)
        except NotFoundError:
            pass
        except ApiError as error:
            if error.status != _INVALID:
                raise
        self._labels = replace(self._labels, own=False, is_unsure=False)

    async def _patch(self, pod: Pod, *, labelled: bool) -> None:
        metadata: dict[str, Any] = {
            "uid": pod.uid,
            "labels": {self._key: self._value if labelled else None},
            "annotations": {self._annotation: self._election if labelled else None},
        }
        if pod.version:
            metadata["resourceVersion"] = pod.version
        await self._kube.patch(f"{self._pods}/{pod.name}", {"metadata": metadata})


def _seen(item: Mapping[str, Any], annotation: str, election: str) -> Pod | None:
    """Return the pod that an item of a list is, `None` where it is none, or another election labelled it."""
    metadata = item.get("metadata")
    if not isinstance(metadata, dict):
        return None
    annotations = metadata.get("annotations")
    if not isinstance(annotations, dict) or annotations.get(annotation) != election:
        return None
    name, uid, version = (metadata.get(key) for key in ("name", "uid", "resourceVersion"))
    if not (isinstance(name, str) and isinstance(uid, str) and isinstance(version, str)):
        return None
    return Pod(name=name, uid=uid, version=version)
