"""The port for clients. Reads are answered here; what only the leader can do is passed on to it."""

from __future__ import annotations

import time
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING, Literal
from urllib.parse import quote

import aiohttp
from aiohttp import web

from store.answers import SEQUENCE, VALUE_BYTES, answer_errors, key_of, read, write
from store.leader import WRITE_SECONDS, NotStoredError, UnknownError
from store.peers import REQUEST_SECONDS

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from store.metrics import Metrics
    from store.node import Node

FORWARD_SECONDS = WRITE_SECONDS + 2
"""Within which the leader has to answer a follower. After `WRITE_SECONDS` it says itself that it does not know."""

PASSED_ON = ("Content-Type", "Retry-After", SEQUENCE)
"""The headers of the leader's answer that a client gets."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Clients:
    """What is answered on the port for clients."""

    node: Node
    session: aiohttp.ClientSession
    writes: Literal["forward", "redirect"]
    redirect_to: str
    metrics: Metrics

    def application(self) -> web.Application:
        """Return the application."""
        application = web.Application(client_max_size=VALUE_BYTES, middlewares=[self._measure, answer_errors])
        application.add_routes(
            [
                web.get("/kv/{key}", self.get, allow_head=False),
                web.put("/kv/{key}", self.change),
                web.delete("/kv/{key}", self.change),
                web.get("/healthz", self.healthz),
                web.get("/readyz", self.readyz),
                web.get("/role", self.role),
                web.get("/metrics", self.exposition),
            ]
        )
        return application

    async def get(self, request: web.Request) -> web.StreamResponse:
        """Answer with a key's value here, whoever leads; or with the leader's."""
        key, consistent = key_of(request), request.query.get("consistent") == "1"
        if consistent and self.node.leader is None:
            return await self._pass_on(request, key)
        return await read(self.node, key, consistent=consistent)

    async def change(self, request: web.Request) -> web.StreamResponse:
        """Store a value, or delete it: here if this replica leads, else through the one that does."""
        key = key_of(request)
        if self.node.leader is None:
            return await self._pass_on(request, key)
        return await write(self.node, key, await request.read() if request.method == "PUT" else None)

    async def _pass_on(self, request: web.Request, key: str) -> web.Response:
        leader = self.node.replica.peers.get(self.node.leadership.name)
        if leader is None:
            raise NotStoredError("nobody leads at the moment")
        if self.writes == "redirect":
            location = self.redirect_to.replace("{name}", leader.name) + request.path_qs
            return web.Response(status=HTTPStatus.TEMPORARY_REDIRECT, headers={"Location": location})
        # POST, because a request with PUT is repeated by itself when a kept connection turns out to be closed: what
        # was stored then would be stored again, over what came between.
        url = f"http://{leader.address}/leader/{request.method}/{quote(key, safe='')}"
        limits = aiohttp.ClientTimeout(total=FORWARD_SECONDS, sock_connect=REQUEST_SECONDS)
        try:
            async with self.session.post(url, data=await request.read(), timeout=limits) as answer:
                headers = {name: answer.headers[name] for name in PASSED_ON if name in answer.headers}
                return web.Response(status=answer.status, body=await answer.read(), headers=headers)
        except (aiohttp.ClientConnectorError, aiohttp.ConnectionTimeoutError) as error:
            raise NotStoredError(f"the leader, {leader.name}, cannot be reached") from error
        except (aiohttp.ClientError, TimeoutError) as error:
            raise UnknownError(f"the leader, {leader.name}, did not answer") from error

    async def healthz(self, _: web.Request) -> web.Response:
        """Answer 200, unless the disk fails or hangs."""
        return _state(ok=not self.node.replica.failing)

    async def readyz(self, _: web.Request) -> web.Response:
        """Answer 200 once this replica has been where a leader was, since it started."""
        return _state(ok=self.node.replica.in_step or self.node.serves)

    async def role(self, _: web.Request) -> web.Response:
        """Answer with the part that this replica has."""
        log = self.node.replica.log
        return web.json_response(
            {
                "name": self.node.replica.name,
                "role": "leader" if self.node.serves else "follower",
                "leader": self.node.leadership.name or None,
                "token": self.node.leadership.token,
                "sequence": log.last.sequence,
                "committed": log.committed,
            }
        )

    async def exposition(self, _: web.Request) -> web.Response:
        """Answer with the metrics."""
        return web.Response(body=self.metrics.exposition(), headers={"Content-Type": self.metrics.content_type})

    @web.middleware
    async def _measure(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        began = time.monotonic()
        response = await handler(request)
        self.metrics.answered(request.method, response.status, time.monotonic() - began)
        return response


def _state(*, ok: bool) -> web.Response:
    return web.Response(text="ok\n" if ok else "no\n", status=HTTPStatus.OK if ok else HTTPStatus.SERVICE_UNAVAILABLE)
