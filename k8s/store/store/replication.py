"""The port for the other replicas. Whoever can reach it can change what is stored: no client may."""

from __future__ import annotations

import asyncio
import json
from contextlib import aclosing, suppress
from dataclasses import dataclass
from http import HTTPStatus
from typing import TYPE_CHECKING

from aiohttp import web

from store.answers import answer_errors, key_of, read, told, write
from store.log import BehindError, FencedError
from store.peers import LINE_BYTES, REQUEST_SECONDS, append_from, standing_to
from store.replica import NotReadyError

if TYPE_CHECKING:
    from aiohttp.typedefs import Handler

    from store.node import Node


@dataclass(frozen=True, slots=True)
class Replication:
    """What is answered to the other replicas."""

    node: Node

    def application(self) -> web.Application:
        """Return the application."""
        application = web.Application(client_max_size=LINE_BYTES, middlewares=[answer_errors, _answer_refusals])
        application.add_routes(
            [
                web.get("/standing", self.standing),
                web.post("/prepare", self.prepare),
                web.post("/append", self.append),
                web.get("/copy", self.copy, allow_head=False),
                web.post("/leader/GET/{key}", self.get),
                web.post("/leader/PUT/{key}", self.put),
                web.post("/leader/DELETE/{key}", self.delete),
            ]
        )
        return application

    async def standing(self, _: web.Request) -> web.Response:
        """Answer how far this replica is."""
        return web.json_response(standing_to(self.node.replica.log.standing))

    async def prepare(self, request: web.Request) -> web.Response:
        """Promise a leader to refuse smaller tokens than its own."""
        token = (await request.json())["token"]
        return web.json_response(standing_to(await self.node.replica.promise(int(token))))

    async def append(self, request: web.Request) -> web.Response:
        """Store what a leader sends."""
        await self.node.replica.accept(append_from(await request.json()))
        return web.json_response({})

    async def copy(self, request: web.Request) -> web.StreamResponse:
        """Send the log, line by line. One that cannot be sent to its end lacks the last line."""
        token, after = int(request.query["token"]), int(request.query["after"])
        if token != self.node.replica.log.promised:
            raise FencedError(self.node.replica.log.promised)
        response = web.StreamResponse()
        await response.prepare(request)
        with suppress(FencedError, TimeoutError):
            async with aclosing(self.node.replica.copied(token, after)) as lines:
                async for line in lines:
                    async with asyncio.timeout(REQUEST_SECONDS):
                        await response.write(json.dumps(line).encode() + b"\n")
        return response

    # What followers pass on. It ends here: one that does not lead passes nothing on.

    async def get(self, request: web.Request) -> web.Response:
        """Read as the leader."""
        return await read(self.node, key_of(request), consistent=True)

    async def put(self, request: web.Request) -> web.Response:
        """Store as the leader."""
        return await write(self.node, key_of(request), await request.read())

    async def delete(self, request: web.Request) -> web.Response:
        """Delete as the leader."""
        return await write(self.node, key_of(request), None)


@web.middleware
async def _answer_refusals(request: web.Request, handler: Handler) -> web.StreamResponse:
    try:
        return await handler(request)
    except FencedError as error:
        return told(HTTPStatus.FORBIDDEN, str(error), promised=error.promised)
    except BehindError as error:
        return told(HTTPStatus.CONFLICT, str(error), committed=error.committed)
    except NotReadyError:
        return told(HTTPStatus.SERVICE_UNAVAILABLE, "this volume is new, and the others have not been asked yet")
    except (ValueError, KeyError, TypeError) as error:
        return told(HTTPStatus.BAD_REQUEST, f"not understood: {error!r}")
