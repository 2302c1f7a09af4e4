"""The stock-like peer has to have the stock image's quirks, one by one: they are what ours must live with."""

from __future__ import annotations

import asyncio
import json
from contextlib import suppress
from random import Random
from typing import TYPE_CHECKING, Any

import pytest

from sidecar.kube import ApiError, ConflictError, KubeClient, NotFoundError
from sidecar.lab import virtualtime
from sidecar.lab.virtualtime import VirtualClock
from sidecar.record import CLAIM_ANNOTATION, RECORD_ANNOTATION
from tests.safety.simulate.stockpeer import StockPeer

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

TTL = 10


class OneObject(KubeClient):
    """A client of an API server with one object, which can be asked to fail."""

    def __init__(self) -> None:
        self.body: dict[str, Any] | None = None
        self.asked: list[tuple[float, str]] = []
        self.hangs = False
        self.loses_the_race = False

    async def _take(self, verb: str) -> None:
        self.asked.append((asyncio.get_running_loop().time(), verb))
        if self.hangs:
            await asyncio.get_running_loop().create_future()

    async def get(self, path: str) -> Mapping[str, Any]:
        """See `KubeClient`."""
        await self._take("get")
        if self.body is None:
            raise NotFoundError(path, status=404)
        return self.body

    async def create(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient`."""
        await self._take("create")
        if self.loses_the_race:
            raise ConflictError(path, status=409)
        self.body = {**body}
        return self.body

    async def update(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
        """See `KubeClient`."""
        await self._take(f"update {path}")
        self.body = {**body}
        return self.body

    @property
    def record(self) -> dict[str, Any]:
        """The record."""
        assert self.body is not None
        record: dict[str, Any] = json.loads(self.body["metadata"]["annotations"][RECORD_ANNOTATION])
        return record

    def put(self, record: Mapping[str, Any] | str | None, **annotations: str) -> None:
        """Put an object there."""
        text = record if isinstance(record, str) else json.dumps(record)
        found = {**annotations, **({} if record is None else {RECORD_ANNOTATION: text})}
        self.body = {"metadata": {"name": "example", "annotations": found}, "subsets": []}


def held_by(holder: str, *, lease: int = TTL, transitions: int = 3) -> dict[str, Any]:
    """Return a record."""
    time = "2023-11-14T22:13:20Z"
    return {
        "holderIdentity": holder,
        "leaseDurationSeconds": lease,
        "acquireTime": time,
        "renewTime": time,
        "leaderTransitions": transitions,
    }


def play(client: OneObject, main: Callable[[OneObject], Awaitable[None]]) -> None:
    """Let a stock peer `a` take part while `main` runs; what it dies of is raised."""

    async def both() -> None:
        peer = StockPeer(
            client,
            namespace="default",
            election="example",
            identity="a",
            ttl=TTL,
            clock=VirtualClock(),
            random=Random(1),  # noqa: S311 - plays, protects nothing
        )
        task = asyncio.create_task(peer.run())
        await main(client)
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task

    virtualtime.run(both())


def test_it_polls_and_writes_with_two_requests() -> None:
    """It renews each retry period, with a GET and a PUT, and resets `leaderTransitions` as it does."""

    async def main(client: OneObject) -> None:
        await asyncio.sleep(2.6 * TTL)
        assert [verb for _, verb in client.asked[-4:]] == ["get", f"update {PATH}"] * 2
        assert client.asked[-1][0] - client.asked[-3][0] == pytest.approx(TTL / 4, abs=0.01)
        assert (client.record["holderIdentity"], client.record["leaderTransitions"]) == ("a", 0)

    client = OneObject()
    client.put(held_by(""))
    play(client, main)


PATH = "/api/v1/namespaces/default/endpoints/example"


@pytest.mark.parametrize("holder", ["b", ""])
def test_it_waits_its_own_ttl_also_after_a_release(holder: str) -> None:
    """Neither the lease in the record nor that it was released shortens its wait; its take-over counts up."""

    async def main(client: OneObject) -> None:
        await asyncio.sleep(TTL - 0.01)
        assert client.record["holderIdentity"] == holder
        async with asyncio.timeout(0.6 * TTL):
            while client.record["holderIdentity"] == holder:  # noqa: ASYNC110 - virtual time costs nothing
                await asyncio.sleep(0.01)
        assert (client.record["holderIdentity"], client.record["leaderTransitions"]) == ("a", 4)

    client = OneObject()
    client.put(held_by(holder, lease=1))
    play(client, main)


def test_its_own_name_is_itself() -> None:
    """A record in its name is renewed at once, whoever wrote it; a claim beside it stays as it is."""

    async def main(client: OneObject) -> None:
        await asyncio.sleep(0.1)
        assert client.record["leaderTransitions"] == 0
        assert client.body is not None
        assert client.body["metadata"]["annotations"][CLAIM_ANNOTATION] == "ours"
        assert client.body["subsets"] == []

    client = OneObject()
    client.put(held_by("a"), **{CLAIM_ANNOTATION: "ours"})
    play(client, main)


def test_it_takes_what_has_no_record() -> None:
    """An object without a record is taken at once; so is one that is deleted while it leads."""

    async def main(client: OneObject) -> None:
        await asyncio.sleep(0.1)
        assert client.record["holderIdentity"] == "a"
        client.body = None
        await asyncio.sleep(TTL / 2)
        assert client.record["holderIdentity"] == "a"

    client = OneObject()
    client.put(None)
    play(client, main)


def test_it_dies_when_it_loses_the_race_at_its_start() -> None:
    """Where somebody else made the lock object between its look and its create, it exits."""

    async def main(_: OneObject) -> None:
        await asyncio.sleep(1)

    client = OneObject()
    client.loses_the_race = True
    with pytest.raises(ConflictError):
        play(client, main)


def test_it_leaves_alone_what_it_cannot_read() -> None:
    """A record that is no JSON is never written over."""

    async def main(client: OneObject) -> None:
        await asyncio.sleep(5 * TTL)
        assert {verb for _, verb in client.asked} == {"get"}

    client = OneObject()
    client.put("{")
    play(client, main)


def test_it_never_gives_up_a_request() -> None:
    """While a request hangs it sends no other, for as long as that takes."""

    async def main(client: OneObject) -> None:
        await asyncio.sleep(1)
        client.hangs = True
        await asyncio.sleep(100 * TTL)
        assert client.asked[-1][0] < 1 + TTL

    client = OneObject()
    client.put(None)
    play(client, main)


def test_errors_are_tried_again() -> None:
    """A failure after its start costs an attempt, not the process."""

    class Failing(OneObject):
        async def update(self, path: str, body: Mapping[str, Any]) -> Mapping[str, Any]:
            if len(self.asked) < 10:
                await self._take("failed")
                raise ApiError(path, status=500)
            return await super().update(path, body)

    async def main(client: OneObject) -> None:
        await asyncio.sleep(5 * TTL)
        assert client.record["holderIdentity"] == "a"

    client = Failing()
    client.put(held_by(""))
    play(client, main)
