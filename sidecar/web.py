"""The answers on port 4040.

`/`, every path that is not known and every method are answered as the stock image answers them: status 200 and
`{"name":"X"}`. Scripts look for their own host name in that answer, so nothing else may be in it, headers included.
Whether this candidate leads is asked anew for every answer.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from sidecar.record import format_time, go_json

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable

    from aiohttp.http import RawRequestMessage
    from aiohttp.typedefs import Handler

    from sidecar.candidate import Candidate
    from sidecar.census import Taken

    _MakeRequest = Callable[..., web.BaseRequest]

BACKLOG = 128
"""Connections that may wait to be accepted."""

CONNECTION_LIMIT = 256
"""Open connections. A process has often no more than 1024 descriptors, and those to the API server decide who leads."""

ACCEPTED_AT_ONCE = 4
"""Connections taken in one turn of the loop. In the few turns until older ones are closed, the limit is exceeded."""

IDLE_SECONDS = 75.0
"""A connection over which no whole request head came for so long is closed, however busily bytes of one trickle in."""

LINGER_SECONDS = 1.0
"""How long a body that nobody asked for is read, and dropped, after the answer: closing at once could destroy that."""

RECEIVE_BUFFER = 2**14
"""Bytes that the system keeps of what a client sends. It bounds what one read returns, and so what garbage costs."""

SHUTDOWN_TIMEOUT = 0.5
"""Seconds that a request under way may take once the server stops."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Election:
    """The election that is told about."""

    name: str
    namespace: str
    group: str
    """The group of the election; `""` where nodes do not matter."""
    candidate: Candidate


ELECTION = web.AppKey("election", Election)


def application(election: Election) -> web.Application:
    """Return what answers for one candidate."""
    app = web.Application(middlewares=[_unknown])
    app[ELECTION] = election
    app.on_response_prepare.append(_without_server)
    app.add_routes(
        [
            web.get("/status", _status),
            web.get("/leader", _leader),
            web.get("/follower", _follower),
            web.get("/healthz", _health),
            web.get("/health", _health),
            web.get("/readyz", _ready),
            web.get("/", _name),
            # Unknown paths, and methods that the others do not have. Without it they would be errors at first, which
            # `_unknown` sees to as well, but aiohttp writes those with the parser for e-mail: 0.7 MiB.
            web.route("*", "/{unknown:.*}", _name),
        ]
    )
    return app


@asynccontextmanager
async def serving(app: web.Application, host: str | None, port: int) -> AsyncIterator[list[int]]:
    """Answer on an address while the block runs; yields the ports. `host` `None` is every interface, IPv4 and IPv6.

    Raises OSError when the address cannot be listened on.
    """
    loop = asyncio.get_running_loop()
    async with connections(app) as accept:
        servers: list[asyncio.Server] = []
        try:
            for listener in _listen(host, port):
                # Whoever is accepted has the same.
                listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, RECEIVE_BUFFER)
                # For asyncio a backlog is also how many it accepts in one turn. How many may wait is told the system.
                servers += [await loop.create_server(accept, sock=listener, backlog=ACCEPTED_AT_ONCE)]
                listener.listen(BACKLOG)
            yield [listening.getsockname()[1] for server in servers for listening in server.sockets]
        finally:
            for server in servers:
                server.close()


@asynccontextmanager
async def connections(app: web.Application) -> AsyncIterator[Callable[[], asyncio.Protocol]]:
    """Yield what answers on one connection, to be called for each; all of them are closed after the block."""
    logger = logging.getLogger(__name__)
    logger.addFilter(_is_ours)
    runner = web.AppRunner(
        app,
        access_log=None,
        handle_signals=False,
        shutdown_timeout=SHUTDOWN_TIMEOUT,
        logger=logger,
        keepalive_timeout=IDLE_SECONDS,
        lingering_time=LINGER_SECONDS,
        # Nobody reads a body, so nobody has to unpack one: a few of its bytes can stand for a million.
        auto_decompress=False,
    )
    await runner.setup()
    server = runner.server
    if server is None:
        raise RuntimeError("the server has not begun")
    server.request_factory = partial(_request, server.request_factory)
    try:
        yield partial(_accept, runner)
    finally:
        await runner.cleanup()


def _accept(runner: web.AppRunner) -> asyncio.Protocol:
    """Take a connection, at the price of the oldest where there are too many; whoever opens hundreds keeps the last."""
    if runner.server is None:
        raise RuntimeError("the server has ended")
    # Just before this one is connected, and after those that were accepted with it: only then are they counted.
    asyncio.get_running_loop().call_soon(_make_room, runner.server)
    return runner.server()


def _make_room(server: web.Server) -> None:
    living = [connection for connection in server.connections if connection.connected]
    for oldest in living[: max(0, len(living) + 1 - CONNECTION_LIMIT)]:
        oldest.force_close()


def _request(make: _MakeRequest, message: RawRequestMessage, *rest: Any) -> web.BaseRequest:  # noqa: ANN401 - aiohttp's
    """Make what handlers are given, without what aiohttp's own would stumble over.

    A CONNECT without a target has no URL. What a client expects, `100-continue` or anything, is nobody's business: it
    is answered at once, and its body not waited for. An unknown expectation would be repeated to it, and one that is no
    text end as an error of the program.
    """
    if message.url is None:
        message = message._replace(url=URL("/"))
    if hdrs.EXPECT in message.headers:
        headers = CIMultiDict(message.headers)
        del headers[hdrs.EXPECT]
        message = message._replace(headers=CIMultiDictProxy(headers))
    return make(message, *rest)


def _listen(host: str | None, port: int) -> list[socket.socket]:
    """Return a socket for every interface, as Go's `net.Listen` does it, or one for each address that `host` has.

    A host may have an address of a family that the machine does not have (`localhost` and `::1` in a container).
    """
    if host is None and socket.has_dualstack_ipv6():
        try:
            return [socket.create_server(("", port), family=socket.AF_INET6, dualstack_ipv6=True, backlog=BACKLOG)]
        except OSError as error:
            if error.errno not in _NO_SUCH_FAMILY:
                raise
    try:
        found = socket.getaddrinfo(
            host or "0.0.0.0",  # noqa: S104 - what was asked for
            port,
            type=socket.SOCK_STREAM,
            flags=socket.AI_PASSIVE,
        )
    except UnicodeError as error:
        # An empty label, or one of more than 63 characters, is refused before anybody is asked.
        raise socket.gaierror(socket.EAI_NONAME, "not a name that a host can have") from error
    listeners: list[socket.socket] = []
    refusal = OSError(errno.EADDRNOTAVAIL, f"{host} has no address")
    for family, _, _, _, address in dict.fromkeys(found):
        try:
            listeners.append(socket.create_server(address, family=family, backlog=BACKLOG))
        except OSError as error:
            refusal = error
            if error.errno not in _NO_SUCH_FAMILY:
                break
    else:
        if listeners:
            return listeners
    for listener in listeners:
        listener.close()
    raise refusal


_NO_SUCH_FAMILY = {errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT}


def _is_ours(record: logging.LogRecord) -> bool:
    """Tell whether an error is the program's: a request that is no HTTP is answered with 400, and is its sender's."""
    return not (record.exc_info and isinstance(record.exc_info[1], HttpProcessingError | web.RequestPayloadError))


@web.middleware
async def _unknown(request: web.Request, handler: Handler) -> web.StreamResponse:
    # No route matches: CONNECT, which has no path, and the like.
    return await _name(request) if request.match_info.http_exception else await handler(request)


async def _without_server(_request: web.Request, response: web.StreamResponse) -> None:
    # The name and version of the HTTP library are nobody's business, and a host may be called like one of them.
    response.headers.popall(hdrs.SERVER, None)


async def _name(request: web.Request) -> web.Response:
    name = request.app[ELECTION].candidate.leader_name()
    return web.Response(body=go_json({"name": name}).encode(), content_type="application/json")


async def _status(request: web.Request) -> web.Response:
    election = request.app[ELECTION]
    status = election.candidate.status()
    told = {
        "election": election.name,
        "namespace": election.namespace,
        "identity": status.identity,
        "node": status.node,
        "role": status.role,
        "leader": {"name": status.leader, "node": status.leader_node},
        "fencing_token": status.fencing_token,
        "since": status.since,
        "valid_for": status.valid_for,
        "transitions": status.transitions,
        "why": status.why,
        "balance": {"group": election.group, "why": status.placing, "census": _census(status.census)},
        "last_error": status.last_error,
    }
    return web.Response(text=json.dumps(told, indent=2) + "\n", content_type="application/json")


def _census(taken: Taken | None) -> dict[str, object] | None:
    if taken is None:
        return None
    return {
        "at": format_time(taken.at),
        "elections": len(taken.census.elections),
        "nodes": taken.census.loads(),
    }


async def _leader(request: web.Request) -> web.Response:
    return _yes_or_no(request.app[ELECTION].candidate.is_leading(), "leading", "not leading")


async def _follower(request: web.Request) -> web.Response:
    role = request.app[ELECTION].candidate.status().role
    return _yes_or_no(role == "following", role, role)


async def _health(request: web.Request) -> web.Response:
    return _yes_or_no(request.app[ELECTION].candidate.is_alive(), "ok", "the election loop has stalled")


async def _ready(request: web.Request) -> web.Response:
    return _yes_or_no(request.app[ELECTION].candidate.is_ready(), "ok", "the lock object was not seen yet")


def _yes_or_no(answer: bool, yes: str, no: str) -> web.Response:  # noqa: FBT001 - a question and its answer
    return web.Response(text=(yes if answer else no) + "\n", status=200 if answer else 503)
