"""A candidate as the stock image is one: client-go's leader election of 2016, with its quirks.

It polls with a GET each retry period, and writes with a GET and a PUT; it never watches, and never releases.

* A renewal resets `leaderTransitions` to 0: the count is only set when the holder changes.
* It waits its own ttl, not the record's lease, from when it saw the record change; so also after a release.
* A holder under its own name is itself, whoever that is. It renews, or resumes, without waiting.
* A lock object that is not there, or has no record, is free.
* At its start it makes the lock object where there is none, and dies when somebody else made it first.
* A record that it cannot read it neither takes over nor repairs.
* Its requests have no time-out: while one hangs, nothing else happens, and a leader does not give up.
* Whatever else stands in the lock object is sent back as it came, a claim of ours included.
"""

from __future__ import annotations

import asyncio
import json
from typing import TYPE_CHECKING, Any, Final

from sidecar.kube import ApiError, NotFoundError
from sidecar.record import RECORD_ANNOTATION, format_time

if TYPE_CHECKING:
    from collections.abc import Mapping
    from random import Random

    from sidecar.candidate import Clock
    from sidecar.kube import KubeClient

_JITTER: Final = 1.2
"""client-go's: an attempt to acquire follows the last one after the retry period, up to 1.2 times longer."""


class StockPeer:
    """One candidate. `run` takes part for ever, and raises `ApiError` where the stock image exits."""

    def __init__(
        self,
        kube: KubeClient,
        *,
        namespace: str,
        election: str,
        identity: str,
        ttl: int,
        clock: Clock,
        random: Random,
    ) -> None:
        self._kube = kube
        self._collection = f"/api/v1/namespaces/{namespace}/endpoints"
        self._path = f"{self._collection}/{election}"
        self._election = election
        self._identity = identity
        self._ttl = ttl
        self._retry_period = ttl / 4
        self._renew_deadline = ttl / 2
        self._clock = clock
        self._random = random
        self._observed: Mapping[str, Any] = {}
        self._observed_at = 0.0
        self.heard_at = float("-inf")
        """When, by its clock, a request was last answered."""

    async def run(self) -> None:
        """Take part."""
        try:
            await self._kube.get(self._path)
        except NotFoundError:
            await self._kube.create(self._collection, self._made({}))
        while True:
            while not await self._try():  # noqa: ASYNC110 - polling is what the stock image does
                await asyncio.sleep(self._retry_period * (1 + _JITTER * self._random.random()))
            renewed_at = self._clock.now()
            while self._clock.now() - renewed_at < self._renew_deadline:
                await asyncio.sleep(self._retry_period)
                if await self._try():
                    renewed_at = self._clock.now()

    async def _try(self) -> bool:
        """Acquire or renew, as `tryAcquireOrRenew` does; tell whether the lock is held."""
        try:
            return await self._acquire_or_renew()
        except ApiError:
            return False

    async def _acquire_or_renew(self) -> bool:
        record = {
            "holderIdentity": self._identity,
            "leaseDurationSeconds": self._ttl,
            "acquireTime": format_time(int(self._clock.wall())),
            "renewTime": format_time(int(self._clock.wall())),
            "leaderTransitions": 0,
        }
        try:
            body = await self._kube.get(self._path)
        except NotFoundError:
            await self._kube.create(self._collection, self._made({RECORD_ANNOTATION: _encoded(record)}))
            self._observe(record)
            return True
        self.heard_at = self._clock.now()
        annotations = body["metadata"].get("annotations") or {}
        if (text := annotations.get(RECORD_ANNOTATION)) is not None:
            try:
                old = json.loads(text)
            except ValueError:
                return False
            if old != self._observed:
                self._observe(old)
            if old["holderIdentity"] == self._identity:
                record["acquireTime"] = old["acquireTime"]
            elif self._clock.now() < self._observed_at + self._ttl:
                return False
            else:
                record["leaderTransitions"] = old["leaderTransitions"] + 1
        else:
            record["leaderTransitions"] = 1
        metadata = {**body["metadata"], "annotations": {**annotations, RECORD_ANNOTATION: _encoded(record)}}
        await self._kube.update(self._path, {**body, "metadata": metadata})
        self._observe(record)
        return True

    def _observe(self, record: Mapping[str, Any]) -> None:
        self._observed = record
        self._observed_at = self._clock.now()

    def _made(self, annotations: Mapping[str, str]) -> Mapping[str, Any]:
        metadata = {"name": self._election, "annotations": annotations}
        return {"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata}


def _encoded(record: Mapping[str, Any]) -> str:
    return json.dumps(record, separators=(",", ":"))
