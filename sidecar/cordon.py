"""A cordoned node leads nothing for longer than it has to: its candidates give their leaderships away before the drain.

One watch on the one Node object is all: it begins with the present state, so nothing is read besides, and while nothing
changes nothing is sent. It needs the permission to watch nodes, which most service accounts do not have.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from sidecar.candidate import SHORT_WATCH, WATCH_SECONDS
from sidecar.kube import DENIAL_SECONDS, ApiError, ForbiddenError, Permission

if TYPE_CHECKING:
    import random
    from collections.abc import Mapping

    from structlog.typing import FilteringBoundLogger

    from sidecar.candidate import Candidate
    from sidecar.kube import KubeClient

WHY = "its node is cordoned"
"""What the candidate abstains for."""

BACKOFF = (1.0, 60.0)
"""Seconds between attempts to watch, after the first failure and at most."""

SILENCE = 600.0
"""Seconds without a word after which a watch counts as dead. The API server sends a bookmark every minute or so."""

_HOPELESS = (400, 404, 422)
"""Statuses of a request that will not be answered otherwise when it is repeated."""


def is_cordoned(kind: str, node: Mapping[str, Any]) -> bool | None:
    """Return what an event of the watch says of the node, `None` where that is nothing.

    A node that is deleted takes its pods with it, so it counts as cordoned.
    """
    match kind:
        case "ADDED" | "MODIFIED":
            spec = node.get("spec")
            return isinstance(spec, dict) and spec.get("unschedulable") is True
        case "DELETED":
            return True
    return None


class CordonWatch:
    """Has the candidate abstain while its node is cordoned.

    A lock that stays vacant for `patience` seconds is bid for all the same: somebody has to lead. After that the lock
    is kept, until the node is cordoned anew.
    """

    name = "cordon"

    def __init__(
        self,
        candidate: Candidate,
        kube: KubeClient,
        *,
        node: str,
        patience: float,
        random: random.Random,
        log: FilteringBoundLogger,
    ) -> None:
        self._candidate = candidate
        self._kube = kube
        self._node = node
        self._patience = patience
        self._random = random
        self._log = log
        self._cordoned = False
        self._watching = Permission()

    async def run(self) -> None:
        """See `Companion.run`."""
        loop = asyncio.get_running_loop()
        first, longest = BACKOFF
        failures = 0
        while True:
            began = loop.time()
            pause = 0.0
            try:
                await self._watch()
            except ForbiddenError as error:
                pause = DENIAL_SECONDS
                if self._watching.deny():
                    self._log.info(
                        "nodes may not be watched: leadership does not leave a cordoned node before its pod does",
                        error=str(error),
                    )
            except ApiError as error:
                pause = DENIAL_SECONDS if error.status in _HOPELESS else min(error.retry_after, longest)
                self._log.debug("the watch on the node failed", error=str(error))
            except TimeoutError:
                self._log.debug("the watch on the node has fallen silent")
            failures = failures + 1 if loop.time() - began < SHORT_WATCH else 0
            backoff = min(longest, first * 2 ** min(failures, 8)) * (0.5 + self._random.random() / 2)
            await asyncio.sleep(max(pause, backoff))

    async def finish(self) -> None:
        """See `Companion.finish`: there is nothing."""

    async def _watch(self) -> None:
        """Watch from the present on, until the API server ends it."""
        loop = asyncio.get_running_loop()
        seconds = self._random.randint(*WATCH_SECONDS)
        async with (
            asyncio.timeout(SILENCE) as limit,
            self._kube.watch("/api/v1/nodes", name=self._node, version=0, seconds=seconds) as events,
        ):
            if self._watching.allow():
                self._log.info("nodes may be watched again")
            async for event in events:
                limit.reschedule(loop.time() + SILENCE)
                self._take_in(is_cordoned(event.kind, event.body))

    def _take_in(self, cordoned: bool | None) -> None:  # noqa: FBT001 - what `is_cordoned` says
        if cordoned is None or cordoned == self._cordoned:
            return
        self._cordoned = cordoned
        if cordoned:
            self._log.info(
                "the node is cordoned: leadership goes to candidates elsewhere, if there are", node=self._node
            )
            self._candidate.abstain(WHY, patience=self._patience)
        else:
            self._log.info("the node is no longer cordoned", node=self._node)
            self._candidate.stand(WHY)
