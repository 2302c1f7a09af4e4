"""The answers on port 4040, and on the further addresses for probes and metrics.

On port 4040 `/`, every path that is not known and every method are answered as the stock image answers them: status 200
and `{"name":"X"}`. Scripts look for their own host name in that answer, so nothing else may be in it, headers included.
Whether this candidate leads is asked anew for every answer, and for every event that is told to a reader of `/events`.

Whoever can reach the port may ask. Only `/release` changes anything, and it is for this pod alone.
"""

from __future__ import annotations

import asyncio
import errno
import json
import logging
import secrets
import socket
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from ipaddress import IPv6Address, ip_address
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from aiohttp import hdrs, web
from aiohttp.http import HttpProcessingError, HttpVersion11
from multidict import CIMultiDict, CIMultiDictProxy
from yarl import URL

from sidecar.metrics import CONTENT_TYPE
from sidecar.record import format_time, go_json
from sidecar.stream import Stream

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from aiohttp.http import RawRequestMessage
    from aiohttp.typedefs import Handler, Middleware

    from sidecar.candidate import Candidate
    from sidecar.census import Taken

    _MakeRequest = Callable[..., web.BaseRequest]

BACKLOG = 128
"""Connections that may wait to be accepted."""

CONNECTION_LIMIT = 256
"""Open connections to port 4040, beside those of the readers of `/events`, who have a limit of their own. A process has
often no more than 1024 descriptors, and those to the API server decide who leads."""

FURTHER_LIMIT = 64
"""Open connections to each of the further addresses."""

ACCEPTED_AT_ONCE = 4
"""Connections taken in one turn of the loop. In the few turns until older ones are closed, the limit is exceeded."""

IDLE_SECONDS = 75.0
"""A connection over which no whole request head came for so long is closed, however busily bytes of one trickle in."""

LINGER_SECONDS = 1.0
"""How long a body that nobody asked for is read, and dropped, after the answer: closing at once could destroy that."""

RECEIVE_BUFFER = 2**14
"""Bytes that the system keeps of what a client sends. It bounds what one read returns, and so what garbage costs."""

SENT_UNREAD = 2**16
"""Bytes that a client may send while it does not read its answers; then it is disconnected."""

SEND_BUFFER = 2**14
"""Bytes that the system is asked to keep of what a reader of `/events` has not taken."""

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
    now: Callable[[], float]
    """The candidate's clock."""
    metrics: Callable[[], Awaitable[bytes]]
    """What there is to measure, as text for Prometheus."""


ELECTION = web.AppKey("election", Election)
LIMIT = web.AppKey("limit", int)
STREAM = web.AppKey("stream", Stream)
READING: web.AppKey[set[web.RequestHandler]] = web.AppKey("reading", set)
"""The connections of the readers of `/events`."""
DESCRIPTION = web.AppKey("description", bytes)


def application(election: Election) -> web.Application:
    """Return what answers for one candidate on port 4040."""
    app = _application(election, CONNECTION_LIMIT, _unknown_is_name)
    app[STREAM] = Stream(election.candidate, now=election.now, start=secrets.token_hex(4))
    # Now, because a slow disk must not hold up the loop in which the lock is renewed.
    app[DESCRIPTION] = Path(__file__).with_name("openapi.json").read_bytes()
    app.on_shutdown.append(_end_stream)
    app.add_routes(
        [
            web.get("/status", _status),
            web.get("/leader", _leader),
            web.get("/follower", _follower),
            web.get("/events", _events, allow_head=False),
            web.post("/release", _release),
            web.get("/openapi.json", _openapi),
            *_probes(),
            _metrics_route(),
            web.get("/", _name),
            # Unknown paths, and methods that the others do not have. Without it they would be errors at first, which
            # `_unknown_is_name` sees to as well, but aiohttp writes those with the parser for e-mail: 0.7 MiB.
            web.route("*", "/{unknown:.*}", _name),
        ]
    )
    return app


def further(election: Election, *, probes: bool, metrics: bool) -> web.Application:
    """Return what answers probes, or asks for metrics, or both, on an address of their own: 404 to all else."""
    app = _application(election, FURTHER_LIMIT, _unknown_is_404)
    app.add_routes([*(_probes() if probes else []), *([_metrics_route()] if metrics else [])])
    app.add_routes([web.route("*", "/{unknown:.*}", _not_found)])
    return app


def _application(election: Election, limit: int, middleware: Middleware) -> web.Application:
    app = web.Application(middlewares=[middleware])
    app[ELECTION] = election
    app[LIMIT] = limit
    app[READING] = set()
    app.on_response_prepare.append(_without_server)
    return app


def _probes() -> list[web.RouteDef]:
    return [web.get("/healthz", _health), web.get("/health", _health), web.get("/readyz", _ready)]


def _metrics_route() -> web.RouteDef:
    return web.get("/metrics", _metrics)


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
    options: dict[str, Any] = {
        "access_log": None,
        "logger": logger,
        "keepalive_timeout": IDLE_SECONDS,
        "lingering_time": LINGER_SECONDS,
        # Nobody reads a body, so nobody has to unpack one: a few of its bytes can stand for a million.
        "auto_decompress": False,
    }
    runner = web.AppRunner(app, handle_signals=False, shutdown_timeout=SHUTDOWN_TIMEOUT, **options)
    await runner.setup()
    server = runner.server
    if server is None:
        raise RuntimeError("the server has not begun")
    server.request_factory = partial(_request, server.request_factory)
    try:
        yield partial(_accept, runner, options, app[LIMIT], app[READING])
    finally:
        await runner.cleanup()


def _accept(
    runner: web.AppRunner, options: dict[str, Any], limit: int, apart: set[web.RequestHandler]
) -> asyncio.Protocol:
    """Take a connection, at the price of the oldest where there are too many; whoever opens hundreds keeps the last.

    Those that are `apart` are not counted.
    """
    if runner.server is None:
        raise RuntimeError("the server has ended")
    loop = asyncio.get_running_loop()
    # Just before this one is connected, and after those that were accepted with it: only then are they counted.
    loop.call_soon(_make_room, runner.server, limit, apart)
    return _Connection(runner.server, loop=loop, **options)


class _Connection(web.RequestHandler):
    """A connection whose client has to read its answers.

    aiohttp keeps up to 32 requests of a megabyte each, while an answer waits to be read.
    """

    __slots__ = ("_unread",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._unread = 0
        super().connection_made(transport)

    def data_received(self, data: bytes) -> None:
        if self.writing_paused:
            self._unread += len(data)
            if self._unread > SENT_UNREAD and self.transport is not None:
                self.transport.abort()
                return
        super().data_received(data)

    def resume_writing(self) -> None:
        self._unread = 0
        super().resume_writing()


def _make_room(server: web.Server, limit: int, apart: set[web.RequestHandler]) -> None:
    living = [connection for connection in server.connections if connection.connected and connection not in apart]
    for oldest in living[: max(0, len(living) + 1 - limit)]:
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
async def _unknown_is_name(request: web.Request, handler: Handler) -> web.StreamResponse:
    # No route matches: CONNECT, which has no path, and the like.
    return await _name(request) if request.match_info.http_exception else await handler(request)


@web.middleware
async def _unknown_is_404(request: web.Request, handler: Handler) -> web.StreamResponse:
    return await _not_found(request) if request.match_info.http_exception else await handler(request)


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


async def _events(request: web.Request) -> web.StreamResponse:
    transport = request.transport
    if transport is None or transport.is_closing():
        return await _name(request)  # to nobody
    response = web.StreamResponse(headers={hdrs.CONTENT_TYPE: "text/event-stream", hdrs.CACHE_CONTROL: "no-store"})
    response.force_close()
    await response.prepare(request)
    reader = _Reader(transport, chunked=request.version >= HttpVersion11)
    # Whatever comes after the request is dropped, and the end of the connection is told.
    request.protocol.set_parser(cast("Any", reader))
    reading = request.app[READING]
    reading.add(request.protocol)
    try:
        with request.app[STREAM].told_to(reader, request.headers.get("Last-Event-ID", "")):
            await reader.ended
    finally:
        reading.discard(request.protocol)
    return response


class _Reader:
    """A connection over which events are told. aiohttp's part of it, `feed_data` and `feed_eof`, is that of a parser.

    What is sent goes to the transport directly, because aiohttp would wait for a reader that does not keep up.
    """

    def __init__(self, transport: asyncio.Transport, *, chunked: bool) -> None:
        self._transport = transport
        self._chunked = chunked
        self.is_near = _is_loopback(transport)
        self.ended = asyncio.get_running_loop().create_future()
        connection = transport.get_extra_info("socket")
        if connection is not None:
            connection.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, SEND_BUFFER)

    def write(self, data: bytes) -> None:
        if not self._transport.is_closing():
            self._transport.write(b"%x\r\n%b\r\n" % (len(data), data) if self._chunked else data)

    def is_behind(self) -> bool:
        return self._transport.get_write_buffer_size() > 0

    def end(self) -> None:
        if not self.ended.done():
            self.ended.set_result(None)

    def drop(self) -> None:
        self._transport.abort()
        self.end()

    def feed_data(self, _data: bytes) -> tuple[bool, bytes]:
        return False, b""

    def feed_eof(self) -> None:
        self.end()


async def _end_stream(app: web.Application) -> None:
    app[STREAM].close()


async def _release(request: web.Request) -> web.Response:
    # A browser on this machine may be led here by any page. It says so: it sends `Origin` with every POST.
    if request.transport is None or not _is_loopback(request.transport) or hdrs.ORIGIN in request.headers:
        return web.Response(text="only for programs in this pod\n", status=403)
    released = request.app[ELECTION].candidate.step_down("was asked to step down on port 4040")
    return web.Response(body=go_json({"released": released}).encode(), content_type="application/json")


def _is_loopback(transport: asyncio.BaseTransport) -> bool:
    peer = transport.get_extra_info("peername")
    if not isinstance(peer, tuple):
        return False
    address = ip_address(peer[0])
    mapped = address.ipv4_mapped if isinstance(address, IPv6Address) else None
    return (mapped or address).is_loopback


async def _metrics(request: web.Request) -> web.Response:
    return web.Response(body=await request.app[ELECTION].metrics(), headers={hdrs.CONTENT_TYPE: CONTENT_TYPE})


async def _openapi(request: web.Request) -> web.Response:
    return web.Response(body=request.app[DESCRIPTION], content_type="application/json")


async def _not_found(_request: web.Request) -> web.Response:
    return web.Response(text="not found\n", status=404)


async def _health(request: web.Request) -> web.Response:
    return _yes_or_no(request.app[ELECTION].candidate.is_alive(), "ok", "the election loop has stalled")


async def _ready(request: web.Request) -> web.Response:
    return _yes_or_no(request.app[ELECTION].candidate.is_ready(), "ok", "the lock object was not seen yet")


def _yes_or_no(answer: bool, yes: str, no: str) -> web.Response:  # noqa: FBT001 - a question and its answer
    return web.Response(text=(yes if answer else no) + "\n", status=200 if answer else 503)
